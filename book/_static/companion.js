// What CSS alone cannot do for readers on phones, with a keyboard or with a screen reader.

// The theme gives tables of prose a box to scroll in; other tables and pictures get theirs here.
function giveBox(element) {
  const box = document.createElement("div");
  box.className = "scrolls";
  element.replaceWith(box);
  box.append(element);
}

// A box can be scrolled with the arrow keys once it can be reached with the tab key.
const reach = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const scrolls = target.scrollWidth > target.clientWidth;
    if (scrolls) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
    target.classList.toggle("wider", scrolls);
  }
});

function improve() {
  const inBox =
    ".scrolls *, .pst-scrollable-table-container *, a.image-reference *, .explored *";
  for (const wide of document.querySelectorAll("article :is(table, img)"))
    if (!wide.matches(inBox)) giveBox(wide);
  const boxes =
    "article :is(.scrolls, .pst-scrollable-table-container, a.image-reference, pre, .math)";
  for (const box of document.querySelectorAll(boxes)) reach.observe(box);
  // "LT-HSC" and its like are not broken at their hyphens
  for (const cell of document.querySelectorAll("article td"))
    if (cell.textContent.trim().length <= 12) cell.style.whiteSpace = "nowrap";
  // a list may hold nothing but its items, and docutils names those by a role that is withdrawn
  for (const reference of document.querySelectorAll("[role=doc-biblioentry]"))
    reference.setAttribute("role", "listitem");
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", improve);
else improve();
