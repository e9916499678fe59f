"use strict";
// What was live at an instant: allocation by allocation, by place in the program, as an icicle.

class LiveView {
  constructor(container, { search }) {
    this.search = search;
    this.mode = "allocations";
    this.note = element("p", { class: "note faint" });
    this.stage = element("div", { class: "live-stage" });
    this.detail = element("aside", { class: "detail", hidden: true });
    container.append(this.note, element("div", { class: "live-box" }, this.stage, this.detail));
    this.places = {};
    for (const mode of ["allocations", "places", "icicle"]) {
      this.places[mode] = element("div", { class: "live-mode", hidden: true });
      this.stage.append(this.places[mode]);
    }
  }

  setScope(scope) {
    this.scope = scope;
    fill(this.places.allocations);
    fill(this.places.places);
    fill(this.places.icicle);
    this.allocations = new DataTable(this.places.allocations, {
      label: "Live allocations",
      columns: allocationColumns(scope),
      onSelect: (row) => this._tell(row),
    });
    this.sites = new DataTable(this.places.places, { label: "Live memory by place", columns: siteColumns(scope) });
    this.icicle = null;
    this.detail.hidden = true;
  }

  setMode(mode) {
    this.mode = mode;
    for (const [name, place] of Object.entries(this.places)) place.hidden = name !== mode;
    this._show();
  }

  /** Shows the state of a cut. */
  setCut(cut) {
    this.cut = cut;
    this.sums = this.scope.liveSites(cut);
    this.rows = this.scope.liveRows(this.scope.cuts.seq[cut]);
    this.total = sumOf(this.sums.bytes);
    this.blocks = sumOf(this.sums.blocks);
    this.detail.hidden = true;
    this._note();
    this.fresh = new Set();
    this._show();
  }

  /** True when every live allocation of the cut is in the table. */
  get isExact() {
    return this.rows.length === this.blocks;
  }

  _note() {
    const { scope } = this;
    const missing = this.blocks - this.rows.length;
    const unmatched = scope.cuts.unmatched[this.cut];
    const words = [];
    if (missing > 0) {
      const bytes = this.total - this.rows.reduce((sum, row) => sum + scope.rows.bytes[row], 0);
      const least = scope.told.rows.large_bytes;
      words.push(
        `${formatNumberOf(missing, "smaller allocation")} (${formatBytes(bytes)}) ${missing === 1 ? "is" : "are"} told as sums by place: one by one are all of ${formatBytes(least)} and more, and every one at the peak, at failed requests and at the listed ends of stages and steps.`,
      );
    }
    if (unmatched > 0) words.push(`${formatExactBytes(unmatched)} of the device's total ${UNMATCHED}.`);
    if (unmatched < 0) words.push(`The allocations hold ${formatExactBytes(-unmatched)} more than the device's total.`);
    this.note.textContent = words.join(" ");
    this.note.hidden = !words.length;
  }

  _show() {
    if (this.cut === undefined || this.fresh.has(this.mode)) return this._search();
    this.fresh.add(this.mode);
    if (this.mode === "allocations") this.allocations.setRows(this.rows);
    if (this.mode === "places") this.sites.setRows(siteRows(this.scope, this.sums));
    if (this.mode === "icicle") {
      const root = this.scope.tree(this.sums, `live: ${formatBytes(this.total)}`);
      if (this.icicle) this.icicle.setRoot(root);
      else this.icicle = Icicle(this.places.icicle, root, {});
    }
    return this._search();
  }

  setSearch(text) {
    this.search = text;
    this._search();
  }

  _search() {
    const matches = matcher(this.scope, this.search);
    if (this.mode === "allocations") this.allocations.setFilter(matches && matches.row);
    if (this.mode === "places") this.sites.setFilter(matches && ((row) => matches.site(row.site)));
    if (this.mode === "icicle" && this.icicle) this.icicle.search(this.search);
  }

  _tell(row) {
    const { scope } = this;
    fill(this.detail, ...allocationDetails(scope, row, () => (this.detail.hidden = true)));
    this.detail.hidden = false;
  }
}

function sumOf(values) {
  let sum = 0;
  for (const value of values) sum += value;
  return sum;
}

/** Which rows and sites have a text in any of their words; null for no text. */
function matcher(scope, text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return null;
  const hits = scope.words.map((word) => word.toLowerCase().includes(wanted));
  const has = (number) => number > 0 && hits[number - 1];
  const nameless = SITE_COLUMNS.map((column) => NAMELESS[column].includes(wanted));
  const sites = scope.sites.map((numbers) => numbers.some((number, place) => (number ? has(number) : nameless[place])));
  const { site, label, pool, memory, phase } = scope.rows;
  return {
    site: (number) => sites[number],
    row: (row) => sites[site[row]] || has(label[row]) || has(pool[row]) || has(memory[row]) || has(phase[row]),
  };
}

