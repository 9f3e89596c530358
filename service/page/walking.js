// The keyboard among the hits: arrows go from card to card, `m` and `l` ask for more and for less like one.

/** Does what a key says at the card that has the focus by now. */
export function walk(key, list, hitOf, on) {
  const card = document.activeElement.closest("li[data-key]");
  if (!card) return;
  if (key === "m" || key === "l") return on.like(hitOf(card.dataset.key), key === "l");
  const next = beside(card, list, key);
  if (next) {
    next.querySelector(".open").focus();
    next.scrollIntoView({ block: "nearest" });
  } else if (key === "ArrowUp") {
    document.getElementById("words").focus();
  } else if (key === "ArrowDown") {
    scrollTo({ top: document.body.scrollHeight }); // where more comes
  }
}

function beside(card, list, key) {
  const cards = [...list.querySelectorAll("li[data-key]")];
  if (key === "Home") return cards[0];
  if (key === "End") return cards.at(-1);
  if (key === "ArrowDown" || key === "ArrowUp") return nearest(cards, card, key === "ArrowDown");
  const isForward = (key === "ArrowRight") === (getComputedStyle(list).direction !== "rtl");
  return cards[cards.indexOf(card) + (isForward ? 1 : -1)];
}

/** The card in the next row, in the same column or the last one there. */
function nearest(cards, card, isDown) {
  const step = isDown ? 1 : -1;
  let place = cards.indexOf(card);
  const top = card.offsetTop;
  while (cards[place] && cards[place].offsetTop === top) place += step;
  if (!cards[place]) return null;
  const row = cards.filter((one) => one.offsetTop === cards[place].offsetTop);
  return row.reduce((best, one) => (Math.abs(one.offsetLeft - card.offsetLeft) < Math.abs(best.offsetLeft - card.offsetLeft) ? one : best));
}
