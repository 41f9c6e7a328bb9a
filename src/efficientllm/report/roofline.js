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
    drawRoofs(svg, roofs, x, xAt, yAt, box);
    for (const point of points.filter((one) => !hidden.has(one.name)).sort((a, b) => a.intensity - b.intensity)) svg.append(pointOf(figure, point, xAt, yAt));
    walkable(figure, svg);
    figure.append(keyOf(techniques, hidden, paint), svg);
    if (picked.length > 1) figure.append(shapesOf(picked));
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
function drawRoofs(svg, roofs, x, xAt, yAt, box) {
  const left = x.ends[0], right = x.ends[1], taken = [];
  const clip = (rate) => Math.max(yAt(rate), box.top);
  for (const [dtype, rate] of [...roofs.flat].sort((a, b) => b[1] - a[1])) {
    const from = Math.max(left, Math.min(...(roofs.slopes.length ? roofs.slopes.map(([, bytes]) => rate / bytes) : [left])));
    const used = roofs.used.has(dtype);
    svg.append(draw("line", { class: used ? "roof" : "roof faint", x1: xAt(from), x2: box.right, y1: clip(rate), y2: clip(rate) }));
    const beside = taken.some((y) => Math.abs(y - yAt(rate)) < 15);
    taken.push(yAt(rate));
    if (!beside || used) svg.append(draw("text", { x: box.right - 2, y: yAt(rate) + (beside ? 15 : -6), "text-anchor": "end" }, `${dtype} ${quantityText(rate, "flop/s")}`));
  }
  const spread = roofs.slopes.length > 1 && Math.abs(Math.log(roofs.slopes[0][1] / roofs.slopes[1][1])) < 0.25;
  roofs.slopes.forEach(([kind, bytes], i) => {
    const points = evenly(Math.log(left), Math.log(Math.min(right, roofs.top / bytes)), 60).map(Math.exp).filter((value) => yAt(value * bytes) <= box.bottom);
    if (points.length < 2) return;
    svg.append(draw("path", { class: "roof", d: pathOf(points.map(xAt), points.map((value) => yAt(value * bytes))) }));
    if (spread && i) return;
    const middle = points[Math.floor(points.length / 2)];
    const label = (spread ? roofs.slopes : [[kind, bytes]]).map(([word, rate]) => `${word} ${quantityText(rate, "bytes/s")}`).join(", ");
    const angle = (Math.atan2(yAt(points[points.length - 1] * bytes) - yAt(points[0] * bytes), xAt(points[points.length - 1]) - xAt(points[0])) * 180) / Math.PI;
    const px = xAt(middle), py = yAt(middle * bytes);
    svg.append(draw("text", { x: px, y: py - 8, "text-anchor": "middle", transform: `rotate(${angle.toFixed(1)} ${px.toFixed(1)} ${py.toFixed(1)})` }, label));
  });
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
