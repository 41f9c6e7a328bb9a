// Limits that a reader sets on the two metrics of the trade-offs: "at most 800 µs", "at least 20 %".
const LIMIT_SIZES = {
  k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, m: 1e-3, "µ": 1e-6, u: 1e-6, n: 1e-9, "%": 0.01, min: 60, h: 3600,
  Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40,
};
// A quantity as somebody types it, in its base unit; null where it is none. A bare number is in the base unit.
function quantityOf(text, unit) {
  const found = text.trim().replace(",", ".").match(/^([-+]?\d*\.?\d+(?:e[-+]?\d+)?)\s*([a-zA-Zµ%]*)/);
  if (!found) return null;
  const [head] = unit.split("/"), word = { s: "s", j: "J", w: "W", bytes: "B", flop: "FLOP" }[head] || "";
  const bare = word && found[2].endsWith(word) ? found[2].slice(0, -word.length) : found[2];
  const size = bare === "" ? 1 : LIMIT_SIZES[bare];
  return size === undefined ? null : Number(found[1]) * size;
}
function limitField(form, label, changed) {
  const field = make("input", { type: "text", size: 9, autocomplete: "off" });
  const word = make("span", { textContent: label });
  field.addEventListener("change", () => changed(field.value));
  form.append(make("label", { className: "limit" }, [word, field]));
  let key = "";
  return (column, example) => { // says for which metric, and how it may be written; another metric's limit is no limit
    if (key !== column.key) field.value = "";
    key = column.key;
    word.textContent = `${column.title} ${column.better === "high" ? "≥" : "≤"}`;
    field.placeholder = example;
    const wrong = Boolean(field.value) && quantityOf(field.value, column.unit) === null;
    field.setAttribute("aria-invalid", String(wrong));
    return wrong ? null : quantityOf(field.value, column.unit);
  };
}
const keepsLimit = (column, limit, value) => limit === null || (column.better === "high" ? value >= limit : value <= limit);
// Shade what a limit rules out.
function shadeLimit(svg, column, limit, scale, box, across) {
  if (limit === null) return;
  const [low, high] = across ? [box.left, box.right] : [box.top, box.bottom];
  const at = column.log && limit <= 0 ? scale(column.ends[0]) : scale(limit), place = Math.max(low, Math.min(high, at));
  const upper = (column.better === "high") !== across; // whether the greater pixels are ruled out: upwards they fall
  const [from, to] = upper ? [place, high] : [low, place];
  svg.append(draw("rect", across
    ? { class: "ruled-out", x: from, width: to - from, y: box.top, height: box.bottom - box.top }
    : { class: "ruled-out", x: box.left, width: box.right - box.left, y: from, height: to - from }));
  if (at >= low && at <= high) svg.append(draw("line", across ? { class: "limit", x1: at, x2: at, y1: box.top, y2: box.bottom } : { class: "limit", x1: box.left, x2: box.right, y1: at, y2: at }));
}
