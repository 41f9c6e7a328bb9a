// The roofline: what a step computes for each byte that it must move, against how fast it computes, under the roofs.
const SHAPES = [
  (x, y) => `M${x - 6} ${y}a6 6 0 1 0 12 0a6 6 0 1 0 -12 0z`, (x, y) => `M${x - 5.5} ${y - 5.5}h11v11h-11z`,
  (x, y) => `M${x} ${y - 7}l7 12h-14z`, (x, y) => `M${x} ${y - 8}l7 8l-7 8l-7 -8z`, (x, y) => `M${x} ${y + 7}l7 -12h-14z`,
];
function roofline() {
  const figure = document.getElementById("roofline"), form = document.getElementById("roofline-controls");
  const charts = data.roofs.filter((chart) => chart.points.length), missing = document.getElementById("roofline-absent");
  const why = new Map();
  for (const chart of data.roofs) for (const [name, reason] of Object.entries(chart.absent)) {
    why.set(reason, (why.get(reason) || new Map()));
    why.get(reason).set(chart.heading, [...(why.get(reason).get(chart.heading) || []), name]);
  }
  missing.replaceChildren(...[...why].map(([reason, places]) => make("li", {
    textContent: `No point: ${reason} (${[...places].map(([heading, list]) => `${heading}: ${shortList(list)}`).join("; ")})`,
  })));
  if (!charts.length) {
    empty(figure, why.size ? "No technique has a point under the roofs here; the reasons are below." : "No step was timed in this study.");
    return () => {};
  }
  const machines = [...new Set(charts.map((chart) => chart.machine))], hidden = new Set();
  const groups = [...machines.map((machine, i) => [`m${i}`, `all windows${machines.length > 1 ? `, machine ${i + 1}` : ""}`, charts.filter((chart) => chart.machine === machine)]),
    ...charts.map((chart, i) => [`c${i}`, chart.heading, [chart]])];
  const state = { group: "m0" };
  choice(form, "window", groups.map(([key, text]) => [key, text]), state.group, (value) => { state.group = value; paint(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  function paint() {
    const picked = groups.find(([key]) => key === state.group)[2];
    const points = picked.flatMap((chart, i) => chart.points.map((point) => ({ ...point, heading: chart.heading, shape: SHAPES[i % SHAPES.length] })));
    const techniques = [...new Set(points.map((point) => point.name))];
    const { x, y, roofs } = roofsOf(picked, points);
    figure.dataset.label = "FLOP/s reached against FLOP per byte, under the calibrated roofs";
    figure.replaceChildren();
    const { svg, box, xAt, yAt } = frame(figure, x, y);
    drawRoofs(svg, roofs, x, xAt, yAt, box, points.map((point) => [xAt(point.intensity), yAt(point.rate)]));
    for (const point of points.filter((one) => !hidden.has(one.name)).sort((a, b) => a.intensity - b.intensity)) svg.append(pointOf(figure, point, xAt, yAt));
    walkable(figure, svg);
    figure.append(keyOf(techniques, hidden, paint), svg);
    if (picked.length > 1) figure.append(shapesOf(picked));
    figure.append(make("figcaption", { textContent: `${picked.length > 1 ? "" : `${picked[0].heading}. `}${roofsText(roofs)}` }));
  }
  paint();
  return paint;
}
const shortList = (list) => (list.length > 4 ? `${list.slice(0, 3).join(", ")} and ${list.length - 3} more` : list.join(", "));
function roofsOf(picked, points) {
  const flat = new Map(), used = new Set(points.map((point) => point.dtype)), slopes = new Map();
  for (const chart of picked) {
    Object.entries(chart.flop_per_s).forEach(([dtype, rate]) => flat.set(dtype, rate));
    if (chart.bytes_per_s) slopes.set(chart.memory, chart.bytes_per_s);
  }
  const rates = [...flat].filter(([dtype]) => used.has(dtype)).map(([, rate]) => rate), top = Math.max(...rates);
  const ridges = [...slopes.values()].flatMap((bytes) => rates.map((rate) => rate / bytes)), at = points.map((point) => point.intensity);
  const x = { title: "intensity, FLOP/byte", unit: "count", log: true, better: "", ends: [Math.min(...at, ...ridges) / 3, Math.max(...at, ...ridges) * 3] };
  const y = { title: "reached, FLOP/s", unit: "flop/s", ticks: "flop", log: true, better: "high", ends: [Math.min(...points.map((point) => point.low)) / 2.5, top * 2] };
  return { x, y, roofs: { flat: [...flat].filter(([, rate]) => rate <= y.ends[1] && rate >= y.ends[0]), slopes: [...slopes], top, used } };
}
function drawRoofs(svg, roofs, x, xAt, yAt, box, marks) {
  const [left, right] = x.ends, bytes = roofs.slopes.map(([, rate]) => rate), written = [];
  for (const [dtype, rate] of [...roofs.flat].sort((a, b) => roofs.used.has(b[0]) - roofs.used.has(a[0]) || b[1] - a[1])) {
    const from = xAt(Math.max(left, ...(bytes.length ? [rate / Math.max(...bytes)] : []))), y = yAt(rate), used = roofs.used.has(dtype);
    svg.append(draw("line", { class: used ? "roof" : "roof faint", x1: from, x2: box.right, y1: y, y2: y }));
    if (written.some((other) => Math.abs(other - y) < 15)) continue;
    written.push(y);
    const text = `${dtype} ${quantityText(rate, "flop/s")}`, width = textWidth(text);
    const ends = [box.right - 2, (box.right + from + width) / 2, from + width + 24].filter((end) => end - width > from + 6 && end < box.right);
    const free = (end) => marks.every(([px, py]) => px < end - width - 9 || px > end + 9 || py < y - 26 || py > y + 4);
    const end = ends.find(free) ?? ends[0];
    if (end) svg.append(draw("text", { class: "on", x: end, y: y - 6, "text-anchor": "end" }, text));
  }
  const close = roofs.slopes.length > 1 && Math.abs(Math.log(bytes[0] / bytes[1])) < 0.25;
  roofs.slopes.forEach(([kind, rate], i) => {
    const along = evenly(Math.log(left), Math.log(Math.min(right, roofs.top / rate)), 60).map(Math.exp);
    const xs = along.filter((value) => yAt(value * rate) <= box.bottom), ys = xs.map((value) => yAt(value * rate)), last = xs.length - 1;
    if (last < 1) return;
    svg.append(draw("path", { class: "roof", d: pathOf(xs.map(xAt), ys) }));
    const text = (close ? roofs.slopes : [[kind, rate]]).map((slope) => `${slope[0]} ${quantityText(slope[1], "bytes/s")}`).join(", ");
    const across = xAt(xs[last]) - xAt(xs[0]), up = ys[last] - ys[0];
    if ((close && i) || Math.hypot(across, up) < textWidth(text) + 24) return;
    const px = (xAt(xs[0]) + xAt(xs[last])) / 2, py = (ys[0] + ys[last]) / 2, turn = (Math.atan2(up, across) * 180) / Math.PI;
    svg.append(draw("text", { class: "on", x: px, y: py - 8, "text-anchor": "middle", transform: `rotate(${turn.toFixed(1)} ${px.toFixed(1)} ${py.toFixed(1)})` }, text));
  });
}
function roofsText(roofs) {
  const flat = roofs.flat.map(([dtype, rate]) => `${dtype} ${quantityText(rate, "flop/s")}`);
  return `Calibrated roofs: ${[...flat, ...roofs.slopes.map(([kind, rate]) => `${kind} ${quantityText(rate, "bytes/s")}`)].join(", ")}.`;
}
function pointOf(figure, point, xAt, yAt) {
  const ink = colour(point.name), px = xAt(point.intensity), py = yAt(point.rate);
  const group = draw("g", { class: "mark", tabindex: 0, role: "img", stroke: ink, "stroke-width": 1.5 });
  if (point.high > point.low) group.append(draw("line", { x1: px, x2: px, y1: yAt(point.low), y2: yAt(point.high) }));
  group.append(draw("path", { d: point.shape(px, py), fill: "var(--card)", "fill-opacity": 0.6, "stroke-width": 2.2 }));
  const text = [`${point.name}${point.baseline ? " (baseline)" : ""}, ${point.heading}`,
    `${quantityText(point.rate, "flop/s")} at ${significant(point.intensity)} FLOP/byte, ${point.dtype}`,
    `${quantityText(point.attained, "ratio")} of its limit; ${point.bound} binds`].join("\n");
  group.setAttribute("aria-label", text.replaceAll("\n", ", "));
  group.dataset.name = point.name;
  tip(figure, group, text);
  return group;
}
function shapesOf(picked) {
  return make("div", { className: "key shapes" }, picked.map((chart, i) => {
    const swatch = draw("svg", { width: 18, height: 18, viewBox: "0 0 18 18", "aria-hidden": "true" });
    swatch.append(draw("path", { d: SHAPES[i % SHAPES.length](9, 9), fill: "none", stroke: "currentColor", "stroke-width": 1.6 }));
    return make("span", {}, [swatch, chart.heading]);
  }));
}
