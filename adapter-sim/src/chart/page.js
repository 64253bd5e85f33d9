"use strict";
const rows = [...document.querySelectorAll(".row")];
const lines = [...document.querySelectorAll("svg line")];
const svg = document.querySelector("svg");
const whole = document.getElementById("whole");
const arrows = new Map(lines.filter(line => line.classList.contains("arrow")).map(line => [+line.dataset.a, line]));
const open = new Set(), off = new Set();
let height = 24;

const span = us => {
  const s = Math.floor(us / 1e6), two = n => String(n).padStart(2, "0");
  if (s < 1) return Math.floor(us / 1e3) + " ms";
  if (s < 60) return s + "." + Math.floor(us / 1e5) % 10 + " s";
  if (s < 3600) return Math.floor(s / 60) + " min " + two(s % 60) + " s";
  return Math.floor(s / 3600) + " h " + two(Math.floor(s / 60) % 60) + " min";
};

function layout() {
  document.documentElement.style.setProperty("--row", height + "px");
  const tops = [0];
  let gap = null, before = null, shown = "";
  rows.forEach((row, i) => {
    const data = row.dataset;
    let hide;
    if (row.classList.contains("gap")) {
      // One gap between two rows that are seen, as long as what lies between them.
      hide = gap !== null || before === null;
      if (!hide) gap = row;
    } else {
      hide = (data.in !== undefined && !open.has(data.in)) || off.has(data.k);
      if (!hide && data.in === undefined) {
        if (gap !== null) gap.firstChild.textContent = span(data.t - before) + " later";
        gap = null;
        before = Math.max(before, data.u);
      }
    }
    row.hidden = hide;
    if (!hide) {
      const time = row.firstChild.localName === "time" ? row.firstChild.textContent : "";
      row.classList.toggle("same", time !== "" && time === shown);
      shown = time;
    }
    row.classList.toggle("open", open.has(data.fold));
    tops.push(tops[i] + (hide ? 0 : height));
  });
  for (const line of lines) {
    const a = +line.dataset.a, b = +line.dataset.b;
    const middle = i => tops[i] + (i < rows.length && !rows[i].hidden ? height / 2 : 0);
    const arrow = line.classList.contains("arrow");
    if (arrow) line.toggleAttribute("hidden", rows[a].hidden);
    const lane = line.classList.contains("lane");
    line.setAttribute("y1", arrow ? tops[a] + height - 4 : lane ? 0 : middle(a));
    line.setAttribute("y2", arrow ? Math.max(tops[b], tops[a] + height) - 1 : middle(b));
  }
  svg.setAttribute("height", tops[rows.length]);
}

document.querySelectorAll(".kinds input").forEach(box => box.addEventListener("change", () => {
  off[box.checked ? "delete" : "add"](box.value);
  layout();
}));
const press = (id, act) => document.getElementById(id).addEventListener("click", () => { act(); layout(); });
press("unfold", () => rows.forEach(row => row.dataset.fold !== undefined && open.add(row.dataset.fold)));
press("fold", () => open.clear());
press("less", () => height = Math.max(16, height - 4));
press("more", () => height = Math.min(40, height + 4));

document.getElementById("rows").addEventListener("click", event => {
  const row = event.target.closest(".row"), text = event.target.closest("[title]");
  if (row === null || text === null) { whole.hidden = true; return; }
  const fold = row.dataset.fold;
  if (fold !== undefined) {
    open[open.has(fold) ? "delete" : "add"](fold);
    layout();
  } else {
    whole.hidden = false;
    whole.textContent = text.title;
  }
});
addEventListener("keydown", event => { if (event.key === "Escape") whole.hidden = true; });
for (const way of ["mouseover", "mouseout"]) {
  document.getElementById("rows").addEventListener(way, event => {
    const row = event.target.closest(".row");
    if (row !== null) arrows.get(+row.id.slice(3))?.classList.toggle("hot", way === "mouseover");
  });
}
layout();
