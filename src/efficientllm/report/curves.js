// Training: the loss of every run and the mean of its repeats.
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
