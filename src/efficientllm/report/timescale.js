// A time axis on which long pauses between windows (compiling, loading) take little room; times are in ms.
const PAUSE_SHARE = 0.03; // of the time inside windows: a longer pause is drawn no wider than this
function timeScale(bands, length, left, right) {
  const spans = [];
  for (const band of [...bands].sort((a, b) => a.begin - b.begin)) {
    const last = spans[spans.length - 1];
    if (last && band.begin <= last.end) last.end = Math.max(last.end, band.end); else spans.push({ begin: band.begin, end: band.end });
  }
  if (!spans.length) spans.push({ begin: 0, end: length });
  const inside = spans.reduce((sum, span) => sum + span.end - span.begin, 0), parts = [];
  spans.forEach((span, i) => {
    const pause = i ? span.begin - spans[i - 1].end : 0;
    if (pause) parts.push({ begin: spans[i - 1].end, end: span.begin, room: Math.min(pause, PAUSE_SHARE * inside), pause: pause > PAUSE_SHARE * inside });
    parts.push({ ...span, room: span.end - span.begin, pause: false });
  });
  const all = parts.reduce((sum, part) => sum + part.room, 0);
  let from = left;
  for (const part of parts) {
    part.from = from;
    from = part.to = from + ((right - left) * part.room) / (all || 1);
  }
  const share = (value, low, high) => (high > low ? Math.max(0, Math.min(1, (value - low) / (high - low))) : 0);
  const holding = (test) => parts.find(test) || parts[parts.length - 1];
  return {
    parts, inside,
    x: (at) => { const part = holding((one) => at <= one.end); return part.from + share(at, part.begin, part.end) * (part.to - part.from); },
    at: (x) => { const part = holding((one) => x <= one.to); return part.begin + share(x, part.from, part.to) * (part.end - part.begin); },
  };
}
function gridOfTime(svg, scale, box, many) { // ticks where windows are; a pause says how long it was
  const [first, second] = ticks([0, scale.inside / 1e3], false, many, 10), step = (second - first) * 1e3 || scale.inside;
  const values = scale.parts.filter((part) => !part.pause).flatMap((part) => {
    const from = Math.ceil(part.begin / step - 1e-9), count = Math.floor(part.end / step + 1e-9) - from + 1;
    return Array.from({ length: Math.max(0, count) }, (_, i) => (from + i) * step);
  });
  const texts = tickTexts([...new Set(values)].map((value) => value / 1e3), "s");
  let end = -Infinity;
  [...new Set(values)].forEach((value, i) => {
    const x = scale.x(value), half = textWidth(texts[i]) / 2;
    svg.append(draw("line", { class: "grid", x1: x, x2: x, y1: box.top, y2: box.bottom }));
    if (x - half < end + 6) return;
    svg.append(draw("text", { x, y: box.bottom + 18, "text-anchor": "middle" }, texts[i]));
    end = x + half;
  });
  for (const part of scale.parts.filter((one) => one.pause)) {
    const rest = draw("text", { class: "pause", x: (part.from + part.to) / 2, y: (box.top + box.bottom) / 2, "text-anchor": "middle" }, "⋯");
    rest.append(draw("title", {}, `${quantityText((part.end - part.begin) / 1e3, "s")} between windows`));
    svg.append(rest);
  }
}
