"use strict";
// Tables sort by a click or a key press on the head of a column. Without this script they are plain tables.
(() => {
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const announcer = document.getElementById("sorted");

  // A cell's raw number where it has one, its text otherwise; null where nothing was measured.
  function keyOf(cell) {
    if (cell.dataset.value !== undefined) {
      const value = Number(cell.dataset.value);
      return Number.isNaN(value) ? null : value;
    }
    const text = cell.textContent.trim();
    return text === "" || text === "-" ? null : text;
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return collator.compare(a, b);
  }

  function sortBy(table, head, column) {
    const descending = head.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => ({ row, key: keyOf(row.cells[column]) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null); // not measured: last
      return descending ? compare(b.key, a.key) : compare(a.key, b.key);
    });
    body.append(...rows.map((entry) => entry.row));
    for (const other of table.tHead.rows[0].cells) {
      if (other.tagName === "TH") other.setAttribute("aria-sort", "none");
    }
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const name = head.textContent.trim();
    announcer.textContent = `${table.caption.textContent}: sorted by ${name}, ${descending ? "descending" : "ascending"}`;
  }

  // Also called for the parts that the live page fetches later.
  window.makeSortable = (part) => {
    for (const table of part.querySelectorAll("table:not(.map)")) {
      Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
        if (head.tagName !== "TH") return;
        const button = document.createElement("button");
        button.type = "button";
        button.append(...head.childNodes);
        head.append(button);
        head.setAttribute("aria-sort", "none");
        button.addEventListener("click", () => sortBy(table, head, column));
      });
    }
  };
  makeSortable(document);

  // Paper has no way to open what is closed.
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      details.dataset.opened = "";
    }
  });
  addEventListener("afterprint", () => {
    for (const details of document.querySelectorAll("details[data-opened]")) {
      details.open = false;
      delete details.dataset.opened;
    }
  });
})();
