// Who is beaten on two metrics. The same rule as `plane.py`, which figures on paper are drawn by (a test holds both to
// each other): one beats another that is as good in both estimates and better in one; it beats it beyond the intervals
// where, of one metric at least, its worse end is better than the other's better end. An estimate without an interval is
// its own interval.
function frontOf(points, betterX, betterY) {
  const worth = (better, [value, low, high]) => {
    const ends = [low ?? value, high ?? value];
    return better === "low" ? { is: -value, least: -ends[1], most: -ends[0] } : { is: value, least: ends[0], most: ends[1] };
  };
  const known = betterX && betterY ? points.map((point) => ({ name: point.name, on: [worth(betterX, point.x), worth(betterY, point.y)] })) : [];
  const beats = (one, other) => one.on.every((w, k) => w.is >= other.on[k].is) && one.on.some((w, k) => w.is > other.on[k].is);
  const beyond = (one, other) => beats(one, other) && one.on.some((w, k) => w.least > other.on[k].most);
  return new Map(known.map((own) => [own.name, {
    front: !known.some((other) => beats(other, own)),
    beaten: known.filter((other) => beyond(other, own)).map((other) => other.name),
  }]));
}
