// Axes: ends, ticks, scales, and the frame that a chart stands in.
const TICK_STEPS = { 10: [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]],
  2: [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]] };
const baseOf = (unit) => (unit.startsWith("bytes") ? 2 : 10);
function tickText(value, unit, digits) {
  if (value === 0) return "0";
  const bare = (number) => String(Number(number.toPrecision(digits)));
  if (unit === "ratio") return `${bare(100 * value)} %`;
  if (unit === "factor") return `${bare(value)}×`;
  if (unit === "error") return Number(value.toPrecision(digits)).toExponential();
  if (["bits/byte", "nats/token", "perplexity", "score", "setting"].includes(unit)) return bare(value);
  const [head, ...per] = unit.split("/"), tail = per.length && !["count", "tokens", "samples"].includes(head) ? `/${per.join("/")}` : "";
  const word = { s: "s", j: "J", w: "W", flop: "FLOP" }[head] || "";
  const many = head === "s" ? TICK_STEPS[10].slice(5) : TICK_STEPS[baseOf(unit)];
  const [size, prefix] = many.find(([step]) => Math.abs(value) >= step * 0.9999) || many[many.length - 1];
  return `${bare(value / size)} ${prefix}${word}`.trim() + tail;
}
function tickTexts(values, unit) { // as short as they can be and still differ
  for (const digits of [3, 4, 5, 6, 8]) {
    const texts = values.map((value) => tickText(value, unit, digits));
    if (new Set(texts).size === texts.length) return texts;
  }
  return values.map((value) => tickText(value, unit, 10));
}
function range(values, log) {
  const low = Math.min(...values), high = Math.max(...values);
  if (log) {
    const pad = Math.max((Math.log(high) - Math.log(low)) * 0.12, 0.02);
    return [Math.exp(Math.log(low) - pad), Math.exp(Math.log(high) + pad)];
  }
  const pad = (high - low) * 0.12 || Math.abs(high) * 0.05 || 1;
  return [low - pad, high + pad];
}
function ticks([low, high], log, many, base) {
  if (log && high / low > 8) {
    for (const steps of base === 2 ? [[1]] : [[1, 2, 5], [1, 3], [1]]) {
      const found = [];
      for (let power = Math.floor(Math.log(low) / Math.log(base)); base ** power <= high; power += 1) for (const step of steps) found.push(step * base ** power);
      const inside = found.filter((value) => value >= low && value <= high), every = Math.ceil(inside.length / many);
      if (every <= 1 || steps.length === 1) return inside.filter((_, i) => i % Math.max(1, every) === 0);
    }
  }
  const unit = base === 2 ? 2 ** (10 * Math.max(0, Math.floor(Math.log2(Math.max(high, 1)) / 10))) : 1;
  const rough = (high - low) / unit / many, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999) * power * unit, found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return found;
}
function axis(ends, pixels, log) {
  const move = log ? Math.log : (value) => value;
  const [low, high] = ends.map(move), [from, to] = pixels;
  return (value) => from + ((move(value) - low) / (high - low || 1)) * (to - from);
}
const PAPER_WIDTH = 538, paper = { width: 0 };
const widthOf = (figure) => paper.width || Math.max(300, figure.clientWidth - 22);
const pen = document.createElement("canvas").getContext("2d");
function textWidth(text, font = "12px") {
  pen.font = `${font} system-ui, sans-serif`;
  return pen.measureText(text).width;
}
function gridX(svg, x, xAt, box, many) {
  const values = ticks(x.ends, x.log, many, baseOf(x.unit)), texts = tickTexts(values, x.ticks || x.unit);
  let end = -Infinity;
  values.forEach((value, i) => {
    const at = xAt(value), half = textWidth(texts[i]) / 2;
    svg.append(draw("line", { class: "grid", x1: at, x2: at, y1: box.top, y2: box.bottom }));
    if (at - half < end + 6) return;
    svg.append(draw("text", { x: at, y: box.bottom + 18, "text-anchor": "middle" }, texts[i]));
    end = at + half;
  });
}
function gridY(svg, y, yAt, box, many) {
  const values = ticks(y.ends, y.log, many, baseOf(y.unit)), texts = tickTexts(values, y.ticks || y.unit);
  values.forEach((value, i) => {
    svg.append(draw("line", { class: "grid", x1: box.left, x2: box.right, y1: yAt(value), y2: yAt(value) }));
    svg.append(draw("text", { x: box.left - 9, y: yAt(value) + 4, "text-anchor": "end" }, texts[i]));
  });
}
function frame(figure, x, y) {
  const width = widthOf(figure), narrow = width < 560;
  const height = Math.round(Math.min(460, Math.max(300, width * 0.5)));
  const box = { left: 78, right: width - 18, top: 34, bottom: height - 46 };
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": figure.dataset.label });
  const xAt = axis(x.ends, [box.left, box.right], x.log), yAt = axis(y.ends, [box.bottom, box.top], y.log);
  gridX(svg, x, xAt, box, narrow ? 4 : 7);
  gridY(svg, y, yAt, box, 6);
  const arrow = (side, words) => words[side] || "";
  svg.append(draw("text", { class: "axis", x: box.right, y: height - 6, "text-anchor": "end" },
    `${x.title}  ${arrow(x.better, { low: "← better", high: "better →" })}`.trim()));
  svg.append(draw("text", { class: "axis", x: 6, y: 16 }, `${y.title}  ${arrow(y.better, { low: "↓ better", high: "↑ better" })}`.trim()));
  return { svg, box, xAt, yAt };
}
