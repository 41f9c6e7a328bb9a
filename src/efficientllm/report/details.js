// What the folds under Evidence hold: all metrics of a section, turned (a metric a row), and the list of records.
function allMetrics(fold) {
  const table = tablesById.get(fold.dataset.all), place = fold.querySelector(".scroll");
  const rows = rowsOf(table).filter((index) => !isFailed(table, index)).slice(0, 40);
  const columns = table.columns.filter((column) => rows.some((index) => cellOf(table, column.key, index).v !== null));
  const none = table.columns.filter((column) => !columns.includes(column));
  const head = make("tr", {}, [make("th", { scope: "col", textContent: "metric" }), ...rows.map((index) => make("th", { scope: "col", textContent: table.names[index] }))]);
  const body = columns.map((column) => {
    const name = make("th", { scope: "row", title: column.meaning || "", textContent: column.title });
    if (column.symbol) name.append(" ", make("span", { className: "tag", textContent: column.symbol }));
    return make("tr", {}, [name, ...rows.map((index) => cellNode(table, column, index, 0))]);
  });
  const whole = make("table", { className: "detail signed" }, [make("thead", {}, head), make("tbody", {}, body)]);
  whole.dataset.table = table.id;
  place.replaceChildren(whole);
  const first = whole.querySelector("td");
  if (first) first.tabIndex = 0;
  const grid = () => ({
    heads: [{ title: "metric" }, ...rows.map((index) => ({ title: table.names[index] }))], caption: `${table.heading}: all metrics`,
    lines: columns.map((column) => ({ name: column.unit ? `${column.title} [${column.unit}]` : column.title, cells: rows.map((index) => gridCell(table, column, index)) })),
  });
  fold.querySelector(".board-tools").replaceChildren(copyMenu(grid));
  const why = none.map((column) => { const cell = rows.length ? cellOf(table, column.key, rows[0]) : null; return cell && cell.a ? `${column.title}: ${data.reasons[cell.a - 1]}` : column.title; });
  fold.querySelector(".absent-list").replaceChildren(...(why.length && rows.length ? ["Absent. ", why.join("; "), "."] : []));
}
function recordList(fold) {
  const { id, stage, technique, repeat, outcome, words } = data.records, body = make("tbody");
  const more = make("button", { type: "button", className: "quiet" });
  let shown = 0;
  const add = (many) => {
    const end = Math.min(id.length, shown + many);
    for (; shown < end; shown += 1) {
      const texts = [words[stage[shown]], words[technique[shown]], repeat[shown], words[outcome[shown]], startOf(shown)];
      body.append(make("tr", {}, [make("td", {}, recordLink(shown)), ...texts.map((textContent) => make("td", { textContent }))]));
    }
    more.hidden = shown >= id.length;
    more.textContent = `${Math.min(MORE_ROWS, id.length - shown)} more of ${id.length}`;
  };
  more.addEventListener("click", () => add(MORE_ROWS));
  const heads = ["id", "stage", "technique", "repeat", "outcome", "started"].map((textContent) => make("th", { scope: "col", textContent }));
  fold.querySelector(".scroll").replaceChildren(make("table", { className: "records" }, [make("thead", {}, make("tr", {}, heads)), body]));
  fold.append(more);
  add(MORE_ROWS);
}
function folds() {
  document.querySelectorAll("details[data-all]").forEach((fold) => fold.addEventListener("toggle", () => { if (fold.open) allMetrics(fold); }));
  const list = document.getElementById("records");
  if (list) list.addEventListener("toggle", () => recordList(list), { once: true });
}
