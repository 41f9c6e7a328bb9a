// One cell of any table: its parts from the page's data, and how it is drawn.
const VERDICTS = { b: ["better", "▲"], w: ["worse", "▼"], e: ["equivalent", "≈"], u: ["unresolved", "?"] };
const PARTS = ["v", "lo", "hi", "r", "rl", "rh", "w", "k", "n", "t", "a", "y"];
const noteNumbers = new Map(); // reason -> its number among those that the tables show now
for (const table of data.tables) { // columns and sources stand once for all tables
  table.sources = data.sources[table.sources];
  const heads = new Set(table.heads);
  table.columns = table.columns.map((number, place) => ({ ...data.columns[number], head: heads.has(place) }));
}
const tablesById = new Map(data.tables.map((table) => [table.id, table]));
const at = (list, index) => (list && index < list.length ? list[index] : null);
function placeOf(parts, index) { // where a row stands in its column's lists; -1: it is left out
  if (!parts.i) return index;
  parts.places ??= new Map(parts.i.map((row, place) => [row, place]));
  return parts.places.get(index) ?? -1;
}
function cellOf(table, key, index) {
  const parts = table.cells[key] || {}, place = placeOf(parts, index), cell = {};
  for (const part of PARTS) cell[part] = place < 0 ? null : at(parts[part], place);
  if (place < 0) cell.a = parts.rest;
  return cell;
}
const isFailed = (table, index) => Boolean(at(table.outcome, index));
function reachOf(table, columns) { // the bars end at the largest ratio shown, between 10 % and four times; 0: no bars
  const ratios = columns.flatMap((column) => ["r", "rl", "rh"].flatMap((part) => (table.cells[column.key] || {})[part] || []));
  return ratios.length && Math.min(Math.log(4), ratios.reduce((most, ratio) => (ratio > 0 ? Math.max(most, Math.abs(Math.log(ratio))) : most), Math.log(1.1)));
}
function bar(cell, reach) {
  const node = make("span", { className: "bar", ariaHidden: "true" });
  if (!(cell.r > 0)) return Object.assign(node, { className: "bar none" });
  const [low, middle, high] = [cell.rl || cell.r, cell.r, cell.rh || cell.r]
    .map((ratio) => 50 + 50 * Math.max(-1, Math.min(1, Math.log(ratio) / reach)));
  const span = make("i"), dot = make("b");
  span.style.left = `${low}%`;
  span.style.right = `${100 - high}%`;
  dot.style.left = `${middle}%`;
  node.append(span, dot);
  return node;
}
function intervalText(column, cell) {
  if (cell.lo !== null && cell.hi !== null) return `95 % interval ${figureText(column, cell.lo)} to ${figureText(column, cell.hi)}`;
  return cell.y === null ? "" : data.reasons[cell.y - 1];
}
function againstText(cell) {
  return cell.w ? `${VERDICTS[cell.w][0]} against the baseline: ${ratioText(cell)}` : "";
}
function hintOf(column, cell) {
  if (cell.a !== null) return data.reasons[cell.a - 1];
  return [column.meaning, intervalText(column, cell), againstText(cell)].filter(Boolean).join("; ");
}
function cellNode(table, column, index, reach) {
  const cell = cellOf(table, column.key, index), node = make("td", { tabIndex: -1, title: hintOf(column, cell) });
  Object.assign(node.dataset, { label: column.title, key: column.key, row: index });
  if (cell.t !== null) {
    node.className = "words";
    node.append(make("span", { className: "figure", textContent: cell.t }));
    return node;
  }
  if (cell.v === null) {
    node.className = "absent";
    const figure = make("span", { className: "figure", textContent: "–" });
    if (cell.a !== null) figure.append(make("sup", { textContent: noteNumbers.get(cell.a) || "" }));
    node.append(figure);
    return node;
  }
  const [verdict, sign] = VERDICTS[cell.w] || ["", ""];
  node.className = `${verdict}${Math.abs(cell.k) === 1 ? " first" : ""}`.trim();
  const figure = make("span", { className: "figure", textContent: figureText(column, cell.v) });
  if (sign) {
    const mark = make("span", { className: "sign", textContent: sign, ariaLabel: verdict });
    mark.setAttribute("role", "img");
    figure.append(" ", mark);
  }
  const evidence = make("span", { className: "evidence", textContent: halfWidthText(cell) });
  if (cell.k !== null) evidence.append(" ", make("span", { className: "rank", textContent: rankText(cell) }));
  node.append(figure, ...(reach ? [bar(cell, reach)] : []), evidence);
  return node;
}
function nameNode(table, index) {
  const head = make("th", { scope: "row", tabIndex: -1 }), quiet = (text) => make("span", { className: "stated", textContent: text });
  head.dataset.row = index;
  head.append(make("span", { className: "name", textContent: table.names[index] }));
  if (table.baseline.includes(index)) head.append(" ", make("span", { className: "tag", textContent: "baseline" }));
  if (table.front.includes(index)) head.append(" ", make("span", { className: "tag front", textContent: "◆ front", title: "beaten by none on memory, latency and quality" }));
  const said = at(table.said, index), beaten = at(table.beaten, index), reason = at(table.reason, index);
  if (said) head.append(quiet(said));
  if (beaten) head.append(quiet(`beaten by ${beaten}`));
  if (reason && !isFailed(table, index)) head.append(quiet(reason));
  return head;
}
function failedNode(table, index, span) {
  const node = make("td", { className: "outcome", colSpan: span, tabIndex: -1 });
  node.dataset.row = index;
  node.append(make("strong", { textContent: at(table.outcome, index) }), " ", at(table.reason, index) || "");
  return node;
}
