"use strict";
// Plays kept episodes: bodies as MuJoCo placed them, through its camera, on a plain canvas.
const UNIT = 10000, VIEW = 38 * Math.PI / 180;

const add = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
const times = (a, k) => [a[0] * k, a[1] * k, a[2] * k];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
function rotate([w, ...v], x) {
  const t = times(cross(v, x), 2);
  return add(x, add(times(t, w), cross(v, t)));
}
function multiply(a, b) {
  return [a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3], a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2],
    a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1], a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0]];
}

function viewOf(camera, centre, width, height) {
  const az = camera.azimuth * Math.PI / 180, el = camera.elevation * Math.PI / 180;
  const forward = [Math.cos(el) * Math.cos(az), Math.cos(el) * Math.sin(az), Math.sin(el)];
  const right = [Math.sin(az), -Math.cos(az), 0], up = cross(right, forward);
  const eye = add(centre, times(forward, -camera.distance)), focus = height / 2 / Math.tan(VIEW / 2);
  return (p) => {
    const d = add(p, times(eye, -1)), depth = dot(d, forward);
    return { x: width / 2 + focus * dot(d, right) / depth, y: height / 2 - focus * dot(d, up) / depth, depth, scale: focus / depth };
  };
}

function hull(points) {
  const sorted = [...points].sort((a, b) => a.x - b.x || a.y - b.y);
  const turn = (o, a, b) => (a.x - o.x) * (b.y - o.y) - (a.y - o.y) * (b.x - o.x);
  const half = (list) => list.reduce((out, p) => {
    while (out.length > 1 && turn(out.at(-2), out.at(-1), p) <= 0) out.pop();
    return [...out, p];
  }, []).slice(0, -1);
  return [...half(sorted), ...half(sorted.reverse())];
}

// Returns what a geom looks like: its depth, and how it is drawn.
function shape(geom, place, turn, view, pen) {
  const at = add(place, rotate(turn, geom.pos)), q = multiply(turn, geom.quat), [a, b, c] = geom.size;
  const middle = view(at), tone = Math.min(...geom.colour) > 225 ? pen.plain : `rgb(${geom.colour.join(" ")})`;
  const stroke = (w, style, from, to, cap) => {
    pen.lineCap = cap; pen.lineWidth = w; pen.strokeStyle = style;
    pen.beginPath(); pen.moveTo(from.x, from.y); pen.lineTo(to.x, to.y); pen.stroke();
  };
  const fill = (outline, draw) => { pen.fillStyle = tone; pen.strokeStyle = outline; pen.lineWidth = 1; pen.beginPath(); draw(); pen.fill(); pen.stroke(); };
  if (geom.kind === "capsule" || geom.kind === "cylinder") {
    const arm = rotate(q, [0, 0, b]), from = view(add(at, arm)), to = view(add(at, times(arm, -1)));
    const w = Math.max(1.5, 2 * a * middle.scale), cap = geom.kind === "capsule" ? "round" : "butt";
    return { depth: middle.depth, draw: (edge) => { stroke(w + 2, edge, from, to, cap); stroke(w, tone, from, to, cap); } };
  }
  if (geom.kind === "box") {
    const corners = [-1, 1].flatMap((x) => [-1, 1].flatMap((y) => [-1, 1].map((z) => view(add(at, rotate(q, [a * x, b * y, c * z]))))));
    const line = hull(corners);
    return { depth: middle.depth, draw: (edge) => fill(edge, () => line.forEach((p, i) => i ? pen.lineTo(p.x, p.y) : pen.moveTo(p.x, p.y))) };
  }
  const r = (geom.kind === "ellipsoid" ? Math.max(a, b, c) : a) * middle.scale;
  return { depth: middle.depth, draw: (edge) => fill(edge, () => pen.arc(middle.x, middle.y, Math.max(1.5, r), 0, 7)) };
}

function ground(pen, view, centre, reach, z) {
  const unit = 10 ** Math.round(Math.log10(reach / 4)), n = 2 * Math.ceil(reach / unit);
  const [cx, cy] = [Math.round(centre[0] / unit), Math.round(centre[1] / unit)];
  const line = (from, to) => {
    const [a, b] = [view(from), view(to)];
    if (a.depth < reach * 0.05 || b.depth < reach * 0.05) return;
    pen.beginPath(); pen.moveTo(a.x, a.y); pen.lineTo(b.x, b.y); pen.stroke();
  };
  for (let i = -n; i <= n; i++) {
    for (let k = -n; k < n; k++) {
      line([(cx + i) * unit, (cy + k) * unit, z], [(cx + i) * unit, (cy + k + 1) * unit, z]);
      line([(cx + k) * unit, (cy + i) * unit, z], [(cx + k + 1) * unit, (cy + i) * unit, z]);
    }
  }
}

