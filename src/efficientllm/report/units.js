// Figures as a person reads them: the same texts as `units.py` writes (a test holds both to each other).
const BYTES = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]];
const COUNTS = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
const SMALLS = [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];
function significant(value, digits = 3) {
  if (value === 0) return "0";
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
  const text = value.toFixed(Math.min(decimals, 100));
  const long = decimals && text.replace(".", "").replace(/^[-0]+/, "").length > digits;
  return long ? value.toFixed(decimals - 1) : text;
}
function stepped(value, steps, digits, otherwise) {
  const step = steps.find(([size]) => Math.abs(value) >= size);
  return step ? `${significant(value / step[0], digits)} ${step[1]}` : otherwise();
}
const countText = (value, digits) => stepped(value, COUNTS, digits, () => significant(value, digits));
const bytesText = (value, digits) => stepped(value, BYTES, digits, () => `${value.toFixed(0)} B`);
function smallText(value, name, digits) {
  return stepped(value, SMALLS, digits, () => (value ? `${significant(value / 1e-9, digits)} n` : "0 ")) + name;
}
function secondsText(value, digits) {
  if (Math.abs(value) >= 7200) return `${significant(value / 3600, digits)} h`;
  if (Math.abs(value) >= 120) return `${significant(value / 60, digits)} min`;
  return smallText(value, "s", digits);
}
const exponent = (value, decimals) => value.toExponential(decimals).replace(/e([+-])(\d)$/, "e$10$2");
function settingText(value) {
  const short = Number(value.toPrecision(6)), size = Math.abs(short);
  return size && (size < 1e-4 || size >= 1e6) ? exponent(short) : String(short);
}
function quantityText(value, unit, digits = 3) {
  const [head, ...rest] = unit.split("/"), tail = rest.length ? `/${rest.join("/")}` : "";
  if (["bits/byte", "perplexity", "nats/token", "score"].includes(unit)) return significant(value, digits);
  if (unit === "error") return exponent(value, 1);
  if (unit === "setting") return settingText(value);
  if (unit === "ratio") return `${significant(100 * value, digits)} %`;
  if (unit === "factor") return `${significant(value, digits)}×`;
  if (head === "bytes") return bytesText(value, digits) + tail;
  if (unit === "s") return secondsText(value, digits);
  if (head === "j" && Math.abs(value) >= 1e4) return `${countText(value, digits)}J${tail}`;
  if (["s", "j", "w"].includes(head)) return smallText(value, head === "s" ? head : head.toUpperCase(), digits) + tail;
  if (["tokens", "samples"].includes(head)) return countText(value, digits) + tail;
  if (head === "flop") return `${countText(value, digits)}${Math.abs(value) >= 1e3 ? "" : " "}FLOP${tail}`;
  return countText(value, digits) + (unit === "count" ? "" : ` ${unit}`);
}
function figureText(column, value) { // what the heading says already (a token) is left out
  const text = quantityText(value, column.unit || "", column.digits), at = (column.unit || "").indexOf("/");
  const per = at < 0 ? "" : column.unit.slice(at);
  return per && column.title.toLowerCase().endsWith(per) && text.endsWith(per) ? text.slice(0, -per.length) : text;
}
function halfWidthText(cell) {
  if (cell.lo === null || cell.hi === null || !cell.v) {
    if (cell.v === null) return "";
    const values = (cell.n || []).filter((value) => value !== null);
    if (!values.length) return "";
    return new Set(values).size === 1 && values.length > 1 ? "exact" : `n=${values.length}`;
  }
  const width = cell.lo > 0 ? Math.sqrt(cell.hi / cell.lo) - 1 : (cell.hi - cell.lo) / 2 / Math.abs(cell.v);
  return width < 0.0005 ? "<±0.1 %" : `±${(100 * width).toFixed(width >= 0.0995 ? 0 : 1)} %`;
}
function ratioText(cell) {
  if (cell.r === null) return "";
  const ends = cell.rl === null || cell.rh === null ? "" : ` (${significant(cell.rl)}–${significant(cell.rh)})`;
  return `${significant(cell.r)}×${ends}`;
}
const rankText = (cell) => (cell.k === null ? "" : cell.k < 0 ? `=${-cell.k}` : `#${cell.k}`);
