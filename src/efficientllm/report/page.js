// Tables that sort, the theme, printing; and the start of it all.
function sortable(table) {
  const body = table.tBodies[0], original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => {
    const before = head.getAttribute("aria-sort");
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    if (before === "descending") {
      body.append(...original);
      return;
    }
    head.setAttribute("aria-sort", before === "ascending" ? "descending" : "ascending");
    const sign = before === "ascending" ? -1 : 1;
    const value = (row) => (index === 0 ? row.cells[0].querySelector(".name").textContent : row.cells[index] && row.cells[index].dataset.sort);
    const known = original.filter((row) => value(row)), rest = original.filter((row) => !value(row));
    known.sort((a, b) => sign * (index === 0 ? value(a).localeCompare(value(b), undefined, { numeric: true }) : value(a) - value(b)));
    body.append(...known, ...rest);
  }));
}
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
document.querySelectorAll("table.board").forEach(sortable);
theme();
const repaint = charts.map((chart) => chart());
let waiting = 0;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => repaint.forEach((paint) => paint()), 120); });
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