function allocationColumns(scope) {
  const { rows, words } = scope;
  const word = (column) => (row) => scope.word(rows.site[row], column);
  const named = namedBy(scope, (row) => rows.site[row]);
  const label = (row) => (rows.label[row] ? words[rows.label[row] - 1] : "");
  return [
    { title: "Size", right: true, width: "84px", text: (row) => formatBytes(rows.bytes[row]), sort: (row) => rows.bytes[row] },
    {
      title: "Category", width: "124px", text: (row) => word("category")(row).replaceAll("_", " "), sort: word("category"),
      colour: (row) => Theme.category(word("category")(row)),
    },
    { title: "Label", width: "minmax(70px, 1fr)", text: label, sort: label },
    { title: "Module", width: "minmax(70px, 1fr)", ...named("module") },
    { title: "Operator", width: "minmax(70px, 0.9fr)", ...named("operator") },
    { title: "Line", width: "minmax(70px, 1fr)", ...named("source") },
    { title: "Born", right: true, width: "88px", text: (row) => formatTime(rows.born_ns[row]), sort: (row) => rows.born_ns[row] },
    { title: "Lived", right: true, width: "88px", text: (row) => lifeText(scope, row), sort: (row) => lifeOf(scope, row) },
  ];
}

/** A column of a site's words; those of sites that have none stand back. */
function namedBy(scope, siteOf) {
  return (column) => ({
    text: (row) => scope.word(siteOf(row), column),
    sort: (row) => scope.word(siteOf(row), column),
    faint: (row) => !scope.sites[siteOf(row)][SITE_COLUMNS.indexOf(column)],
  });
}

function lifeOf(scope, row) {
  return scope.rows.lived[row] ? scope.rows.lived_ns[row] : Infinity;
}

function lifeText(scope, row) {
  return scope.rows.lived[row] ? formatTime(scope.rows.lived_ns[row]) : "to the end";
}

function siteRows(scope, sums) {
  const rows = [];
  for (let site = 0; site < scope.sites.length; site++) {
    if (sums.blocks[site]) rows.push({ site, bytes: sums.bytes[site], blocks: sums.blocks[site] });
  }
  return rows;
}

function siteColumns(scope) {
  const word = (column) => ({ site }) => scope.word(site, column);
  const named = namedBy(scope, ({ site }) => site);
  return [
    { title: "Size", right: true, width: "84px", text: ({ bytes }) => formatBytes(bytes), sort: ({ bytes }) => bytes },
    { title: "Blocks", right: true, width: "76px", text: ({ blocks }) => formatCount(blocks), sort: ({ blocks }) => blocks },
    {
      title: "Category", width: "124px", text: (row) => word("category")(row).replaceAll("_", " "), sort: word("category"),
      colour: (row) => Theme.category(word("category")(row)),
    },
    { title: "Module", width: "minmax(70px, 1fr)", ...named("module") },
    { title: "Operator", width: "minmax(70px, 1fr)", ...named("operator") },
    { title: "Line", width: "minmax(70px, 1fr)", ...named("source") },
  ];
}

/** Everything that is known of one allocation. */
function allocationDetails(scope, row, close) {
  const { rows, words } = scope;
  const word = (column) => (rows[column][row] ? words[rows[column][row] - 1] : null);
  const facts = [
    ["size", formatExactBytes(rows.bytes[row])],
    rows.asked[row] !== rows.bytes[row] && ["asked for", formatExactBytes(rows.asked[row])],
    ["category", scope.word(rows.site[row], "category").replaceAll("_", " ")],
    ["label", word("label")],
    ["module", scope.word(rows.site[row], "module")],
    ["operator", scope.word(rows.site[row], "operator")],
    ["line", scope.word(rows.site[row], "source")],
    ["born", `${formatTime(rows.born_ns[row])}, event ${formatCount(rows.born[row])}`],
    ["lived", lifeText(scope, row)],
    rows.step[row] > 0 && ["step", formatCount(rows.step[row] - 1)],
    ["phase", word("phase")],
    ["memory", word("memory")],
    ["pool", word("pool") === "default" ? null : word("pool")],
    ["address", rows.address[row] ? `0x${rows.address[row].toString(16)}` : null],
    ["number", formatCount(rows.id[row])],
  ].filter((fact) => fact && fact[1]);
  const stack = scope.stack(row);
  const frames = stack
    ? stack.map(({ name, file, line }) => element("li", { title: file }, element("code", { text: `${file.split("/").pop()}:${line} ${name}` })))
    : [element("li", { class: "faint", text: rows.stack[row] ? "" : "its stack is not in this page" })];
  return [
    element("div", { class: "bar" }, element("h3", { text: "Allocation" }), element("span", { class: "spring" }), element("button", { type: "button", text: "Close", onclick: close })),
    element("dl", {}, ...facts.flatMap(([name, text]) => [element("dt", { text: name }), element("dd", { text })])),
    element("h3", { text: "Stack" }),
    element("ol", { class: "stack" }, ...frames),
  ];
}
