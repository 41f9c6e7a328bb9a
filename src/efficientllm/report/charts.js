// All charts of the page; each draws itself and returns what draws it anew.
const painters = [];
const charts = [scatter, curves, timeline, roofline].map((chart) => () => {
  painters.push(chart());
  return painters[painters.length - 1];
});
// On paper charts are drawn for its width: shrunk from a wide screen, their words would be too small to read.
for (const [event, width] of [["beforeprint", PAPER_WIDTH], ["afterprint", 0]]) {
  addEventListener(event, () => {
    paper.width = width;
    painters.forEach((paint) => paint());
  });
}
