// A reading line that the pointer or the arrow keys move over a chart; a bubble tells the figures under it.
// `places`: pixels from the left, ascending; `text(i)`: what to tell at the i-th of them.
function cursor(figure, svg, box, places, text) {
  const line = draw("line", { class: "cursor", y1: box.top, y2: box.bottom, visibility: "hidden" });
  svg.append(line);
  svg.setAttribute("tabindex", "0");
  let now = -1;
  const hide = () => {
    line.setAttribute("visibility", "hidden");
    hideBubble(figure);
  };
  const show = (i) => {
    now = Math.max(0, Math.min(places.length - 1, i));
    const x = places[now], shown = svg.getBoundingClientRect(), around = figure.getBoundingClientRect();
    const scale = shown.width / svg.viewBox.baseVal.width, top = shown.top - around.top + box.top * scale;
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
    line.setAttribute("visibility", "visible");
    showBubble(figure, text(now), shown.left - around.left + x * scale, top, top);
    const bubble = figure.querySelector(".tip"), side = bubble.offsetWidth / 2 + 16, middle = shown.left - around.left + x * scale;
    const centre = middle + side + bubble.offsetWidth / 2 < around.width ? middle + side : middle - side;
    bubble.style.left = `${Math.max(4, centre - bubble.offsetWidth / 2)}px`; // beside the line, not over it
    bubble.style.top = `${Math.max(4, top + 6)}px`;
  };
  svg.addEventListener("pointermove", (event) => {
    const shown = svg.getBoundingClientRect(), x = ((event.clientX - shown.left) / shown.width) * svg.viewBox.baseVal.width;
    let nearest = 0;
    places.forEach((place, i) => { if (Math.abs(place - x) < Math.abs(places[nearest] - x)) nearest = i; });
    show(nearest);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const far = Math.max(1, Math.round(places.length / 12));
    const to = { ArrowRight: now + 1, ArrowLeft: now - 1, PageDown: now + far, PageUp: now - far, Home: 0, End: places.length - 1 }[event.key];
    if (event.key === "Escape") hide();
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
}
const evenly = (from, to, many) => Array.from({ length: many }, (_, i) => from + ((to - from) * i) / (many - 1));
function nearestIndex(list, value) { // of an ascending list
  let low = 0, high = list.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle + 1; else high = middle;
  }
  return low > 0 && value - list[low - 1] < list[low] - value ? low - 1 : low;
}
