"use strict";
// Charts as inline SVG: lines with bands, and rows of dots. Colours are the page's variables, so
// that a theme needs no new drawing.
const NS = "http://www.w3.org/2000/svg";
const DASHES = ["", "7 4", "2 3", "10 3 2 3"];

const colour = (i) => `var(--c${i % 8})`;
const dash = (i) => DASHES[Math.floor(i / 8) % DASHES.length];

function node(tag, attributes, parent, text) {
  const made = document.createElementNS(NS, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function ticks(low, high, about) {
  const raw = (high - low || 1) / about, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw * 0.999);
  const out = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) out.push(k * step);
  return out;
}

// Writes a tick as its axis' largest one is written.
function short(x, most = Math.abs(x)) {
  if (x && most >= 1e6) return `${+(x / 1e6).toFixed(2)}M`.replace("-", "−");
  if (x && most >= 1e4) return `${+(x / 1e3).toFixed(1)}k`.replace("-", "−");
  return String(+x.toPrecision(6)).replace("-", "−");
}

function long(x) {
  const digits = Math.abs(x) >= 10 ? 1 : 3;
  return x.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−");
}

function extent(values, pad) {
  const known = values.filter((v) => v !== null && Number.isFinite(v));
  if (!known.length) return [0, 1];
  let low = Math.min(...known), high = Math.max(...known);
  if (low === high) { low -= Math.abs(low) * 0.1 || 1; high += Math.abs(high) * 0.1 || 1; }
  return [low - (high - low) * pad, high + (high - low) * pad];
}

function path(xs, ys, X, Y) {
  return xs.map((x, i) => `${i ? "L" : "M"}${X(x).toFixed(1)} ${Y(ys[i]).toFixed(1)}`).join("");
}

