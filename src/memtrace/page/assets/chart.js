"use strict";
// A series that no zoom loses an extreme of: bins with the least and most of each, and a pyramid of
// what is least and most of 2, 4, 8 ... of them.

class Series {
  /** Bins: when each begins, how long its events last (0: all are at its beginning), and the least,
   *  most and last value after them. */
  constructor({ begin_ns: begin, busy_ns: busy, least, most, last }) {
    this.begin = begin;
    this.busy = busy;
    this.last = last;
    this.levels = [{ least, most }];
    for (let size = begin.length; size > 1; size = Math.ceil(size / 2)) {
      const below = this.levels[this.levels.length - 1];
      const level = { least: new Float64Array(Math.ceil(size / 2)), most: new Float64Array(Math.ceil(size / 2)) };
      for (let place = 0; place < level.most.length; place++) {
        const [a, b] = [2 * place, Math.min(2 * place + 1, size - 1)];
        level.least[place] = Math.min(below.least[a], below.least[b]);
        level.most[place] = Math.max(below.most[a], below.most[b]);
      }
      this.levels.push(level);
    }
  }

  /** The least and most from an instant to before another, with what held at the first. */
  between(start, end) {
    const held = upperBound(this.begin, start) - 1;
    const [first, after] = [held + 1, lowerBound(this.begin, end)];
    let found = held < 0 ? null : this._bin(held, start);
    if (after > first) found = joined(found, this._range(first, after));
    return found;
  }

  // While the events of a bin go on, it may be anywhere in its range; then its last value holds.
  _bin(bin, ns) {
    if (ns > this.begin[bin] + (this.busy ? this.busy[bin] : 0)) return { least: this.last[bin], most: this.last[bin] };
    return { least: this.levels[0].least[bin], most: this.levels[0].most[bin] };
  }

  _range(first, after) {
    let found = null;
    let level = 0;
    while (first < after) {
      if (first % 2) found = joined(found, this._at(level, first++));
      if (after % 2) found = joined(found, this._at(level, --after));
      first /= 2;
      after /= 2;
      level += 1;
    }
    return found;
  }

  _at(level, place) {
    return { least: this.levels[level].least[place], most: this.levels[level].most[place] };
  }
}

function joined(a, b) {
  if (!a || !b) return a || b;
  return { least: Math.min(a.least, b.least), most: Math.max(a.most, b.most) };
}

/** For each column of pixels of a view, the least and most of a series there: null where unknown. */
function envelope(series, view, width) {
  const step = (view.end - view.start) / width;
  return Array.from({ length: Math.ceil(width) }, (_, x) =>
    series.between(view.start + x * step, view.start + (x + 1) * step),
  );
}

/** For each column of pixels, the cut to show there: that at which the total is the largest. */
function cutsShown(cuts, total, view, width) {
  const step = (view.end - view.start) / width;
  const shown = new Int32Array(Math.ceil(width));
  let next = upperBound(cuts.ns, view.start);
  let held = next - 1;
  for (let x = 0; x < shown.length; x++) {
    let best = held;
    const end = view.start + (x + 1) * step;
    while (next < cuts.ns.length && cuts.ns[next] <= end) {
      if (best < 0 || total[next] > total[best]) best = next;
      held = next;
      next += 1;
    }
    shown[x] = best;
  }
  return shown;
}
