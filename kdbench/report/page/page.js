"use strict";

// Light and dark: the reader's choice, else the system's.
const root = document.documentElement;
const themeButton = document.getElementById("theme");
function setTheme(theme) {
  root.dataset.theme = theme;
  themeButton.setAttribute("aria-pressed", String(theme === "dark"));
}
function kept(theme) {  // a browser may refuse to keep anything for a page that comes from a disk
  try {
    if (theme) localStorage.setItem("kdbench-theme", theme);
    return localStorage.getItem("kdbench-theme");
  } catch {
    return null;
  }
}
setTheme(kept() ?? (window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
themeButton.addEventListener("click", () => {
  setTheme(root.dataset.theme === "dark" ? "light" : "dark");
  kept(root.dataset.theme);
});

// A click on a header sorts its column; numbers as numbers, and rows without a value last.
function value(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = parseFloat(text.replaceAll(",", ""));
  return cell.classList.contains("text") ? text.toLowerCase() : Number.isNaN(number) ? null : number;
}

function sort(table, column, direction) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  rows.sort((a, b) => {
    const x = value(a, column), y = value(b, column);
    if (x === null || y === null) return (x === null) - (y === null);
    return direction * (x < y ? -1 : x > y ? 1 : 0);
  });
  body.append(...rows);
  for (const header of table.tHead.rows[0].cells) header.removeAttribute("aria-sort");
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const text = header.classList.contains("text");
      const before = header.getAttribute("aria-sort");
      sort(table, header.cellIndex, before ? (before === "ascending" ? -1 : 1)
        : text || header.dataset.better === "lower" ? 1 : -1);
      if (table.id === "all") remember();
    });
  }
}

// The filters of the main table: every select but the metrics' hides rows; the metrics' hides columns and sorts by the
// one that is left. What is chosen stands in the address, so that a link shows the same view.
const form = document.getElementById("filters");
const main = document.getElementById("all");
const count = document.getElementById("count");

function filter() {
  const wanted = new FormData(form);
  const search = wanted.get("search").trim().toLowerCase();
  let shown = 0;
  for (const row of main.tBodies[0].rows) {
    const keep = ["family", "pair", "dataset"].every((name) => !wanted.get(name) || wanted.get(name) === row.dataset[name])
      && (!search || row.cells[0].textContent.toLowerCase().includes(search));
    row.hidden = !keep;
    shown += keep;
  }
  const metric = wanted.get("metric");
  for (const cell of main.querySelectorAll("[data-metric]")) {
    cell.hidden = metric ? cell.dataset.metric !== metric : !cell.hasAttribute("data-main");
  }
  count.textContent = `${shown} of ${main.tBodies[0].rows.length} rows`;
}

function header(name) {
  return [...main.tHead.rows[0].cells].find((cell) => (cell.dataset.metric ?? cell.textContent) === name);
}

function remember() {
  const wanted = new URLSearchParams([...new FormData(form)].filter(([, text]) => text));
  const sorted = main.querySelector("th[aria-sort]");
  if (sorted) {
    wanted.set("sort", sorted.dataset.metric ?? sorted.textContent);
    wanted.set("order", sorted.getAttribute("aria-sort"));
  }
  const text = wanted.toString();
  history.replaceState(null, "", text ? `#leaderboard?${text}` : "#leaderboard");
}

function recall() {
  const [section, text] = location.hash.slice(1).split("?");
  if (section !== "leaderboard" || !text) return;
  const wanted = new URLSearchParams(text);
  for (const field of form.elements) {
    if (field.name && wanted.has(field.name)) field.value = wanted.get(field.name);
  }
  filter();
  const column = header(wanted.get("sort"));
  if (column) sort(main, column.cellIndex, wanted.get("order") === "ascending" ? 1 : -1);
  document.getElementById("leaderboard").scrollIntoView();
}

function chosen(event) {
  filter();
  if (event.target.name === "metric" && event.target.value) {
    const column = header(event.target.value);
    sort(main, column.cellIndex, column.dataset.better === "lower" ? 1 : -1);
  }
  remember();
}

// A link to a method opens it, and one to a row shows it; on paper all are open.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  if (!["DETAILS", "TR"].includes(target.tagName)) return;
  target.hidden = false;  // a row that the filters hide
  target.scrollIntoView();
}
window.addEventListener("hashchange", reveal);
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});

if (form) {
  form.addEventListener("input", chosen);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { filter(); remember(); }));
  form.hidden = false;
  filter();
  recall();
}
themeButton.hidden = false;
reveal();
