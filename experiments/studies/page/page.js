"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const TIP = document.getElementById("tip");
const make = (tag, name, text) => Object.assign(document.createElement(tag), { className: name || "", textContent: text || "" });

function tip(title, rows, spot) {
  TIP.hidden = !rows.length;
  if (!rows.length) return;
  TIP.replaceChildren(make("small", "", title));
  for (const r of rows) {
    const line = make("div");
    const mark = make("i");
    mark.style.background = colour(r.index);
    const value = make("span", "", long(r.mean));
    if (r.low !== undefined) value.append(" ", make("small", "", `${long(r.low)} to ${long(r.high)}`));
    line.append(mark, make("b", "", r.arm), value);
    TIP.append(line);
  }
  const wide = TIP.offsetWidth, edge = document.documentElement.clientWidth;
  const left = spot.clientX + 18 + wide > edge ? spot.clientX - wide - 18 : spot.clientX + 18;
  TIP.style.left = `${Math.max(6, Math.min(left, edge - wide - 6)) + scrollX}px`;
  TIP.style.top = `${spot.clientY - 20 + scrollY}px`;
}

function study(section) {
  const s = DATA.studies[section.dataset.study];
  const off = new Set();
  let metric = s.primary, seeds = null, drawn = [];
  const charts = section.querySelector(".charts"), profile = section.querySelector(".profile");
  const series = (arms) => s.arms.map((arm, index) => ({ arm, index, ...arms[arm] }))
    .filter((q) => arms[q.arm] && !off.has(q.arm)).map((q) => ({ ...q, x: q.step ?? q.x }));
  const several = (task, m) => Object.values(task.metrics[m] || {}).some((c) => c.step.length > 1);
  const unit = s.units.join(" or ");

  function hover(title) {
    return (x, rows, spot, from) => {
      for (const chart of drawn) if (chart !== from && chart.group === from.group) chart.at(chart.steps.includes(x) ? x : null);
      if (x === null) from.at(null);
      tip(x === null ? "" : title(x), rows, spot);
    };
  }

  function figure(task, m) {
    const own = series(task.metrics[m] || {});
    if (!own.length) return;
    const box = make("figure"), caption = make("figcaption", "", task.task);
    const lines = several(task, m);
    caption.append(" ", make("span", "", lines ? m : `${m}, last evaluation`));
    box.append(caption);
    charts.append(box);
    const place = s.published.find((p) => p.task === task.task);
    const theirs = m !== "return" || !place ? [] : place.theirs.filter((p) => Object.keys(p.curve).length > 1)
      .map((p) => ({ name: `${p.exp} (${p.source})`, x: Object.keys(p.curve).map(Number), y: Object.values(p.curve) }));
    const label = `${m} on ${task.task}: ${own.map((q) => q.arm).join(", ")}`;
    const options = { seeds: seeds ?? !lines, label, published: theirs, xLabel: lines ? unit : m, hover: hover((x) => `${x.toLocaleString("en")} ${unit}`) };
    return () => drawn.push(Object.assign((lines ? lineChart : stripChart)(box, own, options), { group: "steps" }));
  }

  function draw() {
    charts.replaceChildren();
    drawn = [];
    const shown = metric !== "return" && s.curves.some((t) => several(t, "return")) ? [metric, "return"] : [metric];
    const figures = shown.flatMap((m) => s.curves.map((task) => figure(task, m)));
    for (const one of figures) one?.(); // when all stand there: each is as wide as it has room
    const button = section.querySelector("button.seeds");
    button.setAttribute("aria-pressed", seeds ?? !charts.querySelector("svg.lines"));
    if (profile && profile.clientWidth) {
      const box = make("figure"), caption = make("figcaption", "", "Performance profile");
      caption.append(" ", make("span", "", `share of runs above a ${s.primary}`));
      box.append(caption);
      profile.replaceChildren(box);
      const own = series(s.profiles).map((q) => ({ ...q, x: s.taus }));
      if (own.length) drawn.push(Object.assign(lineChart(box, own, { seeds: false, label: "performance profiles", xLabel: s.normalised ? "score" : s.primary, yDomain: [0, 1.02], hover: hover((x) => `above ${long(x)}`) }), { group: "profile" }));
    }
  }

  function light(arm) {
    section.classList.toggle("lit", arm !== null);
    for (const one of section.querySelectorAll("[data-arm]")) one.classList.toggle("lit", one.dataset.arm === arm);
  }

  s.arms.forEach((arm, i) => {
    const button = make("button", "");
    button.type = "button";
    button.dataset.armName = arm;
    button.setAttribute("aria-pressed", "true");
    const mark = node("svg", { viewBox: "0 0 20 8", "aria-hidden": "true" });
    node("line", { x1: 1, x2: 19, y1: 4, y2: 4, stroke: colour(i), "stroke-width": 3, "stroke-dasharray": dash(i) }, mark);
    button.append(mark, arm);
    button.addEventListener("click", () => {
      off.has(arm) ? off.delete(arm) : off.add(arm);
      button.setAttribute("aria-pressed", String(!off.has(arm)));
      draw();
    });
    button.addEventListener("pointerenter", () => light(arm));
    button.addEventListener("pointerleave", () => light(null));
    section.querySelector(".legend").append(button);
  });
  for (const row of section.querySelectorAll("tr[data-arm]")) {
    row.addEventListener("pointerenter", () => light(row.dataset.arm));
    row.addEventListener("pointerleave", () => light(null));
  }
  const select = section.querySelector("select");
  const measured = s.columns.filter((m) => s.curves.some((t) => Object.keys(t.metrics[m] || {}).length));
  for (const m of measured) select.add(new Option(m, m, m === metric, m === metric));
  section.querySelector(".pick").hidden = measured.length < 2;
  select.addEventListener("change", () => { metric = select.value; draw(); });
  const button = section.querySelector("button.seeds");
  button.addEventListener("click", () => { seeds = button.getAttribute("aria-pressed") !== "true"; draw(); });
  section.querySelector("details.compare")?.addEventListener("toggle", draw);
  draw();
  return draw;
}

const draws = [...document.querySelectorAll("section.study")].map(study);

// A panel is drawn anew when the page gets another width; a canvas has colours of its own and is
// painted anew under another theme.
let paints = [];
function panels() {
  paints = [...document.querySelectorAll("[data-panel]")].map((host) => {
    host.replaceChildren();
    return PANELS[host.dataset.panel](host, DATA.panels[host.dataset.panel][host.dataset.index]);
  }).filter(Boolean);
}
panels();

let width = document.documentElement.clientWidth, waiting = 0;
addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    if (width === (width = document.documentElement.clientWidth)) return;
    draws.forEach((draw) => draw());
    panels();
  }, 120);
});

const theme = document.getElementById("theme"), root = document.documentElement;
const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const named = () => { theme.textContent = dark() ? "Light" : "Dark"; paints.forEach((paint) => paint()); };
theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; named(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", named);
named();

const contents = document.querySelector("nav details");
if (matchMedia("(max-width: 62rem)").matches) contents.open = false;
addEventListener("beforeprint", () => document.querySelectorAll("details.more:not(.long)").forEach((d) => { d.open = true; }));

const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.getAttribute("href").slice(1), a]));
const seen = new IntersectionObserver((entries) => {
  for (const e of entries) if (e.isIntersecting) {
    links.forEach((a) => a.classList.remove("here"));
    links.get(e.target.id)?.classList.add("here");
  }
}, { rootMargin: "-10% 0px -80% 0px" });
document.querySelectorAll("main > section").forEach((s) => seen.observe(s));
