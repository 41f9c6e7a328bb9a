// A table as it is shown, as Markdown, CSV or LaTeX. A grid is {heads, lines}: a line has a name and its cells.
const plain = (cell) => [cell.figure, cell.sign, cell.evidence].filter(Boolean).join(" ");
const ESCAPES = {
  markdown: (text) => text.replace(/\s+/g, " ").replace(/[\\|`*_[\]]/g, "\\$&").replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"),
  csv: (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text),
  latex: (text) => text.replace(/\s+/g, " ").replace(/[\\{}$&#%_~^<>|]/g, (sign) => LATEX[sign]).replace(/[±×≈–µ▲▼◆·²≤≥]/g, (sign) => LATEX_SIGNS[sign]),
};
const LATEX = {
  "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", $: "\\$", "&": "\\&", "#": "\\#", "%": "\\%", _: "\\_",
  "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$",
};
const LATEX_SIGNS = {
  "±": "$\\pm$", "×": "$\\times$", "≈": "$\\approx$", "–": "--", "µ": "$\\mu$", "▲": "$\\blacktriangle$",
  "▼": "$\\blacktriangledown$", "◆": "$\\diamond$", "·": "$\\cdot$", "²": "$^2$", "≤": "$\\leq$", "≥": "$\\geq$",
};
function asMarkdown({ heads, lines }) {
  const line = (cells) => `| ${cells.join(" | ")} |`, safe = ESCAPES.markdown;
  const rows = lines.map(({ name, cells }) => line([safe(name), ...cells.map((cell) => {
    const figure = [safe(cell.figure), cell.sign].filter(Boolean).join(" ");
    return `${cell.first ? `**${figure}**` : figure}${cell.evidence ? `<br><sub>${safe(cell.evidence)}</sub>` : ""}`;
  })]));
  return [line(heads.map((head) => safe(head.title))), `|:--|${"--:|".repeat(heads.length - 1)}`, ...rows].join("\n") + "\n";
}
// A spreadsheet wants numbers: whole figures in base units, the interval's ends and the verdict in columns of their own.
function asCsv({ heads, lines }) {
  const safe = ESCAPES.csv, said = (text) => safe(/^[=+\-@\t]/.test(text) ? `'${text}` : text), number = (value) => (value === null ? "" : String(value));
  const titles = heads.slice(1).flatMap((head) => {
    const title = head.unit ? `${head.title} [${head.unit}]` : head.title;
    return [title, `${title} low`, `${title} high`, `${title} verdict`].map(said);
  });
  const rows = lines.map(({ name, cells }) => [said(name), ...cells.flatMap((cell) => (cell.v === null
    ? [said(cell.figure === "–" ? "" : cell.figure), "", "", ""]
    : [number(cell.v), number(cell.lo), number(cell.hi), cell.verdict]))].join(","));
  return [[said(heads[0].title), ...titles].join(","), ...rows].join("\r\n") + "\r\n";
}
function asLatex({ heads, lines, caption }) {
  const safe = ESCAPES.latex, row = (cells) => `  ${cells.join(" & ")} \\\\`;
  const rows = lines.map(({ name, cells }) => row([safe(name), ...cells.map((cell) => {
    const text = safe(plain(cell));
    return cell.first ? `\\textbf{${text}}` : text;
  })]));
  return [
    `% ${caption.replace(/\s+/g, " ")}; \\usepackage{booktabs,amssymb}`, `\\begin{tabular}{l${"r".repeat(heads.length - 1)}}`, "  \\toprule",
    row(heads.map((head) => safe(head.title))), "  \\midrule", ...rows, "  \\bottomrule", "\\end{tabular}", "",
  ].join("\n");
}
const FORMATS = { Markdown: asMarkdown, CSV: asCsv, LaTeX: asLatex };
function fromSelection(text) { // where a page may not use the clipboard: as a file in most browsers
  const area = make("textarea", { value: text, readOnly: true, className: "visually-hidden" });
  (document.querySelector("dialog[open]") || document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}
function byHand(text) { // the last way: selected, to be copied by the reader
  const area = make("textarea", { value: text, readOnly: true, rows: 12, ariaLabel: "The table's text" });
  const close = make("button", { type: "button", className: "quiet", textContent: "Close", onclick: () => evidence.close() });
  evidence.replaceChildren(make("header", {}, [make("h2", { id: "evidence-title", textContent: "Copy with Ctrl+C or ⌘C" }), close]), area);
  cameFrom = document.activeElement;
  evidence.showModal();
  area.select();
}
async function copy(text, what) {
  const before = document.activeElement;
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    done = fromSelection(text);
    before?.focus();
  }
  if (done) say(`${what} copied`); else byHand(text);
}
let silence = 0;
function say(text) {
  const place = document.getElementById("said");
  place.textContent = text;
  clearTimeout(silence);
  silence = setTimeout(() => { place.textContent = ""; }, 2500);
}
function copyMenu(grid) {
  const menu = make("details", { className: "menu" });
  const buttons = Object.entries(FORMATS).map(([name, write]) => make("button", {
    type: "button", textContent: name,
    onclick: () => { const found = grid(); menu.open = false; menu.firstElementChild.focus(); copy(write(found), `${found.lines.length} rows as ${name}`); },
  }));
  menu.append(make("summary", { textContent: "Copy" }), make("div", {}, buttons));
  return menu;
}
document.addEventListener("click", (event) => document.querySelectorAll("details.menu[open]").forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; }));
document.addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && document.activeElement?.closest("details.menu[open]");
  if (menu) { menu.open = false; menu.firstElementChild.focus(); }
});
