"use strict";

// Light and dark: the reader's choice, else the system's.
const root = document.documentElement;
const themeButton = document.getElementById("theme");
function setTheme(theme) {
  root.dataset.theme = theme;
  themeButton.setAttribute("aria-pressed", String(theme === "dark"));
}
setTheme(window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
themeButton.addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));

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
      sort(table, header.cellIndex, before ? (before === "ascending" ? -1 : 1) : text ? 1 : -1);
    });
  }
}

// The filters of the main table: every select but the metrics' hides rows, the metrics' hides columns.
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

// A link to a method opens it; on paper all are open.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.tagName !== "DETAILS") return;
  target.open = true;
  target.scrollIntoView();
}
window.addEventListener("hashchange", reveal);
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
reveal();

form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(filter));
form.hidden = false;
themeButton.hidden = false;
filter();
