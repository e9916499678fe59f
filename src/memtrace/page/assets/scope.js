"use strict";
// One device of one process, as analyse/history.py tells it: everything that the page shows of it
// is worked out here, from sums between cuts and from the allocations that are told one by one.

const SITE_COLUMNS = ["category", "module", "operator", "source"];
const NAMELESS = {
  category: "no category",
  module: "outside any module",
  operator: "outside any operator",
  source: "no Python line",
};
const UNMATCHED = "in no recorded allocation";

class Scope {
  constructor(page, told, columns) {
    const read = (places) =>
      Object.fromEntries(Object.entries(places).map(([name, place]) => [name, columns.numbers(place)]));
    this.page = page;
    this.told = told;
    this.device = told.device;
    this.process = page.processes[told.process];
    this.words = page.words;
    this.sites = columns.json(this.process.sites);
    this.stacks = columns.json(told.rows.stacks);
    this.headline = told.headline;
    const { events_per_bin: perBin, end_ns: last, ...lanes } = told.curve;
    this.eventsPerBin = perBin;
    this.curve = read(lanes);
    this.processMemory = told.process_memory && read(told.process_memory);
    this.cuts = read(told.cuts);
    this.spans = read(told.spans);
    this.columns = columns;
    this.layerCuts = read({ seq: told.layers.seq, ns: told.layers.ns });
    this.rows = read(told.rows.columns);
    this.segments = told.segments && readSegments(told.segments, read);
    const { total, peaks, ...steps } = this.process.steps;
    this.steps = { total, ...read(steps), peak: peaks[this.device] && columns.numbers(peaks[this.device]) };
    this.instants = instantsOf(this, told.instants);
    // From the first event to the last: imports before and idle time after would take the room.
    const first = this.curve.begin_ns[0];
    const margin = Math.max((last - first) / 100, 100);
    this.begin = Math.max(first - margin, 0);
    this.end = last + margin;
    this._groups = new Map();
    this.freed = this.rows.born.map((born, row) => (this.rows.lived[row] ? born + this.rows.lived[row] : Infinity));
  }

  /** Who this is, where the page tells of several. */
  get title() {
    const { pid, rank } = this.process;
    const several = this.page.processes.length > 1;
    return `${this.device}${several ? ` · process ${pid}${rank === null ? "" : ` (rank ${rank})`}` : ""}`;
  }

  get peakCut() {
    return this.cutOf(this.headline.seq);
  }

  /** The words of a site's column, or what a site without is called. */
  word(site, column) {
    const number = this.sites[site][SITE_COLUMNS.indexOf(column)];
    return number ? this.words[number - 1] : NAMELESS[column];
  }

  /** The cut of a seq: the state after that event. */
  cutOf(seq) {
    return Math.min(lowerBound(this.cuts.seq, seq), this.cuts.seq.length - 1);
  }

  /** The cut that is nearest in the order of events. */
  cutNear(seq) {
    const { seq: seqs } = this.cuts;
    const cut = this.cutOf(seq);
    return cut > 0 && seq - seqs[cut - 1] < seqs[cut] - seq ? cut - 1 : cut;
  }

  /** The last cut that is not after an instant. */
  cutAt(ns) {
    return Math.max(0, upperBound(this.cuts.ns, ns) - 1);
  }

  /** Bytes and blocks that were live at a cut, by site. */
  liveSites(cut) {
    const { site, born, lived, bytes, blocks } = this.spans;
    const sums = { bytes: new Float64Array(this.sites.length), blocks: new Float64Array(this.sites.length) };
    const end = upperBound(born, cut); // sorted by birth
    for (let row = 0; row < end; row++) {
      if (born[row] + lived[row] <= cut) continue;
      sums.bytes[site[row]] += bytes[row];
      sums.blocks[site[row]] += blocks[row];
    }
    return sums;
  }

  /** By site, what was allocated and what was freed after one cut until another, and what of the
   *  allocated was still there then. */
  changes(from, to) {
    const { site, born, lived, bytes, blocks } = this.spans;
    const make = () => ({
      bytes: new Float64Array(this.sites.length),
      blocks: new Float64Array(this.sites.length),
    });
    const sums = { allocated: make(), freed: make(), kept: make() };
    const add = (which, row) => {
      which.bytes[site[row]] += bytes[row];
      which.blocks[site[row]] += blocks[row];
    };
    const end = upperBound(born, to);
    for (let row = 0; row < end; row++) {
      const died = born[row] + lived[row];
      const isNew = born[row] > from;
      if (isNew) add(sums.allocated, row);
      if (died > from && died <= to) add(sums.freed, row);
      else if (isNew) add(sums.kept, row);
    }
    return sums;
  }

  /** Rows of the allocations told one by one that were live after an event. */
  liveRows(seq) {
    const found = [];
    const end = upperBound(this.rows.born, seq);
    for (let row = 0; row < end; row++) if (this.freed[row] > seq) found.push(row);
    return found;
  }

  /** The number of each site's group by a column, and the groups' names. */
  groups(column) {
    if (!this._groups.has(column)) {
      const numbers = new Map();
      const names = [];
      const of = this.sites.map((_, site) => {
        const word = this.word(site, column);
        if (!numbers.has(word)) {
          numbers.set(word, names.length);
          names.push(word);
        }
        return numbers.get(word);
      });
      this._groups.set(column, { of, names });
    }
    return this._groups.get(column);
  }

