// One row of controls for all tables: search, which rows, stage and axes, metrics; and the notes that what is shown needs.
function axesOf() { // axis -> its values, of axes that tell rows apart
  const found = new Map();
  for (const table of data.tables) {
    if (table.rowsAre !== "technique") continue;
    for (const [axis, values] of Object.entries(table.axes)) {
      if (!found.has(axis)) found.set(axis, new Set());
      [].concat(values).forEach((value) => { if (value !== "") found.get(axis).add(value); });
    }
  }
  return [...found].filter(([, values]) => values.size > 1 && values.size <= 60);
}
function picker() {
  const dialog = document.getElementById("metrics"), columns = new Map();
  for (const table of data.tables) {
    if (!table.picks || table.place !== "measured") continue;
    for (const column of table.columns) {
      const there = column.head || ((table.cells[column.key] || {}).v || []).length, known = columns.get(column.key);
      if (there && !known) columns.set(column.key, { ...column });
      if (known && column.head) known.head = true;
      if (there && known && known.title !== column.title && !known.title.includes(column.title)) known.title += ` / ${column.title}`;
    }
  }
  const groups = [...new Set([...columns.values()].map((column) => column.group))];
  const boxes = [];
  const isHead = (box) => box.dataset.head === "true";
  const now = () => boxes.forEach((box) => { box.checked = isPicked(pickedMetrics(), box.value, isHead(box)); });
  const changed = () => choose({ metrics: boxes.filter((box) => box.checked !== isHead(box)).map((box) => (isHead(box) ? "-" : "") + box.value).join(",") });
  const fields = groups.map((group) => make("fieldset", {}, [make("legend", { textContent: group }), ...[...columns.values()].filter((column) => column.group === group).map((column) => {
    const box = make("input", { type: "checkbox", value: column.key });
    box.dataset.head = Boolean(column.head);
    box.addEventListener("change", changed);
    boxes.push(box);
    return make("label", { title: column.meaning || "" }, [box, column.title]);
  })]));
  const button = (textContent, onclick) => make("button", { type: "button", className: "quiet", textContent, onclick });
  dialog.replaceChildren(
    make("header", {}, [make("h2", { id: "metrics-title", textContent: "Metrics" }), button("Close", () => dialog.close())]), ...fields,
    make("footer", {}, [button("Headlines", () => { choose({ metrics: "" }); now(); }), " ", button("All", () => { boxes.forEach((box) => { box.checked = true; }); changed(); })]),
  );
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  return { open: () => { now(); dialog.showModal(); }, size: columns.size };
}
function tools() {
  const form = document.getElementById("tools"), updates = [];
  if (!data.tables.length) return () => {};
  form.addEventListener("submit", (event) => event.preventDefault());
  const search = make("input", { type: "search", placeholder: "Search …", ariaLabel: "Search techniques", value: choiceOf("q") });
  search.addEventListener("input", () => choose({ q: search.value.trim() }));
  updates.push(() => { if (search.value.trim() !== choiceOf("q")) search.value = choiceOf("q"); });
  const metrics = picker(), pick = make("button", { type: "button", className: "quiet", id: "pick", onclick: metrics.open });
  form.append(search, ...(metrics.size ? [pick] : []));
  const select = (label, key, options) => {
    const node = choice(form, label, options, choiceOf(key), (value) => choose({ [key]: value }));
    node.name = key;
    updates.push(() => { node.value = choiceOf(key); });
  };
  const ended = [...new Set(data.tables.flatMap((table) => table.outcome))].filter(Boolean);
  select("rows", "show", [["", "all"], ["front", "on the front"], ["ok", "measured"], ...(ended.length ? [["failed", "without figures"]] : []), ...ended.map((word) => [word, word])]);
  const stages = [...new Set(data.tables.map((table) => table.stage))];
  if (stages.length > 1) select("stage", "stage", [["", "all"], ...stages.map((stage) => [stage, stage])]);
  for (const [axis, values] of axesOf()) select(axis, `axis.${axis}`, [["", "all"], ...[...values].map((value) => [value, value])]);
  const reset = make("button", { type: "button", className: "quiet", id: "reset", textContent: "Reset", onclick: resetChoices });
  const count = make("output", { ariaLive: "polite" });
  form.append(reset, count);
  return () => {
    updates.forEach((update) => update());
    pick.textContent = pickedMetrics().length ? "Metrics: own" : "Metrics …";
    const filtered = [...chosen.keys()].some((key) => !key.startsWith("sort.") && key !== "at" && key !== "metrics");
    reset.hidden = !filtered && !pickedMetrics().length;
    count.textContent = filtered ? tally() : "";
  };
}
function tally() {
  const boards = [...drawn.values()], shown = boards.reduce((sum, board) => sum + board.rows.length, 0);
  const all = boards.reduce((sum, board) => sum + board.table.names.length, 0);
  return shown ? `${shown} of ${all} rows` : "nothing matches";
}
function notes() { // reasons for the absent figures that are shown, numbered as they are met
  noteNumbers.clear();
  for (const { article, table, rows, columns } of drawn.values()) {
    for (const column of article.hidden ? [] : columns) {
      const parts = table.cells[column.key] || {};
      for (const index of parts.a || parts.i ? rows : []) {
        const reason = cellOf(table, column.key, index).a;
        if (reason && !noteNumbers.has(reason)) noteNumbers.set(reason, noteNumbers.size + 1);
      }
    }
  }
  document.getElementById("notes").replaceChildren(...[...noteNumbers.keys()].map((reason) => make("li", { textContent: data.reasons[reason - 1] })));
}
