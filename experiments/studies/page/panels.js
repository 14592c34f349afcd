"use strict";
// What methods show beside returns: matrices, dreams, marginals.

// Writes a matrix as a map of its values; marks: {"row,column": text}; text: the values stand in it.
function heat(host, values, options) {
  const rows = values.length, columns = values[0].length;
  const known = values.flat().filter((v) => v !== null);
  const [low, high] = options.range || [Math.min(...known), Math.max(...known)];
  const width = Math.max(240, Math.min(options.width || 460, host.clientWidth || 460));
  const box = { left: 40, right: 6, top: 6, bottom: 34 };
  const cell = (width - box.left - box.right) / columns;
  const tall = Math.max(options.text ? 22 : 0, Math.min(cell, 46)), height = box.top + tall * rows + box.bottom;
  const svg = node("svg", { class: "chart heat", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.label, style: `max-width:${width}px` }, host);
  values.forEach((row, i) => row.forEach((v, j) => {
    const share = v === null ? 0 : (v - low) / (high - low || 1);
    const x = box.left + j * cell, y = box.top + i * tall;
    const dim = options.dim && options.dim(i, j) ? 0.35 : 1;
    const rect = node("rect", { x, y, width: cell + 0.3, height: tall + 0.3, opacity: dim, fill: v === null ? "var(--panel)" : `color-mix(in srgb, var(--c0) ${Math.round(92 * share)}%, var(--grid))` }, svg);
    node("title", {}, rect, `${options.rows} ${i + 1}, ${options.columns} ${j + 1}: ${v === null ? "not known" : long(v)}`);
    if (options.text && v !== null) node("text", { class: share > 0.55 && dim === 1 ? "on" : "in", x: x + cell / 2, y: y + tall / 2 + 4, "text-anchor": "middle" }, svg, Math.abs(v) >= 10 ? v.toFixed(0) : v.toFixed(2).replace("-0.00", "0.00"));
  }));
  for (const [place, text] of Object.entries(options.marks || {})) {
    const [i, j] = place.split(",").map(Number);
    const mark = node("g", { class: "mark" }, svg);
    node("circle", { cx: box.left + (j + 0.5) * cell, cy: box.top + (i + 0.5) * tall, r: 8.5 }, mark);
    node("text", { x: box.left + (j + 0.5) * cell, y: box.top + (i + 0.5) * tall + 3.5, "text-anchor": "middle" }, mark, text);
  }
  const every = Math.ceil(columns / 10);
  for (let j = 0; j < columns; j += every) node("text", { x: box.left + (j + 0.5) * cell, y: height - box.bottom + 15, "text-anchor": "middle" }, svg, String(j + 1));
  const step = Math.ceil(rows / 10);
  for (let i = 0; i < rows; i += step) node("text", { x: box.left - 6, y: box.top + (i + 0.5) * tall + 4, "text-anchor": "end" }, svg, String(i + 1));
  node("text", { x: width - box.right, y: height - 3, "text-anchor": "end" }, svg, options.columns);
  node("text", { x: 11, y: box.top, "text-anchor": "end", transform: `rotate(-90 11 ${box.top})` }, svg, options.rows);
}

function captioned(host, title, about) {
  const box = make("figure"), caption = make("figcaption", "", title);
  if (about) caption.append(" ", make("span", "", about));
  box.append(caption);
  host.append(box);
  return box;
}

const PANELS = {
  selections(host, p) {
    const marks = Object.fromEntries(p.picks.map((c, k) => [`${c},${c}`, String(k + 1)]));
    const box = captioned(host, p.name, `returns of each source in each context; circles are the ${p.picks.length} sources in the order of their picking`);
    heat(box, p.values, { rows: "source", columns: "target context", marks, label: `transfer matrix ${p.name}` });
  },
  matrices(host, p) {
    const box = captioned(host, p.name, p.about);
    heat(box, p.values, { rows: "source", columns: "target context", label: `transfer matrix ${p.name}` });
  },
  forgetting(host, p) {
    const every = Object.values(p.arms).flatMap((a) => a.values.flat());
    const range = [Math.min(0, ...every), Math.max(...every)];
    for (const [arm, a] of Object.entries(p.arms)) {
      const box = captioned(host, `${p.name}, ${arm}`, `mean of ${a.seeds} seeds`);
      heat(box, a.values, { rows: "after task", columns: "return on task", range, text: true, width: 300, dim: (i, j) => j > i, label: `returns of ${arm} on each task after each` });
    }
  },
  conflict(host, p) {
    for (const [arm, a] of Object.entries(p.arms)) {
      const box = captioned(host, `${p.name}, ${arm}`, `mean of ${a.seeds} seeds`);
      heat(box, a.values, { rows: "gradient of task", columns: "at the policy of task", range: [-1, 1], text: true, width: 300, label: `cosines between the tasks of ${arm}` });
    }
  },
  marginals(host, p) {
    for (const m of p.marginals) {
      const box = captioned(host, m.name, `score ${m.score.toFixed(3)}`);
      const x = m.real.map((_, i) => m.low + (i + 0.5) * (m.high - m.low) / m.real.length);
      const one = (arm, index, mean) => ({ arm, index, x, mean, low: [], high: [], seeds: {} });
      lineChart(box, [one("real", 6, m.real), one("generated", 0, m.made)], { label: `${m.name} of real and generated rows`, xLabel: "", seeds: false, hover: (at, rows, spot, from) => { if (at === null) from.at(null); tip(at === null ? "" : `${m.name} ${long(at)}`, rows, spot); } });
    }
  },
  episodes(host, p) {
    const redraws = p.episodes.map((e) => player(host, p, e));
    return () => redraws.forEach((redraw) => redraw());
  },
  fans(host, p) {
    p.fan.real.forEach((real, i) => {
      const box = captioned(host, `observation ${i}`, p.name);
      const seeds = Object.fromEntries(p.fan.dreams[i].map((d, k) => [k, [p.fan.step, d]]));
      const plain = (at, rows, spot, from) => { if (at === null) from.at(null); tip(at === null ? "" : `step ${at}`, rows, spot); };
      const dreams = { arm: "dreams", index: 0, x: [], mean: [], low: [], high: [], seeds };
      const lived = { arm: "real", index: 6, x: p.fan.step, mean: real, low: [], high: [], seeds: {} };
      lineChart(box, [dreams, lived], { label: `observation ${i}, real and dreamt`, xLabel: "steps", seeds: true, hover: plain });
    });
  },
};
