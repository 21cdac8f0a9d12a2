"use strict";
// Before anything is shown: light or dark, by the reader's choice or else by the system's. page.js has the button.
(() => {
  let kept = null;
  try { kept = localStorage.getItem("kdbench-theme"); } catch { /* not for a page from a disk */ }
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = kept ?? (dark ? "dark" : "light");
})();
