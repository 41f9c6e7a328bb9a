// What every chart needs: elements, colours, controls, hints. All scripts of the page share one scope.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const names = [...new Set([
  ...data.sections.flatMap((section) => section.rows.map((row) => row.name)), ...data.curves.map((curve) => curve.technique),
])];
const COLOURS = 8, DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 2"];
const placeAmong = (name) => Math.max(0, names.indexOf(name));
const colour = (name) => `var(--c${placeAmong(name) % COLOURS})`;
const dashes = (name) => DASHES[Math.floor(placeAmong(name) / COLOURS) % DASHES.length];
function draw(tag, attributes = {}, children = []) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) if (value !== "") node.setAttribute(key, value);
  for (const child of [].concat(children)) node.append(child);
  return node;
}
function make(tag, properties = {}, children = []) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...[].concat(children));
  return node;
}
function pathOf(xs, ys, starts = [0]) {
  const begins = new Set(starts);
  return xs.map((x, i) => `${begins.has(i) ? "M" : "L"}${x.toFixed(1)} ${ys[i].toFixed(1)}`).join("");
}

// Controls above a chart.
function choice(form, label, options, chosen, changed) {
  const select = make("select");
  refill(select, options, chosen);
  select.addEventListener("change", () => changed(select.value));
  form.append(make("label", {}, [label, select]));
  return select;
}
function refill(select, options, chosen) { // an option is [value, text] or [value, text, group]
  const groups = new Map();
  select.replaceChildren();
  for (const [value, text, group] of options) {
    if (group && !groups.has(group)) select.append(groups.set(group, make("optgroup", { label: group })).get(group));
    (groups.get(group) || select).append(make("option", { value, textContent: text }));
  }
  select.value = options.some(([value]) => value === chosen) ? chosen : (options[0] || [""])[0];
  return select.value;
}
function tick(form, label, changed) {
  const box = make("input", { type: "checkbox" });
  box.addEventListener("change", () => changed(box.checked));
  form.append(make("label", { className: "check" }, [box, label]));
  return box;
}
function empty(figure, text) {
  figure.replaceChildren(make("p", { textContent: text }));
}
// A key whose entries hide and show what they name; `hidden` is a set that the chart keeps.
function keyOf(techniques, hidden, repaint) {
  return make("div", { className: "key" }, techniques.map((name) => {
    const entry = make("button", { type: "button", textContent: name, title: "hide or show" });
    entry.setAttribute("aria-pressed", String(!hidden.has(name)));
    const swatch = draw("svg", { width: 22, height: 8, "aria-hidden": "true" });
    swatch.append(draw("line", { x1: 0, x2: 22, y1: 4, y2: 4, stroke: colour(name), "stroke-width": 3, "stroke-dasharray": dashes(name) }));
    entry.prepend(swatch);
    entry.addEventListener("click", () => {
      if (!hidden.delete(name)) hidden.add(name);
      const figure = entry.closest("figure");
      repaint();
      [...figure.querySelectorAll(".key button")].find((other) => other.textContent === name)?.focus();
    });
    return entry;
  }));
}

// Hints: a bubble with figures, beside a node or at a place of the figure.
function hideBubble(figure) {
  figure.querySelectorAll(".tip").forEach((bubble) => bubble.remove());
}
function showBubble(figure, text, middle, top, bottom) {
  hideBubble(figure);
  const bubble = make("div", { className: "tip", textContent: text });
  bubble.setAttribute("role", "status");
  figure.append(bubble);
  const left = Math.max(4, Math.min(middle - bubble.offsetWidth / 2, figure.clientWidth - bubble.offsetWidth - 4));
  const above = top - bubble.offsetHeight - 10;
  bubble.style.left = `${left}px`;
  bubble.style.top = `${above > 0 ? above : bottom + 10}px`;
}
function tip(figure, node, text) {
  const show = () => {
    const place = node.getBoundingClientRect(), around = figure.getBoundingClientRect();
    showBubble(figure, text, place.left - around.left + place.width / 2, place.top - around.top, place.bottom - around.top);
  };
  for (const event of ["mouseenter", "focus"]) node.addEventListener(event, show);
  for (const event of ["mouseleave", "blur"]) node.addEventListener(event, () => hideBubble(figure));
}
// Arrows go from mark to mark in the order in which they were drawn; Escape takes the hint away.
function walkable(figure, svg) {
  svg.addEventListener("keydown", (event) => {
    const marks = [...svg.querySelectorAll("[tabindex]")], by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") hideBubble(figure);
    if (!by || !marks.includes(event.target)) return;
    event.preventDefault();
    marks[(marks.indexOf(event.target) + by + marks.length) % marks.length].focus();
  });
}