  /** Sums by site as sums by a column: [{name, bytes, blocks}], the largest first. */
  grouped(sums, column) {
    const { of, names } = this.groups(column);
    const groups = names.map((name) => ({ name, bytes: 0, blocks: 0 }));
    for (let site = 0; site < of.length; site++) {
      groups[of[site]].bytes += sums.bytes[site];
      groups[of[site]].blocks += sums.blocks[site];
    }
    return groups.filter((group) => group.blocks > 0).sort((a, b) => b.bytes - a.bytes);
  }

  /** The largest groups of a column over time, for a stack: {names, layers, total}: layers[g][cut]
   *  are the group's bytes at each of layerCuts; with `rest`, the last are all the others. */
  layers(column, most) {
    const { names: numbers, others, bytes } = this.told.layers.by[column];
    const all = bytes.map((place) => this.columns.numbers(place));
    const names = numbers.map((number) => (number ? this.words[number - 1] : NAMELESS[column]));
    const shown = Array.from(names.keys()).slice(0, column === "category" ? names.length : most);
    if (column === "category") shown.sort((a, b) => categoryPlace(names[a]) - categoryPlace(names[b]));
    const found = { names: shown.map((group) => names[group]), layers: shown.map((group) => all[group]), rest: false };
    const left = all.slice(shown.length);
    if (left.length && shown.length < all.length) {
      found.rest = true;
      found.names.push(formatNumberOf(others + names.length - shown.length, "other"));
      found.layers.push(Float64Array.from(all[0], (_, cut) => left.reduce((sum, layer) => sum + layer[cut], 0)));
    }
    found.total = Float64Array.from(this.layerCuts.ns, (_, cut) => found.layers.reduce((sum, layer) => sum + layer[cut], 0));
    return found;
  }

  /** A tree of sums by site: module, part by part, then operator, then source line. */
  tree(sums, name) {
    const root = { name, kind: "value", bytes: 0, blocks: 0, inner: new Map() };
    for (let site = 0; site < this.sites.length; site++) {
      if (!sums.blocks[site]) continue;
      const [, module, operator, source] = this.sites[site];
      const path = module ? this.words[module - 1].split(".").map((part) => ["module", part]) : [["none", NAMELESS.module]];
      path.push([operator ? "operator" : "none", this.word(site, "operator")]);
      path.push([source ? "source" : "none", this.word(site, "source")]);
      let node = root;
      node.bytes += sums.bytes[site];
      node.blocks += sums.blocks[site];
      for (const [kind, part] of path) {
        const key = `${kind} ${part}`;
        if (!node.inner.has(key)) node.inner.set(key, { name: part, kind, bytes: 0, blocks: 0, inner: new Map() });
        node = node.inner.get(key);
        node.bytes += sums.bytes[site];
        node.blocks += sums.blocks[site];
      }
    }
    return closed(root);
  }

  /** The name of a row's stack's frames, innermost first: [{function, file, line}]. */
  stack(row) {
    const { frames, stacks } = this.stacks;
    const number = this.rows.stack[row];
    if (!number) return null;
    return stacks[number - 1].map((place) => {
      const [name, file, line] = frames[place];
      return { name, file, line };
    });
  }
}

/** A tree whose nodes have lists of children; modules with but one way on become one node. */
function closed(node) {
  const children = [...node.inner.values()].map(closed);
  const made = { name: node.name, kind: node.kind, bytes: node.bytes, blocks: node.blocks, children };
  if (made.kind === "module" && children.length === 1 && children[0].kind === "module") {
    return { ...children[0], name: `${made.name}.${children[0].name}` };
  }
  return made;
}

function categoryPlace(name) {
  const place = CATEGORIES.indexOf(name);
  return place < 0 ? CATEGORIES.length : place;
}

function readSegments(told, read) {
  const { total, ...places } = told;
  return { total, ...read(places) };
}

const INSTANT_WORDS = {
  peak: () => "Peak",
  reserved_peak: () => "Peak of reserved",
  oom: (instant) => `Out of memory ${instant.number}`,
  stage_peak: (instant) => `Peak of ${instant.name}`,
  stage_end: (instant) => `End of ${instant.name}`,
  step_peak: (instant) => `Peak of ${instant.name}`,
  step_end: (instant) => `End of ${instant.name}`,
  last: () => "End",
};

/** The instants in the order of time, each with its cut and its name. */
function instantsOf(scope, told) {
  const instants = told.chosen.map((instant, rank) => ({
    ...instant,
    rank,
    cut: scope.cutOf(instant.seq),
    title: INSTANT_WORDS[instant.kind](instant),
  }));
  return instants.sort((a, b) => a.seq - b.seq || a.rank - b.rank);
}

/** The first place in an ascending column whose value is not below. */
function lowerBound(values, wanted) {
  let [low, high] = [0, values.length];
  while (low < high) {
    const half = (low + high) >> 1;
    if (values[half] < wanted) low = half + 1;
    else high = half;
  }
  return low;
}

/** The first place in an ascending column whose value is above. */
function upperBound(values, wanted) {
  let [low, high] = [0, values.length];
  while (low < high) {
    const half = (low + high) >> 1;
    if (values[half] <= wanted) low = half + 1;
    else high = half;
  }
  return low;
}
