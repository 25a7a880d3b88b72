"use strict";
// Sorting, the switch between panels, the class selector, and the curves (drawn by plotly when they come into view).
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  function sortBy(table, column, button) {
    const head = button.closest("th");
    const down = column === 0 ? head.ariaSort === "ascending" : head.ariaSort !== "descending";
    for (const th of all("thead th[aria-sort]", table)) th.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => {
      const raw = row.children[column].dataset.sort;
      return column === 0 ? raw : raw === undefined ? null : Number(raw);
    };
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("family"));
      rows.sort((a, b) => {
        const x = value(a), y = value(b);
        if (x === null || y === null) return (x === null) - (y === null); // what was not measured comes last
        const order = column === 0 ? x.localeCompare(y) : x - y;
        return down ? -order : order;
      });
      body.append(...rows);
    }
  }
  for (const table of all("table[data-sortable]")) {
    const row = table.tHead.rows[table.tHead.rows.length - 1];
    all("button", row).forEach((button, i) => button.addEventListener("click", () => sortBy(table, i, button)));
  }

  function draw(plot) {
    if (plot.dataset.drawn) return;
    plot.dataset.drawn = "yes";
    const [view, index] = plot.dataset.figure.split(":");
    const panel = data.curves[view][Number(index)];
    Plotly.newPlot(plot, panel.data, structuredClone(panel.layout), { displayModeBar: false, responsive: true });
  }
  for (const plot of all("[data-view]:not([hidden]) .plot")) draw(plot);

  const views = all("[data-panels]");
  for (const button of views) {
    button.addEventListener("click", () => {
      for (const other of views) other.setAttribute("aria-pressed", String(other === button));
      for (const panels of all("[data-view]")) {
        panels.hidden = panels.dataset.view !== button.dataset.panels;
        if (!panels.hidden) all(".plot", panels).forEach(draw);
      }
    });
  }

  for (const select of all("[data-classes]")) {
    const show = () => all(".classes").forEach((block) => { block.hidden = block.dataset.model !== select.value; });
    select.addEventListener("change", show);
    show(); // a reload may bring back another choice than the page's own
  }
})();
