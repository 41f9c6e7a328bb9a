// One trial over time: step time, memory and power on one axis, with its windows shaded and what was seen marked.
function timeline() {
  const figure = document.getElementById("timeline"), form = document.getElementById("timeline-controls");
  if (!data.timelines.length) {
    empty(figure, "No trial of this study has a window that lasts.");
    return () => {};
  }
  const of = (key, rest) => [...new Set(data.timelines.filter(rest).map((trial) => String(trial[key])))];
  const first = data.timelines[0], state = { stage: first.stage, technique: first.technique, repeat: String(first.repeat) };
  const inStage = (trial) => trial.stage === state.stage, ofTechnique = (trial) => inStage(trial) && trial.technique === state.technique;
  const pairs = (list, word = "") => list.map((text) => [text, word + text]);
  choice(form, "stage", pairs(of("stage", () => true)), state.stage, (value) => { state.stage = value; fill(); });
  const techniques = choice(form, "technique", [], "", (value) => { state.technique = value; fill(); });
  const repeats = choice(form, "repeat", [], "", (value) => { state.repeat = value; paint(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  function fill() {
    state.technique = refill(techniques, pairs(of("technique", inStage)), state.technique);
    state.repeat = refill(repeats, pairs(of("repeat", ofTechnique)), state.repeat);
    paint();
  }
  function paint() {
    const trial = data.timelines.find((one) => ofTechnique(one) && String(one.repeat) === state.repeat);
    figure.dataset.label = `step time, memory and power of ${trial.technique}, ${trial.stage}, repeat ${trial.repeat}; arrow keys read figures`;
    figure.replaceChildren();
    const svg = stacked(figure, trial);
    figure.append(...told(trial));
    figure.prepend(svg);
  }
  fill();
  return paint;
}
function unpacked(line) {
  return { ...line, values: line.values.map((value) => value * line.scale) };
}
function stacked(figure, trial) {
  const width = widthOf(figure), narrow = width < 560, tall = narrow ? 96 : 112, gap = 34, top = 52;
  const height = top + 3 * tall + 2 * gap + 44, box = { left: 78, right: width - 18, top, bottom: height - 44 };
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": figure.dataset.label });
  const scale = timeScale(trial.bands, (trial.end_s - trial.begin_s) * 1e3, box.left, box.right), xAt = scale.x;
  bandsOf(svg, trial, xAt, box);
  gridOfTime(svg, scale, box, narrow ? 4 : 8);
  svg.append(draw("text", { class: "axis", x: box.right, y: height - 6, "text-anchor": "end" }, `time since the trial's process was ${quantityText(trial.begin_s, "s")} old`));
  const panels = trial.panels.map((panel, i) => ({ ...panel, lines: panel.lines.map(unpacked), top: top + i * (tall + gap) }));
  for (const panel of panels) panelOf(svg, panel, { ...box, top: panel.top, bottom: panel.top + tall }, xAt);
  for (const [at, text] of trial.marks) {
    const px = xAt(at), mark = draw("path", { class: "warn", d: `M${px} ${top}l-4 -7h8z`, tabindex: 0, role: "img", "aria-label": `${text}, at ${quantityText(at / 1e3, "s")}` });
    tip(figure, mark, `${text}\nat ${quantityText(at / 1e3, "s")}`);
    svg.append(mark);
  }
  const places = evenly(box.left, box.right, 160);
  cursor(figure, svg, box, places, (i) => reading(trial, panels, scale.at(places[i])));
  return svg;
}
function bandsOf(svg, trial, xAt, box) {
  let end = -Infinity;
  trial.bands.forEach((band, i) => {
    const from = xAt(band.begin), to = xAt(band.end), warned = band.cautions.length > 0;
    const area = draw("rect", { class: `band${i % 2 ? " odd" : ""}`, x: from, width: Math.max(1, to - from), y: box.top - 18, height: box.bottom - box.top + 18 });
    area.append(draw("title", {}, [band.text, ...band.cautions].join("\n")));
    svg.append(area);
    const text = `${band.text}${warned ? " ⚠" : ""}`, size = textWidth(text);
    const x = Math.max(from + 3, end + 6);
    if (x + size > to - 2) return;
    svg.append(draw("text", { class: warned ? "warned" : "", x, y: box.top - 22 }, text));
    end = x + size;
  });
}
function panelOf(svg, panel, box, xAt) {
  svg.append(draw("text", { class: "axis", x: 6, y: box.top - 8 }, panel.title));
  if (!panel.lines.length) {
    wrapped(panel.absent, box.right - box.left - 8).forEach((text, i) => svg.append(draw("text", { x: box.left + 4, y: box.top + 18 + 16 * i }, text)));
    return;
  }
  const all = panel.lines.flatMap((line) => line.values), least = Math.min(...all), most = Math.max(...all);
  const log = panel.unit === "s" && least > 0 && most / least > 8;
  const span = range(all, log), y = { unit: panel.unit, log, ends: log || panel.unit === "bytes" ? span : [0, span[1]] };
  const yAt = axis(y.ends, [box.bottom, box.top], log);
  gridY(svg, y, yAt, box, 4);
  panel.lines.forEach((line, i) => {
    const xs = line.at.map((at) => xAt(at)), ys = line.values.map(yAt);
    svg.append(draw("path", { d: pathOf(xs, ys, line.starts), fill: "none", stroke: `var(--c${i % COLOURS})`, "stroke-width": 1.4, "stroke-linejoin": "round" }));
    line.starts.forEach((start, k) => { // a stretch of one reading is a dot
      if ((line.starts[k + 1] ?? xs.length) - start === 1) svg.append(draw("circle", { cx: xs[start], cy: ys[start], r: 1.8, fill: `var(--c${i % COLOURS})` }));
    });
  });
}
function wrapped(text, most) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (textWidth(`${lines[lines.length - 1]} ${word}`) > most) lines.push("");
    lines[lines.length - 1] = `${lines[lines.length - 1]} ${word}`.trim();
  }
  return lines.slice(0, 5);
}
function reading(trial, panels, at) {
  const inside = trial.bands.filter((band) => band.begin <= at && at <= band.end).map((band) => band.text);
  const lines = panels.flatMap((panel) => panel.lines.map((line) => {
    const i = nearestIndex(line.at, at), near = inside.length && Math.abs(line.at[i] - at) < Math.max(1000, (trial.end_s - trial.begin_s) * 20);
    return near ? `${panel.title}${line.text ? `, ${line.text}` : ""}: ${quantityText(line.values[i], panel.unit)}` : "";
  }));
  return [`${quantityText(at / 1e3, "s")}  ${inside.join(", ") || "between windows"}`, ...lines.filter(Boolean).slice(0, 12)].join("\n");
}
function told(trial) {
  const before = Object.entries(trial.phases_s).map(([name, value]) => `${name.replaceAll("_", " ")} ${quantityText(value, "s")}`);
  const read = trial.panels.filter((panel) => panel.lines.length)
    .map((panel) => `${panel.title}: ${panel.whole} readings (${panel.source})`);
  const cautions = [...trial.bands.flatMap((band) => band.cautions), ...trial.cautions];
  const caption = make("figcaption", {}, [
    `${trial.stage} · ${trial.technique}, repeat ${trial.repeat}${trial.outcome === "ok" ? "" : `, ended ${trial.outcome}`}. ${before.length ? `Phases: ${before.join(", ")}. ` : ""}${read.join(" · ")}. Peaks and dips are kept; every reading is in `,
    recordLink(data.records.id.findIndex((_, place) => idOf(place) === trial.id)), ".",
  ]);
  const list = make("ul", { className: "warnings" }, cautions.map((text) => make("li", { textContent: `⚠ ${text}` })));
  return cautions.length ? [caption, list] : [caption];
}
