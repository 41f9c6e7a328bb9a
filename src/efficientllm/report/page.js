"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const names = [...new Set(data.sections.flatMap((s) => s.rows.map((r) => r.name)).concat(data.curves.map((c) => c.technique)))];
  const colour = (name) => `var(--c${names.indexOf(name) % 8})`;

  // --- small things -------------------------------------------------------------------------------------------
  function draw(tag, attributes = {}, children = []) {
    const node = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    for (const child of [].concat(children)) node.append(child);
    return node;
  }
  function make(tag, properties = {}, children = []) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...[].concat(children));
    return node;
  }
  function digits(value) {
    if (value === 0) return "0";
    const decimals = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
    return String(Number(value.toFixed(Math.min(decimals, 12))));
  }
  function scaled(value, steps) {
    const [size, name] = steps.find(([size]) => Math.abs(value) >= size) || steps[steps.length - 1];
    return `${digits(value / size)} ${name}`;
  }
  const DECIMAL = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];
  const BINARY = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]];
  function write(value, unit) {
    if (value === 0) return "0";
    if (unit === "ratio") return `${digits(100 * value)} %`;
    if (unit === "factor") return `${digits(value)}×`;
    if (["bits/byte", "nats/token", "perplexity"].includes(unit)) return String(Number(value.toPrecision(4)));
    const [head, ...per] = unit.split("/");
    const tail = per.length ? `/${per.join("/")}` : "";
    if (head === "bytes") return scaled(value, BINARY) + tail;
    if (["s", "j", "w"].includes(head)) {
      const steps = head === "s" ? DECIMAL.slice(4) : DECIMAL;
      return scaled(value, steps) + (head === "s" ? "s" : head.toUpperCase()) + tail;
    }
    return scaled(value, value >= 1 ? DECIMAL.slice(0, 5) : DECIMAL.slice(4)).trim() + tail;
  }

  // --- axes ---------------------------------------------------------------------------------------------------
  function range(values, log) {
    let low = Math.min(...values), high = Math.max(...values);
    if (log) {
      const pad = Math.max((Math.log(high) - Math.log(low)) * 0.12, 0.02);
      return [Math.exp(Math.log(low) - pad), Math.exp(Math.log(high) + pad)];
    }
    const pad = (high - low) * 0.12 || Math.abs(high) * 0.05 || 1;
    return [low - pad, high + pad];
  }
  function ticks([low, high], log, many, base) {
    if (log && high / low > 8) {
      const root = base === 2 ? 2 : 10, found = [];
      for (let power = Math.floor(Math.log(low) / Math.log(root)); root ** power <= high; power += 1) {
        for (const step of root === 2 ? [1] : [1, 2, 5]) found.push(step * root ** power);
      }
      const inside = found.filter((value) => value >= low && value <= high);
      const every = Math.ceil(inside.length / many);
      return inside.filter((_, i) => i % every === 0);
    }
    const unit = base === 2 ? 2 ** (10 * Math.max(0, Math.floor(Math.log2(high) / 10))) : 1;
    const rough = (high - low) / unit / many;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((m) => m * power >= rough) * power * unit;
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
    return found;
  }
  function axis(ends, pixels, log) {
    const move = log ? Math.log : (value) => value;
    const [low, high] = ends.map(move), [from, to] = pixels;
    return (value) => from + ((move(value) - low) / (high - low || 1)) * (to - from);
  }
  function frame(figure, x, y) {
    const width = Math.max(300, figure.clientWidth - 22), narrow = width < 560;
    const height = Math.round(Math.min(460, Math.max(300, width * 0.5)));
    const box = { left: 70, right: width - 18, top: 34, bottom: height - 46 };
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": figure.dataset.label });
    const xAt = axis(x.ends, [box.left, box.right], x.log), yAt = axis(y.ends, [box.bottom, box.top], y.log);
    const base = (unit) => (unit.startsWith("bytes") ? 2 : 10);
    for (const value of ticks(x.ends, x.log, narrow ? 4 : 7, base(x.unit))) {
      svg.append(draw("line", { class: "grid", x1: xAt(value), x2: xAt(value), y1: box.top, y2: box.bottom }));
      svg.append(draw("text", { x: xAt(value), y: box.bottom + 18, "text-anchor": "middle" }, write(value, x.unit)));
    }
    for (const value of ticks(y.ends, y.log, 6, base(y.unit))) {
      svg.append(draw("line", { class: "grid", x1: box.left, x2: box.right, y1: yAt(value), y2: yAt(value) }));
      svg.append(draw("text", { x: box.left - 9, y: yAt(value) + 4, "text-anchor": "end" }, write(value, y.unit)));
    }
    const arrow = (side, horizontal) => ({ low: horizontal ? "← better" : "↓ better", high: horizontal ? "better →" : "↑ better" })[side] || "";
    svg.append(draw("text", { class: "axis", x: box.right, y: height - 6, "text-anchor": "end" }, `${x.title}  ${arrow(x.better, true)}`.trim()));
    svg.append(draw("text", { class: "axis", x: 6, y: 16 }, `${y.title}  ${arrow(y.better, false)}`.trim()));
    return { svg, box, xAt, yAt };
  }
  function choice(form, label, options, chosen, changed) {
    const select = make("select", {}, options.map(([value, text]) => make("option", { value, textContent: text, selected: value === chosen })));
    select.addEventListener("change", () => changed(select.value));
    form.append(make("label", {}, [label, select]));
    return select;
  }
  function refill(select, options, chosen) {
    select.replaceChildren(...options.map(([value, text]) => make("option", { value, textContent: text })));
    select.value = options.some(([value]) => value === chosen) ? chosen : (options[0] || [""])[0];
    return select.value;
  }
  function tip(figure, node, text) {
    const show = () => {
      hide();
      const bubble = make("div", { className: "tip", textContent: text });
      figure.append(bubble);
      const at = node.getBoundingClientRect(), in_ = figure.getBoundingClientRect();
      const left = at.left - in_.left + at.width / 2 - bubble.offsetWidth / 2;
      bubble.style.left = `${Math.max(4, Math.min(left, in_.width - bubble.offsetWidth - 4))}px`;
      const above = at.top - in_.top - bubble.offsetHeight - 10;
      bubble.style.top = `${above > 0 ? above : at.bottom - in_.top + 10}px`;
    };
    const hide = () => figure.querySelectorAll(".tip").forEach((bubble) => bubble.remove());
    node.addEventListener("mouseenter", show);
    node.addEventListener("focus", show);
    node.addEventListener("mouseleave", hide);
    node.addEventListener("blur", hide);
  }

  // --- trade-offs ---------------------------------------------------------------------------------------------
  function scatter() {
    const figure = document.getElementById("scatter"), form = document.getElementById("scatter-controls");
    const usable = data.sections.filter((section) => section.rows.length);
    if (!usable.length) {
      figure.append(make("p", { textContent: "There is nothing to draw yet." }));
      return () => {};
    }
    const metrics = (section) => section.columns
      .filter((column) => section.rows.some((row) => row.cells[column.key]))
      .map((column) => [column.key, column.title]);
    const state = { section: Math.max(0, usable.findLastIndex((s) => s.rows.some((r) => r.baseline))), x: "latency_median", y: "bits_per_byte", log: false };
    choice(form, "window", usable.map((s, i) => [String(i), s.heading]), String(state.section), (value) => { state.section = Number(value); fill(); });
    const xs = choice(form, "across", [], "", (value) => { state.x = value; paint(); });
    const ys = choice(form, "upwards", [], "", (value) => { state.y = value; paint(); });
    const log = make("input", { type: "checkbox" });
    log.addEventListener("change", () => { state.log = log.checked; paint(); });
    form.append(make("label", {}, [log, "logarithmic"]));
    form.addEventListener("submit", (event) => event.preventDefault());
    function fill() {
      const options = metrics(usable[state.section]);
      state.x = refill(xs, options, state.x);
      state.y = refill(ys, options, options.some(([key]) => key === state.y) ? state.y : "memory_mean");
      paint();
    }
    function paint() {
      const section = usable[state.section];
      const of = (key) => section.columns.find((column) => column.key === key);
      const x = { ...of(state.x), log: state.log }, y = { ...of(state.y), log: state.log };
      const rows = section.rows.filter((row) => row.cells[x.key] && row.cells[y.key]);
      figure.replaceChildren();
      if (!rows.length) {
        figure.append(make("p", { textContent: "No technique has both figures in this window." }));
        return;
      }
      const all = (key) => rows.flatMap((row) => row.cells[key].filter((value) => value !== null));
      x.log = x.log && Math.min(...all(x.key)) > 0;
      y.log = y.log && Math.min(...all(y.key)) > 0;
      x.ends = range(all(x.key), x.log);
      y.ends = range(all(y.key), y.log);
      figure.dataset.label = `${y.title} against ${x.title}, ${section.heading}`;
      const { svg, box, xAt, yAt } = frame(figure, x, y);
      const taken = [];
      for (const row of rows) svg.append(point(figure, row, x, y, xAt, yAt, box, taken));
      figure.append(svg);
    }
    function point(figure, row, x, y, xAt, yAt, box, taken) {
      const [vx, lx, hx] = row.cells[x.key], [vy, ly, hy] = row.cells[y.key];
      const px = xAt(vx), py = yAt(vy), ink = colour(row.name);
      const group = draw("g", { tabindex: 0, role: "img", stroke: ink, "stroke-width": 1.5 });
      if (lx !== null) group.append(draw("line", { x1: xAt(lx), x2: xAt(hx), y1: py, y2: py, opacity: 0.7 }));
      if (ly !== null) group.append(draw("line", { x1: px, x2: px, y1: yAt(ly), y2: yAt(hy), opacity: 0.7 }));
      const look = { fill: row.front ? ink : "var(--card)", "stroke-width": 2.5 };
      group.append(row.baseline
        ? draw("rect", { x: px - 6, y: py - 6, width: 12, height: 12, rx: 2, ...look })
        : draw("circle", { cx: px, cy: py, r: 6.5, ...look }));
      const size = 7.5 * row.name.length, spots = [[11, -10, "start"], [-11, -10, "end"], [11, 20, "start"], [-11, 20, "end"], [11, -26, "start"], [11, 36, "start"]];
      const fits = ([dx, dy, anchor]) => {
        const left = anchor === "start" ? px + dx : px + dx - size, top = py + dy - 11;
        const free = taken.every((t) => left > t.right || left + size < t.left || top > t.bottom || top + 14 < t.top);
        return free && left > box.left && left + size < box.right + 14 && top > box.top - 20;
      };
      const [dx, dy, anchor] = spots.find(fits) || spots[0];
      const left = anchor === "start" ? px + dx : px + dx - size;
      taken.push({ left, right: left + size, top: py + dy - 11, bottom: py + dy + 3 }, { left: px - 8, right: px + 8, top: py - 8, bottom: py + 8 });
      group.append(draw("text", { class: "label", x: px + dx, y: py + dy, "text-anchor": anchor, stroke: "none" }, row.name));
      const span = (low, high, unit) => (low === null ? "" : `  (${write(low, unit)} to ${write(high, unit)})`);
      const text = `${row.name}${row.baseline ? " (baseline)" : ""}\n${x.title}: ${write(vx, x.unit)}${span(lx, hx, x.unit)}\n${y.title}: ${write(vy, y.unit)}${span(ly, hy, y.unit)}`;
      group.setAttribute("aria-label", text.replaceAll("\n", ", "));
      tip(figure, group, text);
      return group;
    }
    fill();
    return paint;
  }

  // --- training -----------------------------------------------------------------------------------------------
  function curves() {
    const figure = document.getElementById("curves"), form = document.getElementById("curve-controls");
    if (!data.curves.length) {
      figure.append(make("p", { textContent: "No training was measured in this study." }));
      return () => {};
    }
    const stages = [...new Set(data.curves.map((curve) => curve.stage))];
    const kinds = { tokens: ["tokens", "count"], seconds: ["seconds", "s"], joules: ["joules", "j"] };
    const state = { stage: stages[0], x: "tokens" };
    if (stages.length > 1) choice(form, "stage", stages.map((s) => [s, s]), state.stage, (value) => { state.stage = value; paint(); });
    const options = Object.keys(kinds).filter((kind) => data.curves.some((curve) => curve[kind].length));
    choice(form, "at equal", options.map((kind) => [kind, kinds[kind][0]]), "tokens", (value) => { state.x = value; paint(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    const mean = (lists) => lists[0].map((_, i) => lists.reduce((sum, list) => sum + list[i], 0) / lists.length);
    function paint() {
      const shown = data.curves.filter((curve) => curve.stage === state.stage && curve[state.x].length);
      figure.replaceChildren();
      if (!shown.length) {
        figure.append(make("p", { textContent: "No run of this stage has this figure." }));
        return;
      }
      const [title, unit] = kinds[state.x];
      const last = Math.max(...shown.flatMap((curve) => curve[state.x]));
      const x = { title, unit, log: false, ends: [0, last * 1.02], better: "" };
      const y = { title: "training loss, nats/token", unit: "nats/token", log: false, better: "low", ends: range(shown.flatMap((curve) => curve.loss), false) };
      figure.dataset.label = `training loss against ${title}`;
      const { svg, xAt, yAt } = frame(figure, x, y);
      const path = (xs, ys) => xs.map((value, i) => `${i ? "L" : "M"}${xAt(value).toFixed(1)} ${yAt(ys[i]).toFixed(1)}`).join("");
      const techniques = [...new Set(shown.map((curve) => curve.technique))];
      for (const technique of techniques) {
        const runs = shown.filter((curve) => curve.technique === technique), ink = colour(technique);
        if (runs.length > 1) for (const run of runs) svg.append(draw("path", { d: path(run[state.x], run.loss), fill: "none", stroke: ink, "stroke-width": 1, opacity: 0.22 }));
        const points = Math.min(...runs.map((run) => run.loss.length));
        const same = runs.filter((run) => run.loss.length === points);
        const line = draw("path", { d: path(mean(same.map((run) => run[state.x])), mean(same.map((run) => run.loss))), fill: "none", stroke: ink, "stroke-width": 2 });
        line.append(draw("title", {}, technique));
        svg.append(line);
      }
      const key = make("div", { className: "key" }, techniques.map((technique) => {
        const entry = make("span", { textContent: technique });
        entry.style.setProperty("--c", colour(technique));
        return entry;
      }));
      figure.append(key, svg);
    }
    paint();
    return paint;
  }

  // --- tables, theme, printing ----------------------------------------------------------------------------------
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
  const repaint = [scatter(), curves()];
  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => repaint.forEach((paint) => paint()), 120); });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
})();
