// Every table of the page: which rows and columns it shows, in which order; drawn when it is near to being seen.
const FIRST_ROWS = 60, FIRST_OF_MANY = 24, MORE_ROWS = 200, AT_ONCE = 6000, MANY_TABLES = 60;
const drawn = new Map(); // table id -> its board
const axisValue = (table, axis, index) => { const values = table.axes[axis]; return Array.isArray(values) ? values[index] : values; };
// The reader's metrics: a section's headlines and what was added (`latency_p95`), less what was taken off (`-mfu`).
const isPicked = (picked, key, head) => (head ? !picked.includes(`-${key}`) : picked.includes(key));
const pickedMetrics = () => choiceOf("metrics").split(",").filter(Boolean);
function columnsOf(table) {
  const picked = table.picks ? pickedMetrics() : [];
  return table.columns.filter((column) => isPicked(picked, column.key, column.head));
}
const SHOWN = ["", "front", "ok", "failed"]; // else the name of an outcome
function matches(table, index) {
  if (table.rowsAre !== "technique") return true;
  const words = choiceOf("q").toLowerCase().split(/\s+/).filter(Boolean), show = choiceOf("show");
  const text = `${table.names[index]} ${at(table.outcome, index) || ""} ${at(table.reason, index) || ""}`.toLowerCase();
  if (!words.every((word) => text.includes(word))) return false;
  if (show === "front" && !(table.front.includes(index) || (table.baseline.includes(index) && table.front.length))) return false;
  if (show === "ok" && isFailed(table, index)) return false;
  if (show === "failed" && !isFailed(table, index)) return false;
  if (!SHOWN.includes(show) && show !== at(table.outcome, index)) return false;
  return [...chosen].every(([key, value]) => {
    const own = key.startsWith("axis.") ? axisValue(table, key.slice(5), index) : undefined;
    return own === undefined || own === "" || own === value;
  });
}
function rowsOf(table) {
  if (choiceOf("stage") && choiceOf("stage") !== table.stage) return [];
  return sorted(table, table.names.map((_, index) => index).filter((index) => matches(table, index)));
}
function sorted(table, rows) {
  const [key, order] = choiceOf(`sort.${table.id}`).split(":"), sign = order === "down" ? -1 : 1;
  if (!key) return rows;
  if (key === "name") return rows.sort((a, b) => sign * table.names[a].localeCompare(table.names[b], undefined, { numeric: true }));
  const value = (index) => cellOf(table, key, index).v, found = rows.map((index) => [index, value(index)]);
  const known = found.filter((one) => one[1] !== null).sort((a, b) => sign * (a[1] - b[1]));
  return [...known, ...found.filter((one) => one[1] === null)].map((one) => one[0]);
}
function nextOrder(table, key, better) { // best first, then the other way, then as measured
  const first = better === "high" ? "down" : "up", [now, order] = choiceOf(`sort.${table.id}`).split(":");
  if (now !== key) return `${key}:${first}`;
  return order === first ? `${key}:${first === "up" ? "down" : "up"}` : "";
}
function headNode(table, key, title, column) {
  const head = make("th", { scope: "col" }), [now, order] = choiceOf(`sort.${table.id}`).split(":");
  if (now === key) head.setAttribute("aria-sort", order === "down" ? "descending" : "ascending");
  if (column) head.title = `${column.meaning || ""}${column.symbol ? ` (the paper's ${column.symbol})` : ""}`;
  const button = make("button", { type: "button" }, title.split("/").flatMap((part, i) => (i ? ["/", make("wbr"), part] : [part])));
  if (column && column.better) {
    const side = make("span", { className: "side", textContent: column.better === "low" ? "↓" : "↑", ariaLabel: `${column.better} is better` });
    side.setAttribute("role", "img");
    button.append(side);
  }
  button.dataset.sort = key;
  head.append(button);
  return head;
}
// A grid of what is shown, for copying.
function gridOf(table, rows, columns) {
  const lines = rows.map((index) => ({
    name: table.names[index] + (table.baseline.includes(index) ? " (baseline)" : ""),
    cells: columns.map((column, place) => gridCell(table, column, index, place)),
  }));
  return { heads: [{ title: table.rowsAre }, ...columns], lines, caption: table.heading };
}
function gridCell(table, column, index, place = 0) {
  const cell = cellOf(table, column.key, index), failed = isFailed(table, index), none = cell.v === null || cell.t !== null;
  const [verdict, sign] = VERDICTS[cell.w] || ["", ""];
  const figure = failed ? (place ? "–" : at(table.outcome, index)) : cell.t !== null ? cell.t : none ? "–" : figureText(column, cell.v);
  const evidence = none || failed ? "" : `${halfWidthText(cell)} ${rankText(cell)}`.trim();
  return { ...cell, v: none ? null : cell.v, figure, sign, verdict, evidence, first: !none && Math.abs(cell.k) === 1 };
}
class Board {
  constructor(article, table) {
    Object.assign(this, { article, table, most: table.names.length > FIRST_ROWS ? FIRST_OF_MANY : FIRST_ROWS, place: article.querySelector(".scroll"), near: false });
    this.refresh();
  }
  refresh() { // after a choice: which rows and columns are left
    this.rows = rowsOf(this.table);
    this.columns = columnsOf(this.table);
    this.article.hidden = !this.rows.length || !this.columns.length;
    this.place.style.minHeight = this.near ? "" : `${Math.min(this.rows.length, this.most) * 64 + 40}px`;
  }
  prepare() {
    this.sortBy = make("select");
    this.sortBy.addEventListener("change", () => choose({ [`sort.${this.table.id}`]: this.sortBy.value }));
    const tools = make("div", { className: "board-tools" }, [make("label", { className: "sort-by" }, ["sort by", this.sortBy]), copyMenu(() => gridOf(this.table, rowsOf(this.table), columnsOf(this.table)))]);
    this.article.querySelector("h3").after(tools);
    this.more = make("div", { className: "more" });
    this.place.after(this.more);
  }
  draw() {
    if (!this.near) this.prepare();
    this.near = true;
    this.place.style.minHeight = "";
    const { table, columns } = this, focused = this.place.contains(document.activeElement) ? document.activeElement : null;
    const back = focused && focused.dataset.sort, reach = reachOf(table, columns);
    const heads = [headNode(table, "name", table.rowsAre), ...columns.map((column) => headNode(table, column.key, column.title, column))];
    const body = make("tbody", {}, this.rows.slice(0, this.most).map((index) => this.line(index, columns, reach)));
    const board = make("table", { className: `board${reach ? " signed" : ""}` }, [make("caption", { className: "visually-hidden", textContent: table.heading }), make("thead", {}, make("tr", {}, heads)), body]);
    this.place.replaceChildren(board);
    const first = board.querySelector("td, tbody th");
    if (first) first.tabIndex = 0; // one stop of the Tab key, then arrows
    if (back) board.querySelector(`[data-sort="${CSS.escape(back)}"]`)?.focus();
    this.fillSortBy();
    const left = this.rows.length - this.most;
    const button = (text, most) => make("button", { type: "button", className: "quiet", textContent: text, onclick: () => { this.most = most; this.draw(); } });
    this.more.replaceChildren(...(left > 0 ? [`${this.most} of ${this.rows.length} rows `, button(`${Math.min(left, MORE_ROWS)} more`, this.most + MORE_ROWS), ...(left > MORE_ROWS ? [" ", button("all", Infinity)] : [])] : []));
  }
  line(index, columns, reach) {
    const { table } = this, failed = isFailed(table, index);
    const row = make("tr", { className: `${table.baseline.includes(index) ? "baseline" : ""}${failed ? " failed" : ""}`.trim() }, nameNode(table, index));
    if (failed) row.append(failedNode(table, index, columns.length));
    else row.append(...columns.map((column) => cellNode(table, column, index, reach)));
    return row;
  }
  fillSortBy() {
    const options = [["", "as measured"], ["name:up", this.table.rowsAre]];
    for (const { key, title, better } of this.columns) options.push([`${key}:${better === "high" ? "down" : "up"}`, title]);
    refill(this.sortBy, options, choiceOf(`sort.${this.table.id}`));
  }
}