function paint(canvas, record, frame) {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth || 420, height = Math.round(width * 0.62);
  canvas.width = width * ratio; canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const probe = getComputedStyle(canvas);
  pen.plain = probe.color; // of what is white in the simulator, which has a texture there
  const places = { 0: [[0, 0, 0], [1, 0, 0, 0]] };
  record.bodies.forEach((b, i) => {
    const row = frame.slice(7 * i, 7 * i + 7).map((v) => v / UNIT);
    places[b] = [row.slice(0, 3), row.slice(3)];
  });
  const { track, lookat } = record.camera, centre = track && places[track] ? places[track][0] : lookat;
  const view = viewOf(record.camera, centre, width, height);
  const floor = record.geoms.find((g) => g.kind === "plane");
  pen.strokeStyle = probe.borderTopColor; pen.lineWidth = 1;
  if (floor) ground(pen, view, centre, record.camera.distance, floor.pos[2]);
  record.geoms.filter((g) => g.kind !== "plane" && places[g.body])
    .map((g) => shape(g, ...places[g.body], view, pen)).filter((s) => s.depth > 0)
    .sort((a, b) => b.depth - a.depth).forEach((s) => s.draw(probe.backgroundColor));
}

// Draws a curve of what was gained, with a playhead; returns (frame) => void that moves it.
function track(host, episode, label, jump) {
  const width = 420, height = 64, n = episode.gained.length, [low, high] = extent([0, ...episode.gained], 0.08);
  const X = (i) => 4 + i / Math.max(1, n - 1) * (width - 8), Y = (v) => height - 4 - (v - low) / (high - low) * (height - 8);
  const svg = node("svg", { class: "chart track", viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "slider", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": n - 1 }, host);
  node("line", { class: "grid", x1: 4, x2: width - 4, y1: Y(0), y2: Y(0) }, svg);
  node("path", { class: "mean", stroke: "var(--c0)", d: path(episode.gained.map((_, i) => i), episode.gained, X, Y) }, svg);
  const head = node("line", { class: "cross", y1: 2, y2: height - 2 }, svg), dotted = node("circle", { r: 4, fill: "var(--c0)" }, svg);
  const to = (e) => { const r = svg.getBoundingClientRect(); jump(Math.round(((e.clientX - r.left) / r.width * width - 4) / (width - 8) * (n - 1))); };
  svg.addEventListener("pointerdown", (e) => { svg.setPointerCapture(e.pointerId); to(e); });
  svg.addEventListener("pointermove", (e) => { if (e.buttons) to(e); });
  svg.addEventListener("keydown", (e) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (by) { e.preventDefault(); jump(null, by); }
  });
  return (i) => {
    head.setAttribute("x1", X(i)); head.setAttribute("x2", X(i));
    dotted.setAttribute("cx", X(i)); dotted.setAttribute("cy", Y(episode.gained[i]));
    svg.setAttribute("aria-valuenow", i);
  };
}

// A circuit's units over time: rows are units, red for what torques to the left.
function raster(host, circuit) {
  const rows = circuit.units.length, n = circuit.values[0].length;
  const box = make("div", "raster"), canvas = make("canvas"), head = make("div", "head");
  canvas.width = n; canvas.height = rows;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `activity of ${rows} units: ${circuit.units[0]} to ${circuit.units.at(-1)}`);
  box.append(canvas, head);
  host.append(box);
  canvas.addEventListener("pointermove", (e) => {
    const i = Math.max(0, Math.min(rows - 1, Math.floor(e.offsetY / canvas.clientHeight * rows)));
    canvas.title = circuit.units[i];
  });
  const pen = canvas.getContext("2d");
  circuit.values.forEach((row, i) => row.forEach((v, t) => {
    const strength = Math.min(100, Math.abs(v)) / 100;
    pen.fillStyle = v < 0 ? `rgb(211 105 27 / ${strength})` : `rgb(70 130 200 / ${strength})`;
    pen.fillRect(t, i, 1, 1);
  }));
  return (t) => { head.style.left = `${100 * (t + 0.5) / n}%`; };
}

function player(host, record, episode) {
  const box = captioned(host, episode.label, `return ${long(episode.return)}`);
  const canvas = make("canvas", "stage"), row = make("div", "play"), button = make("button", "", "Play");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${record.name}, ${episode.label} episode`);
  button.type = "button";
  const clock = make("span", "clock");
  box.append(canvas);
  let frame = 0, playing = 0, begun = 0, from = 0;
  const last = episode.frames.length - 1;
  const heads = [];
  function show(i) {
    frame = Math.max(0, Math.min(last, i));
    paint(canvas, record, episode.frames[frame]);
    heads.forEach((move) => move(frame));
    clock.textContent = `${(frame / record.fps).toFixed(1)} s, ${long(episode.gained[frame])}`;
  }
  function stop() { cancelAnimationFrame(playing); playing = 0; button.textContent = "Play"; }
  function tick(now) {
    begun = begun || now;
    const i = from + Math.floor((now - begun) / 1000 * record.fps);
    show(i);
    if (i >= last) stop(); else playing = requestAnimationFrame(tick);
  }
  button.addEventListener("click", () => {
    if (playing) return stop();
    from = frame >= last ? 0 : frame; begun = 0;
    button.textContent = "Pause";
    playing = requestAnimationFrame(tick);
  });
  heads.push(track(box, episode, `scrub the ${episode.label} episode`, (i, by) => { stop(); show(i === null ? frame + by : i); }));
  if (episode.circuit) heads.push(raster(box, episode.circuit));
  row.append(button, clock);
  box.append(row);
  show(0);
  return () => show(frame);
}