// series: [{arm, index, x, mean, low, high, seeds: {seed: [xs, ys]}}]; returns {svg, at(x)}.
function lineChart(host, series, options) {
  const width = Math.max(280, host.clientWidth || 560), height = Math.min(300, Math.max(210, width * 0.5));
  const box = { left: 52, right: 10, top: 10, bottom: 38 };
  const seeds = (s) => options.seeds ? Object.values(s.seeds || {}) : [];
  const published = options.published || [];
  const xs = series.flatMap((s) => [...s.x, ...seeds(s).flatMap((q) => q[0])]);
  const [x0, x1] = options.xDomain || [Math.min(...xs), Math.max(...xs)];
  const near = published.flatMap((p) => p.y.filter((_, i) => p.x[i] >= x0 && p.x[i] <= x1));
  const ys = series.flatMap((s) => [...s.mean, ...s.low, ...s.high, ...seeds(s).flatMap((q) => q[1])]);
  const [y0, y1] = options.yDomain || extent([...ys, ...near], 0.04);
  const X = (x) => box.left + (x - x0) / (x1 - x0 || 1) * (width - box.left - box.right);
  const Y = (y) => height - box.bottom - (y - y0) / (y1 - y0 || 1) * (height - box.top - box.bottom);
  const svg = node("svg", { class: "chart lines", viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": options.label });
  for (const y of ticks(y0, y1, 5)) {
    node("line", { class: "grid", x1: box.left, x2: width - box.right, y1: Y(y), y2: Y(y) }, svg);
    node("text", { x: box.left - 8, y: Y(y) + 4, "text-anchor": "end" }, svg, short(y, Math.max(-y0, y1)));
  }
  for (const x of ticks(x0, x1, width / 110)) {
    node("text", { x: X(x), y: height - box.bottom + 17, "text-anchor": "middle" }, svg, short(x, x1));
  }
  node("text", { x: width - box.right, y: height - 4, "text-anchor": "end" }, svg, options.xLabel);
  for (const p of published) {
    const keep = p.x.map((x, i) => i).filter((i) => p.x[i] >= x0 && p.x[i] <= x1);
    if (keep.length) node("title", {}, node("path", { class: "published", d: path(keep.map((i) => p.x[i]), keep.map((i) => p.y[i]), X, Y) }, svg), p.name);
  }
  const groups = series.map((s) => {
    const g = node("g", { "data-arm": s.arm, style: `color:${colour(s.index)}` }, svg);
    if (s.low.length && s.x.length > 1) {
      const there = path(s.x, s.high, X, Y), back = path([...s.x].reverse(), [...s.low].reverse(), X, Y);
      node("path", { class: "band", fill: "currentColor", d: `${there}L${back.slice(1)}Z` }, g);
    }
    for (const [sx, sy] of seeds(s)) node("path", { class: "seed", stroke: "currentColor", d: path(sx, sy, X, Y) }, g);
    node("path", { class: "mean", stroke: "currentColor", "stroke-dasharray": dash(s.index), d: path(s.x, s.mean, X, Y) }, g);
    if (s.x.length === 1) node("circle", { fill: "currentColor", r: 4, cx: X(s.x[0]), cy: Y(s.mean[0]) }, g);
    return g;
  });
  const cross = node("line", { class: "cross", y1: box.top, y2: height - box.bottom, visibility: "hidden" }, svg);
  const dots = series.map((s, i) => node("circle", { r: 3.5, fill: "currentColor", visibility: "hidden" }, groups[i]));
  const steps = [...new Set(series.flatMap((s) => s.x))].sort((a, b) => a - b);
  const nearest = (x) => steps.reduce((best, s) => Math.abs(s - x) < Math.abs(best - x) ? s : best, steps[0]);

  // Puts the crosshair at a step (none: away); returns what stands there.
  function at(x) {
    const rows = [];
    cross.setAttribute("visibility", x === null ? "hidden" : "visible");
    if (x !== null) { cross.setAttribute("x1", X(x)); cross.setAttribute("x2", X(x)); }
    series.forEach((s, i) => {
      const k = x === null ? -1 : s.x.indexOf(x);
      dots[i].setAttribute("visibility", k < 0 ? "hidden" : "visible");
      if (k < 0) return;
      dots[i].setAttribute("cx", X(x)); dots[i].setAttribute("cy", Y(s.mean[k]));
      rows.push({ arm: s.arm, index: s.index, mean: s.mean[k], low: s.low[k], high: s.high[k] });
    });
    return rows.sort((a, b) => b.mean - a.mean);
  }

  function where(event) {
    const r = svg.getBoundingClientRect();
    return nearest(x0 + ((event.clientX - r.left) / r.width * width - box.left) / (width - box.left - box.right) * (x1 - x0));
  }
  let now = null;
  const tell = (x, spot) => { now = x; options.hover(x, x === null ? [] : at(x), spot, made); };
  svg.addEventListener("pointermove", (e) => tell(where(e), e));
  svg.addEventListener("pointerdown", (e) => tell(where(e), e));
  svg.addEventListener("pointerleave", () => tell(null));
  svg.addEventListener("blur", () => tell(null));
  svg.addEventListener("keydown", (e) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (!by || !steps.length) return;
    e.preventDefault();
    const i = now === null ? 0 : Math.min(steps.length - 1, Math.max(0, steps.indexOf(now) + by));
    const r = svg.getBoundingClientRect();
    tell(steps[i], { clientX: r.left + X(steps[i]) / width * r.width, clientY: r.top + r.height / 3 });
  });
  host.append(svg);
  const made = { svg, at, steps };
  return made;
}

// One row for each arm: its seeds as dots, mean and interval as a bar.
function stripChart(host, series, options) {
  const width = Math.max(280, host.clientWidth || 560), row = 30;
  const longest = Math.max(...series.map((s) => s.arm.length));
  const box = { left: Math.min(width * 0.42, 14 + longest * 7), right: 14, top: 4, bottom: 36 };
  const height = box.top + row * series.length + box.bottom;
  const all = series.flatMap((s) => [...s.mean, ...s.low, ...s.high, ...Object.values(s.seeds).map((q) => q[1].at(-1))]);
  const [x0, x1] = extent(all, 0.05);
  const X = (x) => box.left + (x - x0) / (x1 - x0) * (width - box.left - box.right);
  const svg = node("svg", { class: "chart strip", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.label });
  for (const x of ticks(x0, x1, (width - box.left) / 90)) {
    node("line", { class: x === 0 ? "axis" : "grid", x1: X(x), x2: X(x), y1: box.top, y2: height - box.bottom }, svg);
    node("text", { x: X(x), y: height - box.bottom + 17, "text-anchor": "middle" }, svg, short(x));
  }
  node("text", { x: width - box.right, y: height - 3, "text-anchor": "end" }, svg, options.xLabel);
  series.forEach((s, i) => {
    const y = box.top + row * (i + 0.5);
    const g = node("g", { "data-arm": s.arm, style: `color:${colour(s.index)}` }, svg);
    const most = Math.floor((box.left - 14) / 6.6);
    const name = s.arm.length > most ? `${s.arm.slice(0, most - 1)}…` : s.arm;
    node("title", {}, node("text", { class: "name", x: box.left - 12, y: y + 4, "text-anchor": "end" }, g, name), s.arm);
    if (options.seeds) {
      for (const [seed, [, ys]] of Object.entries(s.seeds)) {
        const dot = node("circle", { r: 3, cx: X(ys.at(-1)), cy: y, fill: "currentColor", opacity: 0.35 }, g);
        node("title", {}, dot, `seed ${seed}: ${long(ys.at(-1))}`);
      }
    }
    if (!s.mean.length) return;
    const mean = s.mean.at(-1), low = s.low.at(-1), high = s.high.at(-1);
    if (low !== undefined) node("line", { class: "reach", stroke: "currentColor", x1: X(low), x2: X(high), y1: y, y2: y }, g);
    const dot = node("circle", { class: "mean", r: 5, cx: X(mean), cy: y, style: "fill:currentColor;stroke:var(--paper);stroke-width:1.5" }, g);
    node("title", {}, dot, low === undefined ? long(mean) : `${long(mean)} (${long(low)} to ${long(high)})`);
  });
  host.append(svg);
  return { svg, at: () => [], steps: [] };
}
