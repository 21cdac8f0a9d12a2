"use strict";

// The search: every word has to be in an entry of kdbenchIndex, which index.js sets; names that begin with it are first.
{
  const search = document.getElementById("search"), field = search.querySelector("input");
  const list = document.getElementById("found");
  const entries = kdbenchIndex.map(([kind, name, address, told, words]) => (
    { kind, name, address, told, text: `${kind} ${name} ${told} ${words}`.toLowerCase() }));

  const rank = ({ name }, first) => {
    const place = name.toLowerCase().indexOf(first);
    return place < 0 ? 2 : Math.sign(place);
  };

  function find() {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = words.length ? entries.filter(({ text }) => words.every((word) => text.includes(word))) : [];
    found.sort((a, b) => rank(a, words[0]) - rank(b, words[0]) || a.name.length - b.name.length);
    list.replaceChildren(...found.slice(0, 12).map(({ kind, name, address, told }) => {
      const link = document.createElement("a"), title = document.createElement("strong");
      const below = document.createElement("span");
      title.textContent = name;
      below.textContent = told;
      link.append(title, ` ${kind}`, below);
      link.href = search.dataset.root + address;
      const item = document.createElement("li");
      item.append(link);
      return item;
    }));
    if (words.length && !found.length) {
      const item = document.createElement("li");
      item.textContent = "Nothing found";
      list.append(item);
    }
    list.hidden = !words.length;
  }

  field.addEventListener("input", find);
  search.addEventListener("submit", (event) => {
    event.preventDefault();
    list.querySelector("a")?.click();
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape") list.hidden = true;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || list.hidden) return;
    event.preventDefault();
    const stops = [field, ...list.querySelectorAll("a")];
    stops[(stops.indexOf(document.activeElement) + step + stops.length) % stops.length].focus();
  });
  search.addEventListener("focusout", (event) => {
    if (!search.contains(event.relatedTarget)) list.hidden = true;
  });
  field.addEventListener("focus", () => { list.hidden = !field.value.trim(); });
  search.hidden = false;
}
