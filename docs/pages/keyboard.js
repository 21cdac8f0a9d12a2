// Lets the keyboard reach tables that are wider than the page, which the theme leaves to the mouse.
addEventListener("load", () => {
  for (const wrap of document.querySelectorAll(".md-typeset__scrollwrap")) wrap.tabIndex = 0
})
