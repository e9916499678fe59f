"use strict";
// The page: what is chosen (a device, an instant, a range), and who shows it.

const KEYS = [
  ["P", "jump to the peak"],
  ["O", "jump to the next failed request"],
  ["[ ]", "the instant before, after"],
  ["← →", "pan the timeline"],
  ["+ −", "zoom in, out (or the wheel)"],
  ["0", "show all of the time"],
  ["S", "drag selects a range instead of panning (or hold Shift)"],
  ["V", "take what is in view as the range"],
  ["Esc", "give the range up"],
  ["1 … 7", "live, range, lifetimes, segments, stages, out of memory, about"],
  ["/", "search"],
  ["T", "light or dark"],
  ["?", "these keys"],
];

const TABS = [
  ["live", "Live"],
  ["range", "Range"],
  ["lifetimes", "Lifetimes"],
  ["segments", "Segments"],
  ["stages", "Stages"],
  ["oom", "Out of memory"],
  ["about", "About"],
];

class Report {
  constructor(page, columns) {
    this.page = page;
    this.columns = columns;
    this.scopes = new Map();
    this.tab = "live";
    this.panels = {};
    for (const [name, title] of TABS) {
      const tab = element("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`, text: title, onclick: () => this.setTab(name) });
      byId("tabs").append(tab);
      this.panels[name] = element("div", { class: "tab-panel", role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}`, hidden: true });
      byId("panels").append(this.panels[name]);
    }
    this.timeline = new Timeline(byId("timeline"), {
      onPick: (cut) => {
        this.setCut(cut);
        this.setTab("live");
      },
      onRange: (from, to) => this.setRange(from, to),
    });
    this.live = new LiveView(this.panels.live, { search: "" });
    this.range = new RangeView(this.panels.range);
    this.lifetimes = new LifetimesView(this.panels.lifetimes, { viewOf: () => this.timeline.view });
    this.segments = new SegmentsView(this.panels.segments);
    const draw = this.timeline.draw.bind(this.timeline);
    this.timeline.draw = () => {
      draw();
      if (this.tab === "lifetimes") this.lifetimes.redraw();
    };
    this._tools();
    this._keys();
    Theme.listeners.push(() => this._headline());
    this.setScope(0);
  }

  scopeOf(place) {
    if (!this.scopes.has(place)) this.scopes.set(place, new Scope(this.page, this.page.devices[place], this.columns));
    return this.scopes.get(place);
  }

  setScope(place) {
    this.scope = this.scopeOf(place);
    const { scope } = this;
    byId("command").textContent = scope.process.command || "(arguments withheld)";
    byId("command").title = scope.process.command || "";
    this._headline();
    for (const view of [this.timeline, this.live, this.range, this.lifetimes, this.segments]) view.setScope(scope);
    byId("jump-oom").hidden = !scope.instants.some(({ kind }) => kind === "oom");
    byId("tab-segments").hidden = !scope.segments;
    byId("tab-oom").hidden = !scope.told.oom.length;
    fill(byId("instant"), element("option", { value: "", text: "an instant…" }), ...instantGroups(scope));
    fill(this.panels.stages, blocksElement(scope.told.ledger));
    fill(this.panels.oom, blocksElement(scope.told.oom));
    fill(this.panels.about, ...aboutElements(this.page, scope));
    if (byId(`tab-${this.tab}`).hidden) this.tab = "live";
    this.setCut(scope.peakCut);
    this.setTab(this.tab);
  }

  _headline() {
    fill(byId("headline"), ...headlineElement(this.scope, this.page, { jumpToPeak: () => this.jumpToPeak(), jumpToOom: () => this.jumpToOom() }));
  }

  setCut(cut) {
    this.cut = cut;
    this.timeline.setCut(cut);
    this.live.setCut(cut);
    this.segments.setCut(cut);
    const { scope } = this;
    const seq = scope.cuts.seq[cut];
    const at = scope.instants.findIndex((instant) => instant.seq === seq);
    byId("instant").value = at < 0 ? "" : String(at);
    const named = scope.instants.filter((instant) => instant.seq === seq).map(({ title }) => title);
    const exact = this.live.isExact ? "every allocation" : "sums by place, and the large ones";
    const reserved = scope.device !== "cpu" && scope.cuts.reserved[cut] ? `, ${formatBytes(scope.cuts.reserved[cut])} reserved` : "";
    fill(
      byId("instant-line"),
      element("strong", { text: named.length ? [...new Set(named)].slice(0, 3).join(", ") : "Instant" }),
      ` at ${formatTime(scope.cuts.ns[cut])}: `,
      element("strong", { id: "cut-bytes", "data-bytes": scope.cuts.allocated[cut], text: formatExactBytes(scope.cuts.allocated[cut]) }),
      ` allocated${reserved}, in ${formatNumberOf(this.live.blocks, "block")} `,
      element("span", { class: "faint", text: `(${exact}; event ${formatCount(Math.max(seq, 0))})` }),
    );
  }

  setRange(from, to) {
    this.timeline.setRange(from, to);
    this.range.setRange(from, to);
    if (from !== null) this.setTab("range");
  }

  rangeOfView() {
    const { start, end } = this.timeline.view;
    this.setRange(this.scope.cutAt(start), this.scope.cutAt(end));
  }

  setTab(name) {
    this.tab = name;
    for (const [other] of TABS) {
      byId(`tab-${other}`).setAttribute("aria-selected", String(other === name));
      byId(`tab-${other}`).tabIndex = other === name ? 0 : -1;
      this.panels[other].hidden = other !== name;
    }
    byId("instant-line").hidden = !["live", "segments"].includes(name);
    byId("search").hidden = !["live", "range", "lifetimes"].includes(name);
    this._controls();
    if (name === "live") this.live.setMode(this.live.mode);
    if (name === "lifetimes") this.lifetimes.redraw();
    if (name === "segments") this.segments.redraw();
    this._search();
  }

  _controls() {
    const choice = (name, title, pressed, act) =>
      element("button", { type: "button", "aria-pressed": String(pressed), "data-choice": name, text: title, onclick: act });
    if (this.tab === "live") {
      const modes = [["allocations", "Allocations"], ["places", "Places"], ["icicle", "Icicle"]];
      fill(byId("controls"), ...modes.map(([mode, title]) =>
        choice(mode, title, this.live.mode === mode, () => {
          this.live.setMode(mode);
          this._controls();
        }),
      ));
    } else if (this.tab === "range") {
      const names = { category: "Category", module: "Module", operator: "Operator", source: "Line" };
      fill(
        byId("controls"),
        element("button", { type: "button", id: "range-view", text: "Take the view", title: "V", onclick: () => this.rangeOfView() }),
        ...SITE_COLUMNS.map((column) =>
          choice(column, names[column], this.range.by === column, () => {
            this.range.setBy(column);
            this._controls();
          }),
        ),
      );
    } else fill(byId("controls"));
  }

  jumpToPeak() {
    this.setCut(this.scope.peakCut);
    this.setTab("live");
  }

  /** The next failed request after the instant shown; after the last, the first. */
  jumpToOom() {
    const ooms = this.scope.instants.filter(({ kind }) => kind === "oom");
    if (!ooms.length) return;
    const after = ooms.find(({ cut }) => cut > this.cut) || ooms[0];
    this.setCut(after.cut);
    if (!["live", "segments"].includes(this.tab)) this.setTab("live");
  }

  _step(by) {
    const cuts = [...new Set(this.scope.instants.map(({ cut }) => cut))];
    const found = by > 0 ? cuts.find((cut) => cut > this.cut) : cuts.reverse().find((cut) => cut < this.cut);
    if (found !== undefined) this.setCut(found);
  }

  _search() {
    const text = byId("search").value;
    if (this.tab === "live") this.live.setSearch(text);
    if (this.tab === "range") this.range.setSearch(text);
    if (this.tab === "lifetimes") this.lifetimes.setSearch(text);
  }

  _tools() {
    const on = (id, event, act) => byId(id).addEventListener(event, act);
    const names = { category: "category", module: "module", operator: "operator", source: "line" };
    byId("by").append(...SITE_COLUMNS.map((column) => element("option", { value: column, text: names[column] })));
    on("by", "change", () => this.timeline.setBy(byId("by").value));
    on("jump-peak", "click", () => this.jumpToPeak());
    on("jump-oom", "click", () => this.jumpToOom());
    on("instant", "change", () => byId("instant").value && this.setCut(this.scope.instants[Number(byId("instant").value)].cut));
    on("previous", "click", () => this._step(-1));
    on("next", "click", () => this._step(1));
    on("select", "click", () => this._toggleSelect());
    on("zoom-in", "click", () => this.timeline.zoom(2));
    on("zoom-out", "click", () => this.timeline.zoom(0.5));
    on("zoom-all", "click", () => this.timeline.showAll());
    on("search", "input", () => this._search());
    on("theme", "click", () => Theme.toggle());
    on("help", "click", () => byId("keys").showModal());
    const { devices } = this.page;
    byId("scope").append(...devices.map((_, place) => element("option", { value: place, text: scopeTitle(this.page, place) })));
    byId("scope-label").hidden = devices.length < 2;
    on("scope", "change", () => this.setScope(Number(byId("scope").value)));
    const rows = KEYS.map(([key, what]) => element("tr", {}, element("td", {}, element("kbd", { text: key })), element("td", { text: what })));
    fill(byId("keys"), element("h2", { text: "Keys" }), element("table", {}, ...rows), element("form", { method: "dialog" }, element("button", { text: "Close" })));
  }

  _toggleSelect() {
    this.timeline.selecting = !this.timeline.selecting;
    byId("select").setAttribute("aria-pressed", String(this.timeline.selecting));
  }

  _keys() {
    const acts = {
      p: () => this.jumpToPeak(),
      o: () => this.jumpToOom(),
      "[": () => this._step(-1),
      "]": () => this._step(1),
      ArrowLeft: () => this.timeline.pan(-0.2),
      ArrowRight: () => this.timeline.pan(0.2),
      "+": () => this.timeline.zoom(1.6),
      "=": () => this.timeline.zoom(1.6),
      "-": () => this.timeline.zoom(1 / 1.6),
      0: () => this.timeline.showAll(),
      s: () => this._toggleSelect(),
      v: () => this.rangeOfView(),
      Escape: () => this.setRange(null, null),
      "/": () => byId("search").focus(),
      t: () => Theme.toggle(),
      "?": () => byId("keys").showModal(),
    };
    TABS.forEach(([name], place) => {
      acts[place + 1] = () => byId(`tab-${name}`).hidden || this.setTab(name);
    });
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
      const inField = event.target.matches("input, select, textarea");
      if (inField && event.key === "Escape") return event.target.blur();
      const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (inField || !act || event.target.closest(".icicle")) return;
      event.preventDefault();
      act();
    });
    byId("tabs").addEventListener("keydown", (event) => {
      const shown = TABS.map(([name]) => name).filter((name) => !byId(`tab-${name}`).hidden);
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.stopPropagation();
      const next = shown[(shown.indexOf(this.tab) + step + shown.length) % shown.length];
      this.setTab(next);
      byId(`tab-${next}`).focus();
    });
  }
}

function scopeTitle(page, place) {
  const device = page.devices[place];
  const { pid, rank } = page.processes[device.process];
  const of = page.processes.length > 1 ? ` · process ${pid}${rank === null ? "" : ` (rank ${rank})`}` : "";
  return `${device.device}${of} · ${formatBytes(device.headline.peak_bytes)}`;
}

/** The instants to choose from, in groups that say how many of how many they are. */
function instantGroups(scope) {
  const { totals } = scope.told.instants;
  const number = (kind) => scope.instants.filter((instant) => instant.kind === kind).length;
  const some = (kind) => (number(kind) < totals[kind] ? ` (${formatCount(number(kind))} of ${formatCount(totals[kind])}: first, last, largest peaks)` : "");
  const groups = [
    ["Whole recording", /^(peak|reserved_peak|oom|last)$/],
    [`Stages${some("stage_end")}`, /^stage/],
    [`Steps${some("step_end")}`, /^step/],
  ];
  return groups.map(([label, kinds]) => {
    const options = scope.instants.flatMap(({ kind, title }, at) => (kinds.test(kind) ? [element("option", { value: at, text: title })] : []));
    return options.length ? element("optgroup", { label }, ...options) : null;
  });
}

/** What ran, what is missing, and what this page holds of the trace. */
function aboutElements(page, scope) {
  const { rows, instants } = scope.told;
  const steps = instants.totals.step_end;
  const stepsTold = instants.chosen.filter(({ kind }) => kind === "step_end").length;
  const stages = instants.totals.stage_end;
  const stagesTold = instants.chosen.filter(({ kind }) => kind === "stage_end").length;
  const large = rows.large_bytes;
  const holds = [
    `Totals of ${scope.title}: ${scope.eventsPerBin === 1 ? "after every event" : `the least, the most and the last of every ${formatCount(scope.eventsPerBin)} events`}.`,
    `By category, module, operator and line: exact at ${formatCount(scope.cuts.seq.length)} instants, among them the highest of every stretch of time.`,
    large
      ? `Allocation by allocation: ${formatCount(scope.rows.born.length)} of ${formatCount(rows.total)}: all of ${formatExactBytes(large)} and more, and what was live at the listed instants.`
      : `Allocation by allocation: all ${formatCount(rows.total)}.`,
    rows.floor_bytes ? `At the listed instants, allocations below ${formatBytes(rows.floor_bytes)} are told as sums: there are too many.` : null,
    stages > stagesTold ? `Ends of stages: ${formatCount(stagesTold)} of ${formatCount(stages)}: the first, the last, and those with the largest peaks.` : null,
    steps > stepsTold ? `Ends of steps: ${formatCount(stepsTold)} of ${formatCount(steps)}: the first, the last, and those with the largest peaks.` : null,
    instants.totals.oom > scope.instants.filter(({ kind }) => kind === "oom").length ? `Failed requests: the last of ${formatCount(instants.totals.oom)}.` : null,
    scope.segments && scope.segments.total > scope.segments.born.length ? `Segments: the largest of ${formatCount(scope.segments.total)}.` : null,
  ].filter(Boolean);
  return [
    element("h3", { text: "What this page holds" }),
    element("ul", {}, ...holds.map((text) => element("li", { text }))),
    blocksElement(scope.told.external),
    blocksElement(page.summary),
  ];
}

async function begin() {
  const page = readDocument();
  byId("trace-name").textContent = page.trace;
  const columns = await readColumns();
  page.words = columns.json(page.words);
  byId("loading").hidden = true;
  if (page.empty) {
    fill(byId("nothing"), element("h1", { text: "No allocation was recorded" }), element("p", { class: "line warning", text: page.empty }), blocksElement(page.summary));
    byId("nothing").hidden = false;
    byId("theme").addEventListener("click", () => Theme.toggle());
    byId("help").hidden = true;
    return;
  }
  byId("main").hidden = false;
  window.memtraceReport = new Report(page, columns);
  // Drawn once, and ready for whoever looks: benchmarks/page/large_page.py reads the mark.
  requestAnimationFrame(() => setTimeout(() => performance.mark("memtrace-ready")));
}

begin().catch((error) => {
  byId("loading").hidden = false;
  byId("loading").textContent = `This page could not be shown: ${error.message}`;
  throw error;
});
