// Training: the loss of every run and the mean of its repeats, against what was spent.
function curves() {
  const figure = document.getElementById("curves"), form = document.getElementById("curve-controls");
  if (!data.curves.length) {
    empty(figure, "No training was measured in this study.");
    return () => {};
  }
  const stages = [...new Set(data.curves.map((curve) => curve.stage))], hidden = new Set();
  const kinds = { tokens: ["tokens", "count"], seconds: ["time", "s"], joules: ["energy", "j"] };
  const state = { stage: stages[0], x: "tokens" };
  if (stages.length > 1) choice(form, "stage", stages.map((s) => [s, s]), state.stage, (value) => { state.stage = value; paint(); });
  const options = Object.keys(kinds).filter((kind) => data.curves.some((curve) => curve[kind].length));
  choice(form, "against", options.map((kind) => [kind, kinds[kind][0]]), "tokens", (value) => { state.x = value; paint(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  function paint() {
    const all = data.curves.filter((curve) => curve.stage === state.stage && curve[state.x].length);
    if (!all.length) {
      empty(figure, "No run of this stage has this figure.");
      return;
    }
    const techniques = [...new Set(all.map((curve) => curve.technique))];
    const seen = all.filter((curve) => !hidden.has(curve.technique)), shown = seen.length ? seen : all;
    const [title, unit] = kinds[state.x];
    const x = { title, unit, log: false, ends: [0, Math.max(...shown.flatMap((curve) => curve[state.x])) * 1.02], better: "" };
    const y = { title: `training loss of ${state.stage}, nats/token`, unit: "nats/token", log: false, better: "low", ends: range(shown.flatMap((curve) => curve.loss), false) };
    figure.dataset.label = `training loss against ${title}, ${state.stage}; arrow keys read figures`;
    const { svg, box, xAt, yAt } = frame(figure, x, y);
    const means = [];
    for (const technique of techniques) {
      const runs = seen.filter((curve) => curve.technique === technique), ink = { fill: "none", stroke: colour(technique) };
      if (!runs.length) continue;
      const path = (xs, ys) => pathOf(xs.map(xAt), ys.map(yAt));
      if (runs.length > 1) for (const run of runs) svg.append(draw("path", { ...ink, d: path(run[state.x], run.loss), "stroke-width": 1, opacity: 0.22 }));
      const mean = meanCurve(runs, state.x);
      means.push({ technique, ...mean });
      svg.append(draw("path", { ...ink, d: path(mean.xs, mean.ys), "stroke-width": 2, "stroke-dasharray": dashes(technique) }));
    }
    figure.replaceChildren(keyOf(techniques, hidden, paint), svg);
    readings(figure, svg, box, x, xAt, means);
  }
  paint();
  return paint;
}
function meanCurve(runs, kind) {
  const mean = (lists) => lists[0].map((_, i) => lists.reduce((sum, list) => sum + list[i], 0) / lists.length);
  const points = Math.min(...runs.map((run) => run.loss.length)), same = runs.filter((run) => run.loss.length === points);
  return { xs: mean(same.map((run) => run[kind])), ys: mean(same.map((run) => run.loss)) };
}
function readings(figure, svg, box, x, xAt, means) { // the lowest first, and no more than fit beside the chart
  const MOST = 10, places = evenly(box.left, box.right, 120);
  const valueAt = (place) => x.ends[0] + ((place - box.left) / (box.right - box.left)) * (x.ends[1] - x.ends[0]);
  cursor(figure, svg, box, places, (i) => {
    const spent = valueAt(places[i]);
    const told = means.filter((mean) => spent >= mean.xs[0] && spent <= mean.xs[mean.xs.length - 1] * 1.02)
      .map((mean) => [mean.ys[nearestIndex(mean.xs, spent)], mean.technique]).sort((a, b) => a[0] - b[0]);
    const more = told.length > MOST ? [`and ${told.length - MOST} more`] : [];
    return [`${x.title} ${quantityText(spent, x.unit)}`, ...told.slice(0, MOST).map(([loss, name]) => `${loss.toFixed(3)}  ${name}`), ...more].join("\n");
  });
}
