// Trade-offs: two metrics of one window, each technique with its intervals.
function scatter() {
  const figure = document.getElementById("scatter"), form = document.getElementById("scatter-controls");
  const usable = data.sections.filter((section) => section.rows.length);
  if (!usable.length) {
    figure.append(make("p", { textContent: "There is nothing to draw yet." }));
    return () => {};
  }
  const metrics = (section) => section.columns
    .filter((column) => section.rows.some((row) => row.cells[column.key]))
    .map((column) => [column.key, column.title]);
  const state = { section: Math.max(0, usable.findLastIndex((s) => s.rows.some((r) => r.baseline))), x: "latency_median", y: "bits_per_byte", log: false };
  choice(form, "window", usable.map((s, i) => [String(i), s.heading]), String(state.section), (value) => { state.section = Number(value); fill(); });
  const xs = choice(form, "across", [], "", (value) => { state.x = value; paint(); });
  const ys = choice(form, "upwards", [], "", (value) => { state.y = value; paint(); });
  const log = make("input", { type: "checkbox" });
  log.addEventListener("change", () => { state.log = log.checked; paint(); });
  form.append(make("label", {}, [log, "logarithmic"]));
  form.addEventListener("submit", (event) => event.preventDefault());
  function fill() {
    const options = metrics(usable[state.section]);
    state.x = refill(xs, options, state.x);
    state.y = refill(ys, options, options.some(([key]) => key === state.y) ? state.y : "memory_mean");
    paint();
  }
  function paint() {
    const section = usable[state.section];
    const of = (key) => section.columns.find((column) => column.key === key);
    const x = { ...of(state.x), log: state.log }, y = { ...of(state.y), log: state.log };
    const rows = section.rows.filter((row) => row.cells[x.key] && row.cells[y.key]);
    figure.replaceChildren();
    if (!rows.length) {
      figure.append(make("p", { textContent: "No technique has both figures in this window." }));
      return;
    }
    const all = (key) => rows.flatMap((row) => row.cells[key].filter((value) => value !== null));
    x.log = x.log && Math.min(...all(x.key)) > 0;
    y.log = y.log && Math.min(...all(y.key)) > 0;
    x.ends = range(all(x.key), x.log);
    y.ends = range(all(y.key), y.log);
    figure.dataset.label = `${y.title} against ${x.title}, ${section.heading}`;
    const { svg, box, xAt, yAt } = frame(figure, x, y);
    const taken = [];
    for (const row of rows) svg.append(point(figure, row, x, y, xAt, yAt, box, taken));
    figure.append(svg);
  }
  function point(figure, row, x, y, xAt, yAt, box, taken) {
    const [vx, lx, hx] = row.cells[x.key], [vy, ly, hy] = row.cells[y.key];
    const px = xAt(vx), py = yAt(vy), ink = colour(row.name);
    const group = draw("g", { tabindex: 0, role: "img", stroke: ink, "stroke-width": 1.5 });
    if (lx !== null) group.append(draw("line", { x1: xAt(lx), x2: xAt(hx), y1: py, y2: py, opacity: 0.7 }));
    if (ly !== null) group.append(draw("line", { x1: px, x2: px, y1: yAt(ly), y2: yAt(hy), opacity: 0.7 }));
    const look = { fill: row.front ? ink : "var(--card)", "stroke-width": 2.5 };
    group.append(row.baseline
      ? draw("rect", { x: px - 6, y: py - 6, width: 12, height: 12, rx: 2, ...look })
      : draw("circle", { cx: px, cy: py, r: 6.5, ...look }));
    const size = 7.5 * row.name.length, spots = [[11, -10, "start"], [-11, -10, "end"], [11, 20, "start"], [-11, 20, "end"], [11, -26, "start"], [11, 36, "start"]];
    const fits = ([dx, dy, anchor]) => {
      const left = anchor === "start" ? px + dx : px + dx - size, top = py + dy - 11;
      const free = taken.every((t) => left > t.right || left + size < t.left || top > t.bottom || top + 14 < t.top);
      return free && left > box.left && left + size < box.right + 14 && top > box.top - 20;
    };
    const [dx, dy, anchor] = spots.find(fits) || spots[0];
    const left = anchor === "start" ? px + dx : px + dx - size;
    taken.push({ left, right: left + size, top: py + dy - 11, bottom: py + dy + 3 }, { left: px - 8, right: px + 8, top: py - 8, bottom: py + 8 });
    group.append(draw("text", { class: "label", x: px + dx, y: py + dy, "text-anchor": anchor, stroke: "none" }, row.name));
    const span = (low, high, unit) => (low === null ? "" : `  (${write(low, unit)} to ${write(high, unit)})`);
    const text = `${row.name}${row.baseline ? " (baseline)" : ""}\n${x.title}: ${write(vx, x.unit)}${span(lx, hx, x.unit)}\n${y.title}: ${write(vy, y.unit)}${span(ly, hy, y.unit)}`;
    group.setAttribute("aria-label", text.replaceAll("\n", ", "));
    tip(figure, group, text);
    return group;
  }
  fill();
  return paint;
}
