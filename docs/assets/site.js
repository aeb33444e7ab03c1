// What keyboards and screen readers need: a name for the search and for the boxes of checklists, and a way to scroll
// wide tables. The theme wraps tables before the page counts as loaded.
addEventListener("load", () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search")
  for (const box of document.querySelectorAll(".task-list-item input")) {
    box.setAttribute("aria-label", "done")
    box.disabled = false
  }
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap"))
    if (table.scrollWidth > table.clientWidth) {
      table.setAttribute("tabindex", "0")
      table.setAttribute("role", "region")
      table.setAttribute("aria-label", "table")
    }
})
