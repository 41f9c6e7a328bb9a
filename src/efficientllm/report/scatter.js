// Trade-offs: two metrics of one window, each technique with its intervals, and the front of these two.
function scatter() {
  const figure = document.getElementById("scatter"), form = document.getElementById("scatter-controls");
  const usable = data.sections.map((section, i) => ({ ...section, id: `s${i + 1}` })).filter((section) => section.rows.length);
  if (!usable.length) {
    empty(figure, "There is nothing to draw yet.");
    return () => {};
  }
  const metrics = (section) => section.columns
    .filter((column) => section.rows.some((row) => row.cells[column.key]))
    .map((column) => [column.key, column.title, column.group]);
  const state = { section: Math.max(0, usable.findLastIndex((s) => s.rows.some((r) => r.baseline))), x: "latency_median", y: "bits_per_byte", logX: false, logY: false };
  choice(form, "window", usable.map((s, i) => [String(i), s.heading]), String(state.section), (value) => { state.section = Number(value); fill(); });
  const xs = choice(form, "across", [], "", (value) => { state.x = value; paint(); });
  const ys = choice(form, "upwards", [], "", (value) => { state.y = value; paint(); });
  tick(form, "log x", (on) => { state.logX = on; paint(); });
  tick(form, "log y", (on) => { state.logY = on; paint(); });
  const limitX = limitField(form, "", () => paint()), limitY = limitField(form, "", () => paint());
  form.addEventListener("submit", (event) => event.preventDefault());
  function fill() {
    const options = metrics(usable[state.section]);
    const other = options.find(([key]) => key !== state.x) || options[0] || [""], has = (key) => options.some(([one]) => one === key);
    state.x = refill(xs, options, state.x);
    state.y = refill(ys, options, has(state.y) ? state.y : has("memory_mean") ? "memory_mean" : other[0]);
    paint();
  }
  function axisOf(section, key, log, rows) {
    const column = section.columns.find((one) => one.key === key);
    const all = rows.flatMap((row) => row.cells[key].filter((value) => value !== null));
    const able = log && Math.min(...all) > 0;
    return { ...column, log: able, ends: range(all, able) };
  }
  function paint() {
    const section = usable[state.section];
    const rows = section.rows.filter((row) => row.cells[state.x] && row.cells[state.y]);
    figure.replaceChildren();
    if (!rows.length) {
      empty(figure, "No technique has both figures in this window.");
      return;
    }
    const x = axisOf(section, state.x, state.logX, rows), y = axisOf(section, state.y, state.logY, rows);
    figure.dataset.label = `${y.title} against ${x.title}, ${section.heading}`;
    const { svg, box, xAt, yAt } = frame(figure, x, y);
    const most = [limitX(x, quantityText(rows[0].cells[x.key][0], x.unit)), limitY(y, quantityText(rows[0].cells[y.key][0], y.unit))];
    shadeLimit(svg, x, most[0], xAt, box, true);
    shadeLimit(svg, y, most[1], yAt, box, false);
    const marks = rows.map((row) => ({ name: row.name, row, x: row.cells[x.key], y: row.cells[y.key], px: xAt(row.cells[x.key][0]), py: yAt(row.cells[y.key][0]) }));
    const standing = frontOf(marks, x.better, y.better);
    for (const mark of marks) {
      Object.assign(mark, standing.get(mark.name) || { front: false, beaten: [] });
      mark.kept = keepsLimit(x, most[0], mark.x[0]) && keepsLimit(y, most[1], mark.y[0]);
    }
    marks.sort((a, b) => a.px - b.px);
    const line = frontLine(marks.filter((mark) => mark.front), x, y, box);
    if (line) svg.append(draw("path", { class: "front", d: line }));
    const taken = marks.map((mark) => ({ left: mark.px - 8, right: mark.px + 8, top: mark.py - 8, bottom: mark.py + 8 }));
    const groups = new Map(marks.map((mark) => [mark, markOf(figure, section, mark, x, y, xAt, yAt)]));
    for (const mark of marks) svg.append(groups.get(mark));
    const weight = (mark) => (mark.row.baseline ? 2 : 0) + (mark.front ? 1 : 0);
    for (const mark of [...marks].sort((a, b) => weight(b) - weight(a))) labelled(groups.get(mark), mark, box, taken);
    walkable(figure, svg);
    figure.append(svg, legendOf(section, x, y, standing.size > 0, most.some((limit) => limit !== null) ? marks.filter((mark) => mark.kept) : null));
  }
  fill();
  return paint;
}
function frontLine(front, x, y, box) {
  if (!front.length) return "";
  const order = [...front].sort((a, b) => (x.better === "low" ? a.px - b.px : b.px - a.px)), first = order[0];
  const worseX = x.better === "low" ? box.right : box.left, worseY = y.better === "low" ? box.top : box.bottom;
  const steps = order.slice(1).map((mark) => `H${mark.px.toFixed(1)}V${mark.py.toFixed(1)}`).join("");
  return `M${first.px.toFixed(1)} ${worseY}V${first.py.toFixed(1)}${steps}H${worseX}`;
}
function markOf(figure, section, mark, x, y, xAt, yAt) {
  const { row, px, py } = mark, ink = colour(row.name), [, lx, hx] = mark.x, [, ly, hy] = mark.y;
  const group = draw("g", { class: mark.beaten.length ? "mark beaten" : "mark", tabindex: 0, role: "img", stroke: ink, "stroke-width": 1.5 });
  if (lx !== null) group.append(draw("line", { x1: xAt(lx), x2: xAt(hx), y1: py, y2: py, opacity: 0.7 }));
  if (ly !== null) group.append(draw("line", { x1: px, x2: px, y1: yAt(ly), y2: yAt(hy), opacity: 0.7 }));
  const look = { fill: mark.front ? ink : "var(--card)", "stroke-width": 2.5 };
  group.append(row.baseline
    ? draw("rect", { x: px - 6, y: py - 6, width: 12, height: 12, rx: 2, ...look })
    : draw("circle", { cx: px, cy: py, r: 6.5, ...look }));
  const told = (column, [value, low, high]) => {
    const ends = low === null ? "" : `  (${quantityText(low, column.unit)} to ${quantityText(high, column.unit)})`;
    return `${column.title}: ${quantityText(value, column.unit)}${ends}`;
  };
  const text = [`${row.name}${row.baseline ? " (baseline)" : ""}`, told(x, mark.x), told(y, mark.y),
    mark.kept ? "" : "outside the limits",
    mark.front ? "on the front of these two" : mark.beaten.length ? `beaten by ${mark.beaten.slice(0, 3).join(", ")}` : "",
    row.front ? "◆ beaten by none on memory, latency and quality together" : ""].filter(Boolean).join("\n");
  group.setAttribute("aria-label", text.replaceAll("\n", ", "));
  group.dataset.name = row.name;
  tip(figure, group, text);
  const open = () => { hideBubble(figure); openRecordsOf(section, y.key, row.name, group); };
  group.addEventListener("click", open);
  group.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault(); // else it would press the button that gets the focus
    open();
  });
  return group;
}
function openRecordsOf(section, key, name, node) { // the evidence of the upward metric, with its raw records
  const table = [tablesById.get(section.id), ...data.tables].find((one) => one && one.picks && one.heading === section.heading && one.names.includes(name));
  const column = table && table.columns.find((one) => one.key === key);
  if (column) showEvidence(table, column, table.names.indexOf(name), node);
}
function labelled(group, mark, box, taken) { // where there is room; the hint has the name in any case
  const size = textWidth(mark.name, "600 13px") + 2, { px, py } = mark;
  const places = [[11, -10, "start"], [-11, -10, "end"], [11, 20, "start"], [-11, 20, "end"], [0, -14, "middle"], [0, 24, "middle"], [11, -26, "start"], [11, 36, "start"]];
  const boxOf = ([dx, dy, anchor]) => {
    const left = px + dx - { start: 0, middle: size / 2, end: size }[anchor];
    return { left, right: left + size, top: py + dy - 11, bottom: py + dy + 3 };
  };
  const fits = (place) => {
    const own = boxOf(place), apart = (t) => own.left > t.right || own.right < t.left || own.top > t.bottom || own.bottom < t.top;
    return own.left > box.left && own.right < box.right + 14 && own.top > box.top - 20 && own.bottom < box.bottom && taken.every(apart);
  };
  const place = places.find(fits);
  if (!place) return;
  taken.push(boxOf(place));
  group.append(draw("text", { class: "label", x: px + place[0], y: py + place[1], "text-anchor": place[2], stroke: "none" }, mark.name));
}
function legendOf(section, x, y, judged, kept) {
  const plain = [x, y].filter((column) => !column.better).map((column) => column.title);
  const text = judged
    ? "■ baseline · filled: on the front of these two metrics (stepped line), by the estimates · faded: beaten beyond the 95 % intervals"
    : `■ baseline · no front: ${plain.join(" and ")} ${plain.length > 1 ? "have" : "has"} no better side`;
  return make("figcaption", { textContent: `${section.heading}. ${kept ? `Within the limits: ${kept.map((mark) => mark.name).join(", ") || "none"}. ` : ""}${text}` });
}
