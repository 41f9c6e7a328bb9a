// The evidence of one figure: interval, verdict, the value of every repeat, and the record file of each.
const evidence = document.getElementById("evidence-of");
let cameFrom = null;
const fact = (word, said) => (said ? [make("dt", { textContent: word }), make("dd", {}, said)] : []);
function idOf(place) {
  const parts = data.records.id[place];
  return typeof parts === "string" ? parts : [parts[0], data.records.words[parts[1]], parts[2]].join("-");
}
function startOf(place) {
  const { first, started } = data.records, begin = Date.parse(first);
  return typeof started[place] === "string" || Number.isNaN(begin) ? String(started[place]) : new Date(begin + 1000 * started[place]).toISOString().replace(".000", "");
}
function recordLink(place) {
  const id = idOf(place);
  return make("a", { href: `${data.recordsAt}/${encodeURIComponent(id)}.json`, target: "_blank", rel: "noopener" }, make("code", { textContent: id }));
}
function coded(text) { // `names` of series and figures as code
  return text.split("`").map((part, i) => (i % 2 ? make("code", { textContent: part }) : part));
}
function sourcesOf(table, column) {
  const named = [...(column.reads || "").matchAll(/`([a-z0-9_]+)`/g)].map((found) => found[1]).filter((name) => table.sources[name]);
  return [...new Set(named)].map((name) => `${name} read by ${table.sources[name]}`).join("; ");
}
function repeats(table, column, index, cell) {
  const places = at(table.records, index) || [];
  const known = places.map((place) => [data.records.repeat[place], place]);
  const extra = (cell.n || []).map((value, repeat) => [repeat, null]).filter(([repeat]) => cell.n[repeat] !== null && !known.some(([other]) => other === repeat));
  const lines = [...known, ...extra].sort((a, b) => a[0] - b[0]).map(([repeat, place]) => {
    const value = cell.n && at(cell.n, repeat);
    const figure = column ? make("td", { textContent: value === null || value === undefined ? "–" : figureText(column, value), title: value ?? "" }) : make("td", { textContent: data.records.words[data.records.outcome[place]] });
    return make("tr", {}, [make("td", { textContent: repeat }), figure, make("td", {}, place === null ? "–" : recordLink(place))]);
  });
  if (!lines.length) return [];
  const bare = column && cell.v !== null && !cell.n ? [make("p", { className: "lead", textContent: "This page is too large for the values by repeat; the records have them." })] : [];
  const heads = ["repeat", column ? "value" : "outcome", "raw record"].map((text) => make("th", { scope: "col", textContent: text }));
  return [...bare, make("div", { className: "scroll" }, make("table", { className: "repeats" }, [make("thead", {}, make("tr", {}, heads)), make("tbody", {}, lines)]))];
}
function dots(column, cell) { // where the repeats lie beside their interval
  const values = (cell.n || []).filter((value) => value !== null);
  const all = [...values, cell.lo, cell.hi].filter((value) => value !== null);
  const low = Math.min(...all), high = Math.max(...all);
  if (values.length < 2 || !(high > low)) return [];
  const share = (value) => `${4 + (92 * (value - low)) / (high - low)}%`;
  const node = make("div", { className: "dots", ariaHidden: "true" });
  const place = (tag, left) => { const mark = make(tag); mark.style.left = left; node.append(mark); return mark; };
  if (cell.lo !== null) place("i", share(cell.lo)).style.right = `calc(100% - ${share(cell.hi)})`;
  for (const value of values) place("b", share(value));
  place("s", share(cell.v));
  return [node];
}
function rankSentence(table, column, index, cell) {
  if (cell.k > 0) return String(cell.k);
  const others = table.names.filter((_, other) => other !== index && cellOf(table, column.key, other).k === cell.k);
  return `${-cell.k}, tied with ${others.slice(0, 8).join(", ")}${others.length > 8 ? ` and ${others.length - 8} more` : ""}`;
}
function facts(table, column, index) {
  const cell = column ? cellOf(table, column.key, index) : { n: null };
  const list = make("dl", { className: "facts" });
  if (!column || isFailed(table, index)) {
    list.append(...fact("outcome", at(table.outcome, index) || "ok"), ...fact("reason", at(table.reason, index)));
    list.append(...fact("stated", at(table.said, index)), ...fact("beaten by", at(table.beaten, index)));
    return [list, ...repeats(table, null, index, cell)];
  }
  if (cell.a !== null) list.append(...fact("no figure", data.reasons[cell.a - 1]));
  if (cell.t !== null) list.append(...fact("figure", cell.t));
  if (cell.v !== null && cell.t === null) {
    list.append(...fact("estimate", [`${figureText(column, cell.v)} `, make("small", { textContent: `${cell.v} ${column.unit || ""}` })]), ...fact("interval", intervalText(column, cell)));
    list.append(...fact("verdict", againstText(cell)));
    if (cell.k !== null) list.append(...fact("rank", rankSentence(table, column, index, cell)));
  }
  list.append(...fact("metric", [column.meaning || column.title, column.symbol ? ` (the paper's ${column.symbol})` : ""].join("")));
  list.append(...fact("computed from", column.reads ? coded(column.reads) : ""), ...fact("source", sourcesOf(table, column)));
  return [list, ...dots(column, cell), ...repeats(table, column, index, cell)];
}
function showEvidence(table, column, index, from) {
  const title = [table.names[index], column && !isFailed(table, index) ? column.title : ""].filter(Boolean).join(" · ");
  const close = make("button", { type: "button", className: "quiet", textContent: "Close", onclick: () => evidence.close() });
  const said = table.conditions.map(([key, value]) => `${key} ${value}`).join(", ");
  evidence.replaceChildren(
    make("header", {}, [make("h2", { id: "evidence-title", textContent: title }), close]),
    make("p", { className: "lead", textContent: table.heading }), ...facts(table, column, index),
    make("p", { className: "conditions", textContent: said }),
  );
  cameFrom = from;
  evidence.showModal();
}
evidence.addEventListener("close", () => { if (cameFrom) cameFrom.focus(); });
evidence.addEventListener("click", (event) => { if (event.target === evidence) evidence.close(); }); // beside it
