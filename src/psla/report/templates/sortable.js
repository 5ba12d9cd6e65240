"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], rows = Array.from(body.rows), heads = Array.from(table.tHead.rows[0].cells);
  const number = text => {
    const plain = text.replace(/,(?=\d{3})/g, "").replace("\u2212", "-");
    const found = plain.match(/^\s*[-+]?\d+(\.\d+)?(e[-+]?\d+)?/i);
    return found ? parseFloat(found[0]) : NaN;
  };
  const compare = (column, words, sign) => (a, b) => {
    const x = a.cells[column].textContent, y = b.cells[column].textContent;
    if (words) return sign * x.localeCompare(y, undefined, {numeric: true});
    const p = number(x), q = number(y);
    if (isNaN(p) || isNaN(q)) return isNaN(p) - isNaN(q);
    return sign * (p - q);
  };
  heads.forEach((head, column) => {
    if (head.classList.contains("bar")) return;
    const button = document.createElement("button"), words = head.classList.contains("text");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = now === "none" ? (words ? "ascending" : "descending")
        : now === "ascending" ? "descending" : "ascending";
      for (const each of heads) if (each.hasAttribute("aria-sort")) each.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", next);
      body.append(...rows.sort(compare(column, words, next === "ascending" ? 1 : -1)));
    });
  });
  const bar = document.createElement("div"), label = document.createElement("label");
  const field = document.createElement("input"), count = document.createElement("output");
  bar.className = "filter";
  field.type = "search";
  label.append("Show only rows with ", field);
  bar.append(label, count);
  table.closest(".scroll").before(bar);
  const tell = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  };
  field.addEventListener("input", tell);
  tell();
}
