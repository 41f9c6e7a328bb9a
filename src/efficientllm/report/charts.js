// All charts of the page; each draws itself and returns what draws it anew.
const charts = [scatter, curves, timeline, roofline];
