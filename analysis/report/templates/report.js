"use strict";
// Tables sort by a click or a key press on the head of a column, and cells are hidden in a picture of several. Without this script
// they are plain tables and pictures.
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

  // Above a picture of several cells: a button for each, which hides its lines.
  for (const svg of document.querySelectorAll(".picture svg")) {
    const cells = new Map();
    for (const element of svg.querySelectorAll("[data-cell]")) {
      cells.set(element.dataset.cell, [...(cells.get(element.dataset.cell) || []), element]);
    }
    if (cells.size < 2) continue;
    const row = document.createElement("p");
    row.className = "tools switches";
    for (const [, elements] of [...cells].sort((a, b) => a[0] - b[0])) {
      const line = elements.find((element) => element.querySelector("title")), button = document.createElement("button");
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = line.querySelector("path, use").style.stroke;
      button.type = "button";
      button.append(swatch, line.querySelector("title").textContent.replace(/: [^:]*$/, ""));
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(on));
        for (const element of elements) element.style.display = on ? "" : "none";
      });
      row.append(button);
    }
    svg.parentElement.before(row);
  }

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
