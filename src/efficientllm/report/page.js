// The keys and clicks of all tables, the theme, printing; and the start of it all.
function theme() {
  const button = document.getElementById("theme"), root = document.documentElement;
  const looks = { auto: "◐ auto", light: "○ light", dark: "● dark" };
  const names = { auto: "as the system", light: "light", dark: "dark" };
  const keep = (value) => { try { localStorage.setItem("efficientllm-theme", value); } catch { /* a page from a file may keep nothing */ } };
  let now = "auto";
  try { now = localStorage.getItem("efficientllm-theme") || "auto"; } catch { /* as above */ }
  const show = () => {
    if (now === "auto") root.removeAttribute("data-theme"); else root.dataset.theme = now;
    button.textContent = looks[now];
    button.setAttribute("aria-label", `Colours: ${names[now]}`);
  };
  if (!(now in looks)) now = "auto";
  button.addEventListener("click", () => {
    now = { auto: "light", light: "dark", dark: "auto" }[now];
    keep(now);
    show();
  });
  show();
}
const cellAt = (event) => event.target.closest?.("td[data-row], td.outcome, tbody th[data-row]");
function openCell(node) {
  const holder = node.closest("[data-table]"), table = holder && tablesById.get(holder.dataset.table);
  if (!table) return;
  const column = table.columns.find((one) => one.key === node.dataset.key);
  showEvidence(table, column, Number(node.dataset.row), node);
}
function step(node, key) { // arrows go from cell to cell
  const row = node.parentElement, rows = [...row.parentElement.rows], cells = [...row.cells].filter((cell) => cell.hasAttribute("tabindex"));
  const beside = { ArrowLeft: -1, ArrowRight: 1 }[key], below = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (beside) return cells[cells.indexOf(node) + beside];
  const other = below && rows[rows.indexOf(row) + below];
  return other && [...other.cells].filter((cell) => cell.hasAttribute("tabindex"))[Math.min(cells.indexOf(node), other.cells.length - 1)];
}
document.addEventListener("click", (event) => {
  const sort = event.target.closest("[data-sort]"), board = sort && drawn.get(sort.closest("[data-table]").dataset.table);
  if (board) {
    const key = sort.dataset.sort, column = board.table.columns.find((one) => one.key === key);
    choose({ [`sort.${board.table.id}`]: nextOrder(board.table, key, column ? column.better : "low") });
  } else if (!event.target.closest("a, button") && !String(getSelection())) {
    const node = cellAt(event);
    if (node) openCell(node);
  }
});
document.addEventListener("keydown", (event) => {
  const node = cellAt(event);
  if (!node || event.ctrlKey || event.metaKey || event.altKey || event.target !== node) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    openCell(node);
  } else if (event.key.startsWith("Arrow")) {
    event.preventDefault();
    const next = step(node, event.key);
    if (next) { node.tabIndex = -1; next.tabIndex = 0; next.focus(); }
  }
});
readAddress();
theme();
const nearby = new IntersectionObserver((entries) => entries.forEach((entry) => {
  if (!entry.isIntersecting) return;
  nearby.unobserve(entry.target);
  drawn.get(entry.target.dataset.table).draw();
}), { rootMargin: "600px" });
for (const article of document.querySelectorAll("article[data-table]")) drawn.set(article.dataset.table, new Board(article, tablesById.get(article.dataset.table)));
document.body.classList.toggle("many", drawn.size > MANY_TABLES); // those far below are not laid out
notes();
let room = AT_ONCE;
for (const board of drawn.values()) {
  room -= Math.min(board.rows.length, board.most) * board.columns.length;
  if (room > 0 && !board.article.closest("details")) board.draw(); else nearby.observe(board.article);
}
folds();
const showTools = tools();
listeners.push(() => {
  drawn.forEach((board) => board.refresh());
  notes();
  drawn.forEach((board) => { if (board.near) board.draw(); });
  document.querySelectorAll("details[data-all][open]").forEach(allMetrics);
  showTools();
});
showTools();
if (choiceOf("at")) goTo(choiceOf("at"));
const repaint = charts.map((chart) => chart());
let waiting = 0;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => repaint.forEach((paint) => paint()), 120); });
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("main details:not([open]):not(.menu)")];
  folded.forEach((part) => { part.open = true; if (part.dataset.all) allMetrics(part); });
  drawn.forEach((board) => { if (!board.near) board.draw(); });
});
addEventListener("afterprint", () => folded.forEach((part) => { part.open = false; }));
