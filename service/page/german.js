// What the page says, in German.

export const sentences = {
  add: "Hinzufügen", ask: "Wörter, Bilder oder beides", clear: "Leeren", pick: "Bilder hinzufügen", shoot: "Foto aufnehmen", picture: "Bild",
  words: "Wörter", pictures: "Bilder", balance: "Anteil der Wörter", chips: "Wonach gesucht wird",
  positive: "So wie dies: drücken für weniger davon", negative: "Weniger davon: drücken für so wie dies", remove: "Entfernen",
  all: "Alles", image: "Bilder", text: "Texte", fused: "Seiten", modality: "Art", pool: "Bestand", everywhere: "Ganzer Korpus",
  match: "Treffer nach", meaning: "Bedeutung", exact: "Genaue Wörter", both: "Beides", fold: "Fast Gleiche zusammenfassen", filters: "Filter",
  oneImage: "Bild", oneText: "Text", oneFused: "Seite",
  more: "Mehr davon", less: "Weniger davon",
  score: "Wert", similar: "{n} ähnliche",
  line: "Unter dieser Linie passen Treffer kaum besser als durch Zufall", nothingClear: "Nichts passt eindeutig. Dies liegt am nächsten.",
  found: "Gezeigt: {n}", relevant: "Treffer: {n}", end: "Das ist alles.", depth: "Weiter sucht der Dienst nicht.",
  moved: "Der Index hat sich inzwischen geändert; Weiteres ist, wie es jetzt ist.", took: "{ms} ms",
  busy: "Der Dienst ist ausgelastet. Neuer Versuch in {n} s ...", starting: "Der Dienst ist noch nicht bereit. Neuer Versuch in {n} s ...",
  away: "Der Dienst antwortet nicht. Neuer Versuch in {n} s ...",
  lost: "Ein Bild aus diesem Link gab es nur dort, wo es hinzugefügt wurde.", notPicture: "Hier lassen sich nur Bilder hinzufügen.",
  drop: "Loslassen, um damit zu suchen", code: "Als Code",
  cached: "aus dem Zwischenspeicher",
  tagline: "Durchsuche {n} Einträge mit Wörtern, Bildern oder beidem.", tries: "Zum Beispiel",
  hint: "Tippe, füge ein Bild ein oder zieh einen Treffer ins Feld. / springt ins Feld, Pfeile gehen durch die Treffer, m findet mehr davon.",
  model: "Modell {name}, {width} Zahlen", docs: "API", language: "English", key: "API-Schlüssel",
  hits: "Ergebnisse",
};
