"use strict";
// Filters, sorts and opens the cards of the page; without it all of them are there, one after
// the other.

const dialog = document.querySelector("dialog");
let opened = null; // the card that the dialog shows

function textOf(card) {
  const parts = card.querySelectorAll(".text, .failed, .references li, .chips li");
  return [card.getAttribute("aria-label"), ...[...parts].map((part) => part.textContent)]
    .join(" ")
    .normalize("NFC")
    .toLowerCase();
}

function hasWords(text, query) {
  // A word matches where it begins one: "dog" finds dogs, "cat" does not find location.
  return query.every((word) => {
    for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + 1)) {
      if (at === 0 || !/[\p{L}\p{N}]/u.test(text[at - 1]) || !/^[\p{L}\p{N}]/u.test(word)) return true;
    }
    return false;
  });
}

function setUp(toolbar) {
  const panel = toolbar.nextElementSibling;
  const nothing = panel.nextElementSibling;
  const tabs = [...toolbar.querySelectorAll("[role=tab]")];
  const find = toolbar.querySelector("input[type=search]");
  const sort = toolbar.querySelector("select");
  const direction = toolbar.querySelector(".direction");
  const boxes = toolbar.querySelector(".show-boxes");
  const shown = toolbar.querySelector(".shown");
  const cards = [...panel.children].map((element, place) => ({
    element,
    place,
    text: textOf(element),
    groups: element.dataset.groups.split(" "),
    values: JSON.parse(element.dataset.values),
  }));
  let group = ""; // of the cards in the tab; all where it is empty

  function show() {
    const query = find.value.normalize("NFC").toLowerCase().split(/\s+/).filter(Boolean);
    const inTab = cards.filter((card) => !group || card.groups.includes(group));
    const left = new Set(inTab.filter((card) => hasWords(card.text, query)));
    const sign = direction.getAttribute("aria-pressed") === "true" ? -1 : 1;
    const key = sort.value;
    const value = (card) => card.values[key];
    const ordered = [...cards].sort((a, b) => {
      if (!key) return sign * (a.place - b.place);
      // What has no such score comes last, whatever the direction.
      if (value(a) === undefined || value(b) === undefined)
        return (value(a) === undefined) - (value(b) === undefined) || a.place - b.place;
      return sign * (value(a) - value(b)) || a.place - b.place;
    });
    for (const card of cards) card.element.hidden = !left.has(card);
    panel.append(...ordered.map((card) => card.element));
    shown.textContent = `${left.size} of ${inTab.length} shown`;
    nothing.hidden = left.size > 0 || !inTab.length;
  }

  function point(highest) {
    direction.setAttribute("aria-pressed", String(highest));
    direction.textContent = highest ? "highest first" : "lowest first";
  }

  function select(tab) {
    for (const other of tabs) {
      other.setAttribute("aria-selected", String(other === tab));
      other.tabIndex = other === tab ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", tab.id);
    group = tab.dataset.group;
    sort.value = tab.dataset.key;
    point(tab.dataset.highest === "1");
    show();
  }

  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(place + step + tabs.length) % tabs.length];
      next.focus();
      select(next);
      event.preventDefault();
    });
  });
  find.addEventListener("input", show);
  sort.addEventListener("change", show);
  direction.addEventListener("click", () => {
    point(direction.getAttribute("aria-pressed") !== "true");
    show();
  });
  boxes.addEventListener("change", () => panel.classList.toggle("no-boxes", !boxes.checked));
  for (const { element } of cards)
    element.querySelector(".open").addEventListener("click", () => open(element));
  select(tabs[0]);
}

function open(card) {
  opened = card;
  const body = dialog.querySelector(".dialog-body");
  body.replaceChildren(
    ...[".frame", ".words", ".more"].map((part) => card.querySelector(part).cloneNode(true)),
  );
  dialog.querySelector("h2").textContent = card.getAttribute("aria-label");
  if (!dialog.open) dialog.showModal();
  body.scrollTop = 0;
}

function step(by) {
  const cards = [...opened.parentElement.children].filter((card) => !card.hidden);
  open(cards[(cards.indexOf(opened) + by + cards.length) % cards.length]);
}

dialog.querySelector(".previous").addEventListener("click", () => step(-1));
dialog.querySelector(".next").addEventListener("click", () => step(1));
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // beside it
});
// A dialog gives the focus back to what opened it; the card may be another by now.
dialog.addEventListener("close", () => opened.querySelector(".open").focus());

document.querySelectorAll(".toolbar").forEach(setUp);
if (matchMedia("(max-width: 760px)").matches)
  document.querySelectorAll(".artifact:not(.stale, .unreadable)").forEach((one) => (one.open = false));
