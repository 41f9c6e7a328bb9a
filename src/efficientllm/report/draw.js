// What every chart needs: elements, numbers in units, axes, hints. All scripts of the page share one scope.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const names = [...new Set(data.sections.flatMap((s) => s.rows.map((r) => r.name)).concat(data.curves.map((c) => c.technique)))];
const colour = (name) => `var(--c${names.indexOf(name) % 8})`;
function draw(tag, attributes = {}, children = []) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  for (const child of [].concat(children)) node.append(child);
  return node;
}
function make(tag, properties = {}, children = []) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...[].concat(children));
  return node;
}
function digits(value) {
  if (value === 0) return "0";
  const decimals = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return String(Number(value.toFixed(Math.min(decimals, 12))));
}
function scaled(value, steps) {
  const [size, name] = steps.find(([size]) => Math.abs(value) >= size) || steps[steps.length - 1];
  return `${digits(value / size)} ${name}`;
}
const DECIMAL = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];
const BINARY = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]];
function write(value, unit) {
  if (value === 0) return "0";
  if (unit === "ratio") return `${digits(100 * value)} %`;
  if (unit === "factor") return `${digits(value)}×`;
  if (["bits/byte", "nats/token", "perplexity"].includes(unit)) return String(Number(value.toPrecision(4)));
  const [head, ...per] = unit.split("/");
  const tail = per.length ? `/${per.join("/")}` : "";
  if (head === "bytes") return scaled(value, BINARY) + tail;
  if (["s", "j", "w"].includes(head)) {
    const steps = head === "s" ? DECIMAL.slice(4) : DECIMAL;
    return scaled(value, steps) + (head === "s" ? "s" : head.toUpperCase()) + tail;
  }
  return scaled(value, value >= 1 ? DECIMAL.slice(0, 5) : DECIMAL.slice(4)).trim() + tail;
}

// Axes: ends, ticks, scales, and the frame that a chart stands in.
function range(values, log) {
  let low = Math.min(...values), high = Math.max(...values);
  if (log) {
    const pad = Math.max((Math.log(high) - Math.log(low)) * 0.12, 0.02);
    return [Math.exp(Math.log(low) - pad), Math.exp(Math.log(high) + pad)];
  }
  const pad = (high - low) * 0.12 || Math.abs(high) * 0.05 || 1;
  return [low - pad, high + pad];
}
function ticks([low, high], log, many, base) {
  if (log && high / low > 8) {
    const root = base === 2 ? 2 : 10, found = [];
    for (let power = Math.floor(Math.log(low) / Math.log(root)); root ** power <= high; power += 1) {
      for (const step of root === 2 ? [1] : [1, 2, 5]) found.push(step * root ** power);
    }
    const inside = found.filter((value) => value >= low && value <= high);
    const every = Math.ceil(inside.length / many);
    return inside.filter((_, i) => i % every === 0);
  }
  const unit = base === 2 ? 2 ** (10 * Math.max(0, Math.floor(Math.log2(high) / 10))) : 1;
  const rough = (high - low) / unit / many;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((m) => m * power >= rough) * power * unit;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return found;
}
function axis(ends, pixels, log) {
  const move = log ? Math.log : (value) => value;
  const [low, high] = ends.map(move), [from, to] = pixels;
  return (value) => from + ((move(value) - low) / (high - low || 1)) * (to - from);
}
function frame(figure, x, y) {
  const width = Math.max(300, figure.clientWidth - 22), narrow = width < 560;
  const height = Math.round(Math.min(460, Math.max(300, width * 0.5)));
  const box = { left: 70, right: width - 18, top: 34, bottom: height - 46 };
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": figure.dataset.label });
  const xAt = axis(x.ends, [box.left, box.right], x.log), yAt = axis(y.ends, [box.bottom, box.top], y.log);
  const base = (unit) => (unit.startsWith("bytes") ? 2 : 10);
  for (const value of ticks(x.ends, x.log, narrow ? 4 : 7, base(x.unit))) {
    svg.append(draw("line", { class: "grid", x1: xAt(value), x2: xAt(value), y1: box.top, y2: box.bottom }));
    svg.append(draw("text", { x: xAt(value), y: box.bottom + 18, "text-anchor": "middle" }, write(value, x.unit)));
  }
  for (const value of ticks(y.ends, y.log, 6, base(y.unit))) {
    svg.append(draw("line", { class: "grid", x1: box.left, x2: box.right, y1: yAt(value), y2: yAt(value) }));
    svg.append(draw("text", { x: box.left - 9, y: yAt(value) + 4, "text-anchor": "end" }, write(value, y.unit)));
  }
  const arrow = (side, horizontal) => ({ low: horizontal ? "← better" : "↓ better", high: horizontal ? "better →" : "↑ better" })[side] || "";
  svg.append(draw("text", { class: "axis", x: box.right, y: height - 6, "text-anchor": "end" }, `${x.title}  ${arrow(x.better, true)}`.trim()));
  svg.append(draw("text", { class: "axis", x: 6, y: 16 }, `${y.title}  ${arrow(y.better, false)}`.trim()));
  return { svg, box, xAt, yAt };
}
function choice(form, label, options, chosen, changed) {
  const select = make("select", {}, options.map(([value, text]) => make("option", { value, textContent: text, selected: value === chosen })));
  select.addEventListener("change", () => changed(select.value));
  form.append(make("label", {}, [label, select]));
  return select;
}
function refill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => make("option", { value, textContent: text })));
  select.value = options.some(([value]) => value === chosen) ? chosen : (options[0] || [""])[0];
  return select.value;
}
function tip(figure, node, text) {
  const show = () => {
    hide();
    const bubble = make("div", { className: "tip", textContent: text });
    figure.append(bubble);
    const at = node.getBoundingClientRect(), in_ = figure.getBoundingClientRect();
    const left = at.left - in_.left + at.width / 2 - bubble.offsetWidth / 2;
    bubble.style.left = `${Math.max(4, Math.min(left, in_.width - bubble.offsetWidth - 4))}px`;
    const above = at.top - in_.top - bubble.offsetHeight - 10;
    bubble.style.top = `${above > 0 ? above : at.bottom - in_.top + 10}px`;
  };
  const hide = () => figure.querySelectorAll(".tip").forEach((bubble) => bubble.remove());
  node.addEventListener("mouseenter", show);
  node.addEventListener("focus", show);
  node.addEventListener("mouseleave", hide);
  node.addEventListener("blur", hide);
}
