// What panels say, in German.

export const sentences = {
  close: "Schließen", copyKey: "Schlüssel kopieren", copyImage: "Bildadresse kopieren", openImage: "Bild öffnen", copied: "Kopiert",
  earlier: "Voriger", later: "Nächster", rank: "Rang", metadata: "Metadaten", pools: "Bestände", none: "keine", why: "Warum es passt",
  whyImage: "das Bild", whyText: "die Wörter", whyKey: "wie {key}", less_: "weniger wie", request: "Diese Suche als Code", times: "Wo die Zeit blieb",
  explain: "Diese Suche erklären", copy: "Kopieren", total: "gesamt", characters: "... noch {n} Zeichen", read: "lesen", decode: "dekodieren",
  queue: "warten", encode: "einbetten", search: "suchen", rerank: "neu ordnen",
  keyTitle: "Dieser Dienst verlangt einen Schlüssel", keyLabel: "API-Schlüssel", keyUse: "Diesen Schlüssel verwenden",
  keyForget: "Schlüssel vergessen", keyHint: "Er wird behalten, bis dieser Tab geschlossen wird, und steht nie in einem Link.",
  keyWrong: "Ein Schlüssel hat keine Leerzeichen und nur ASCII-Zeichen.",
};
