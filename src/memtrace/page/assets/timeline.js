"use strict";
// The timeline: what was allocated, stacked by whose it was; the exact total, reserved and process
// memory as lines; stages, steps, the peak and failed requests. Zoom, pan, and a range to look into.

const LAYERS = 9;
const PLOT_HEIGHT = 200; // with the axis below
const ZOOM = 1.25;
const NARROWEST_NS = 200;

class Timeline {
  /** onPick(cut): an instant was clicked on. onRange(from, to): cuts; null, null when given up. */
  constructor(container, { onPick, onRange }) {
    this.onPick = onPick;
    this.onRange = onRange;
    this.by = "category";
    this.shows = { reserved: true, process: true };
    this.selecting = false;
    this.canvas = element("canvas", {
      class: "timeline-canvas",
      tabindex: 0,
      role: "application",
      "aria-label": "Memory over time. Arrows pan, plus and minus zoom, 0 shows all, brackets go from instant to instant.",
      onwheel: (event) => this._wheel(event),
      onpointerdown: (event) => this._down(event),
      onpointermove: (event) => this._move(event),
      onpointerup: (event) => this._up(event),
      onpointerleave: () => this._leave(),
      ondblclick: () => this.showAll(),
    });
    this.overview = element("canvas", {
      class: "overview-canvas",
      "aria-hidden": "true",
      onpointerdown: (event) => this._overviewDown(event),
      onpointermove: (event) => event.buttons && this._overviewDown(event),
    });
    this.legend = element("div", { class: "timeline-legend" });
    container.append(this.canvas, this.overview, this.legend);
    this.tip = new Tooltip();
    this.redraw = inNextFrame(() => this.draw());
    new ResizeObserver(this.redraw).observe(this.canvas);
    Theme.listeners.push(() => {
      this._legend();
      this.redraw();
    });
  }

  setScope(scope) {
    this.scope = scope;
    const { begin_ns, busy_ns, least, most, last, reserved_least, reserved_most, reserved_last } = scope.curve;
    this.total = new Series({ begin_ns, busy_ns, least, most, last });
    this.reserved = reserved_most && new Series({ begin_ns, busy_ns, least: reserved_least, most: reserved_most, last: reserved_last });
    this.process = scope.processMemory && new Series(scope.processMemory);
    // Process memory that dwarfs the tensors would flatten them: it is one press away.
    const most_process = scope.processMemory ? largest(scope.processMemory.most) : 0;
    this.shows = { reserved: true, process: most_process <= 4 * scope.headline.peak_bytes };
    this.lanes = lanesOf(scope);
    this.range = null;
    this.cut = scope.peakCut;
    this.setBy(this.by);
    this.showAll();
  }

  setBy(column) {
    this.by = column;
    this.stack = this.scope.layers(column, LAYERS);
    this.stack.colours = this.stack.names.map((name, place) =>
      column === "category" ? () => Theme.category(name) : this.stack.rest && place === this.stack.names.length - 1 ? () => Theme.colour("rest") : () => Theme.series(place),
    );
    this._legend();
    this.redraw();
  }

  _named(name) {
    return this.by === "category" ? name.replaceAll("_", " ") : name;
  }

  setCut(cut) {
    this.cut = cut;
    const ns = this.scope.cuts.ns[cut];
    if (ns < this.view.start || ns > this.view.end) this._centre(ns);
    this.redraw();
  }

  setRange(from, to) {
    this.range = from === null ? null : { from, to };
    this.redraw();
  }

  showAll() {
    this.view = { start: this.scope.begin, end: this.scope.end };
    this.redraw();
  }

  zoom(factor, at = (this.view.start + this.view.end) / 2) {
    const { begin, end } = this.scope;
    const span = Math.min(Math.max((this.view.end - this.view.start) / factor, NARROWEST_NS), end - begin);
    const share = (at - this.view.start) / (this.view.end - this.view.start);
    this._show(at - share * span, span);
  }

  pan(share) {
    const span = this.view.end - this.view.start;
    this._show(this.view.start + share * span, span);
  }

  _centre(ns) {
    const span = this.view.end - this.view.start;
    this._show(ns - span / 2, span);
  }

  _show(start, span) {
    const first = Math.min(Math.max(start, this.scope.begin), this.scope.end - span);
    this.view = { start: first, end: first + span };
    this.redraw();
  }

  // ---- pointers ---------------------------------------------------------------------------------

  _nsAt(event) {
    const x = event.clientX - this.canvas.getBoundingClientRect().left - MARGIN.left;
    const share = Math.min(Math.max(x / this.plotWidth, 0), 1);
    return this.view.start + share * (this.view.end - this.view.start);
  }

  _wheel(event) {
    event.preventDefault();
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.pan(event.deltaX / this.plotWidth);
    else this.zoom(Math.pow(ZOOM, -event.deltaY / 60), this._nsAt(event));
  }

  _down(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    const brush = this.selecting || event.shiftKey;
    this.drag = { x: event.clientX, start: this.view.start, ns: this._nsAt(event), brush, moved: false };
  }

  _move(event) {
    const { drag } = this;
    if (!drag) return this._hover(event);
    drag.moved ||= Math.abs(event.clientX - drag.x) > 3;
    if (!drag.moved) return undefined;
    this.tip.hide();
    if (drag.brush) {
      const [a, b] = [drag.ns, this._nsAt(event)].sort((x, y) => x - y);
      this.range = { from: this.scope.cutAt(a), to: this.scope.cutAt(b) };
      this.redraw();
    } else {
      const span = this.view.end - this.view.start;
      this._show(drag.start - ((event.clientX - drag.x) / this.plotWidth) * span, span);
    }
    return undefined;
  }

  _up(event) {
    const { drag } = this;
    this.drag = null;
    if (!drag) return;
    if (!drag.moved) this.onPick(this.scope.cutNear(this.scope.layerCuts.seq[this._cutNear(event)]));
    else if (drag.brush) this.onRange(this.range.from, this.range.to);
  }

  _leave() {
    this.pointer = null;
    this.tip.hide();
    this.redraw();
  }

  /** The cut that is drawn under the pointer. */
  _cutNear(event) {
    const x = Math.floor(event.clientX - this.canvas.getBoundingClientRect().left - MARGIN.left);
    return Math.max(this.shown[Math.min(Math.max(x, 0), this.shown.length - 1)], 0);
  }

  _hover(event) {
    const ns = this._nsAt(event);
    this.pointer = event.clientX - this.canvas.getBoundingClientRect().left;
    const span = (this.view.end - this.view.start) / this.plotWidth;
    const line = (label, range) =>
      range && element("div", {}, element("span", { class: "faint", text: `${label} ` }), rangeText(range));
    const cut = this._cutNear(event);
    const layers = this.stack.layers
      .map((layer, place) => ({ name: this.stack.names[place], bytes: layer[cut], colour: this.stack.colours[place]() }))
      .filter(({ bytes }) => bytes > 0)
      .sort((a, b) => b.bytes - a.bytes)
      .slice(0, 6)
      .map(({ name, bytes, colour }) => {
        const swatch = element("span", { class: "swatch" });
        swatch.style.background = colour;
        return element("div", {}, swatch, `${this._named(name)} ${formatBytes(bytes)}`);
      });
    this.tip.show(
      event.clientX,
      event.clientY,
      element("strong", { text: formatTime(ns) }),
      line("allocated", this.total.between(ns, ns + span)),
      this.reserved && line("reserved", this.reserved.between(ns, ns + span)),
      this.process && line("process", this.process.between(ns, ns + span)),
      ...layers,
    );
    this.redraw();
  }

  _overviewDown(event) {
    const box = this.overview.getBoundingClientRect();
    const share = (event.clientX - box.left - MARGIN.left) / (box.width - MARGIN.left - MARGIN.right);
    this._centre(this.scope.begin + share * (this.scope.end - this.scope.begin));
  }

  // ---- drawing ----------------------------------------------------------------------------------

  draw() {
    if (!this.scope) return;
    this.canvas.style.height = `${PLOT_HEIGHT + this._laneCount() * LANE}px`;
    const { context, width, height } = fitCanvas(this.canvas);
    const top = MARGIN.top + this._laneCount() * LANE;
    this.plotWidth = Math.max(width - MARGIN.left - MARGIN.right, 10);
    const plot = { top, bottom: height - MARGIN.bottom, left: MARGIN.left, right: MARGIN.left + this.plotWidth };
    const scale = this._scale(plot);
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    drawGrid(context, plot, this.view, scale);
    context.save();
    context.beginPath();
    context.rect(plot.left, 0, this.plotWidth, plot.bottom);
    context.clip();
    this._drawStack(context, plot, scale);
    this._drawLines(context, plot, scale);
    drawLanes(context, this.lanes, this.view, plot);
    this._drawMarks(context, plot, scale);
    context.restore();
    this._drawOverview();
  }

  _laneCount() {
    return Math.min(this.lanes.depth, MOST_LANES) + (this.lanes.steps ? 1 : 0);
  }

  _x(ns, plot) {
    return plot.left + ((ns - this.view.start) / (this.view.end - this.view.start)) * this.plotWidth;
  }

  _scale(plot) {
    const lines = [this.total];
    if (this.shows.reserved && this.reserved) lines.push(this.reserved);
    if (this.shows.process && this.process) lines.push(this.process);
    this.envelopes = new Map(lines.map((line) => [line, envelope(line, this.view, this.plotWidth)]));
    let most = 1;
    for (const range of this.envelopes.values()) for (const at of range) if (at && at.most > most) most = at.most;
    const maximum = most * 1.08;
    return { maximum, y: (bytes) => plot.bottom - (bytes / maximum) * (plot.bottom - plot.top) };
  }

  _drawStack(context, plot, scale) {
    this.shown = cutsShown(this.scope.layerCuts, this.stack.total, this.view, this.plotWidth);
    const columns = this.shown.length;
    let below = new Float64Array(columns);
    const gap = Theme.colour("panel");
    this.stack.layers.forEach((layer, place) => {
      const above = new Float64Array(columns);
      for (let x = 0; x < columns; x++) above[x] = below[x] + (this.shown[x] < 0 ? 0 : layer[this.shown[x]]);
      context.beginPath();
      context.moveTo(plot.left, scale.y(below[0]));
      for (let x = 0; x < columns; x++) {
        context.lineTo(plot.left + x, scale.y(above[x]));
        context.lineTo(plot.left + x + 1, scale.y(above[x]));
      }
      for (let x = columns - 1; x >= 0; x--) {
        context.lineTo(plot.left + x + 1, scale.y(below[x]));
        context.lineTo(plot.left + x, scale.y(below[x]));
      }
      context.closePath();
      context.fillStyle = this.stack.colours[place]();
      context.fill();
      // A gap to the layer below: colours side by side are told apart.
      if (place > 0) {
        context.beginPath();
        for (let x = 0; x < columns; x++) {
          if (above[x] <= below[x]) continue;
          context.moveTo(plot.left + x, scale.y(below[x]));
          context.lineTo(plot.left + x + 1, scale.y(below[x]));
        }
        context.strokeStyle = gap;
        context.lineWidth = 0.7;
        context.stroke();
      }
      below = above;
    });
  }

  _drawLines(context, plot, scale) {
    const styles = [
      [this.process, Theme.colour("faint"), [2, 3], 1.2],
      [this.reserved, Theme.colour("text"), [5, 3], 1.2],
      [this.total, Theme.colour("text"), [], 1.1],
    ];
    for (const [line, colour, dashes, width] of styles) {
      const ranges = line && this.envelopes.get(line);
      if (!ranges) continue;
      // What it went up and down by within a pixel is a shade; the line is the most.
      context.fillStyle = colour;
      context.globalAlpha = 0.2;
      ranges.forEach((range, x) => {
        if (!range || range.most === range.least) return;
        const top = scale.y(range.most);
        context.fillRect(plot.left + x, top, 1, scale.y(range.least) - top);
      });
      context.globalAlpha = 1;
      context.beginPath();
      let drawn = false;
      ranges.forEach((range, x) => {
        if (!range) return;
        const y = scale.y(range.most);
        if (!drawn) context.moveTo(plot.left + x, y);
        else context.lineTo(plot.left + x, y);
        context.lineTo(plot.left + x + 1, y);
        drawn = true;
      });
      context.setLineDash(dashes);
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.stroke();
    }
    context.setLineDash([]);
  }

  _drawMarks(context, plot, scale) {
    const { scope } = this;
    if (this.range) {
      const [a, b] = [scope.cuts.ns[this.range.from], scope.cuts.ns[this.range.to]].map((ns) => this._x(ns, plot));
      context.fillStyle = Theme.colour("select");
      context.fillRect(a, plot.top, Math.max(b - a, 1), plot.bottom - plot.top);
      verticalLine(context, a, plot.top, plot.bottom, Theme.colour("accent"), 1);
      verticalLine(context, b, plot.top, plot.bottom, Theme.colour("accent"), 1);
    }
    const chosen = this._x(scope.cuts.ns[this.cut], plot);
    verticalLine(context, chosen, plot.top, plot.bottom, Theme.colour("accent"), 2);
    const taken = []; // where words stand already
    for (const instant of scope.instants) {
      if (instant.kind !== "oom" || instant.ns < this.view.start || instant.ns > this.view.end) continue;
      const x = this._x(instant.ns, plot);
      verticalLine(context, x, plot.top, plot.bottom, Theme.colour("bad"), 1.5);
      flag(context, x, plot.top + 9, "OOM", Theme.colour("bad"), plot, taken);
    }
    const peak = this._x(scope.headline.peak_ns, plot);
    const y = scale.y(scope.headline.peak_bytes);
    context.beginPath();
    context.moveTo(peak, y + 1);
    context.lineTo(peak - 5, y - 8);
    context.lineTo(peak + 5, y - 8);
    context.closePath();
    context.fillStyle = Theme.colour("text");
    context.fill();
    const words = `peak ${formatBytes(scope.headline.peak_bytes)}`;
    const inView = scope.headline.peak_ns >= this.view.start && scope.headline.peak_ns <= this.view.end;
    if (inView) flag(context, peak + 5, Math.max(y - 3, plot.top + 9), words, Theme.colour("text"), plot, taken);
    if (this.pointer !== null && this.pointer !== undefined) {
      verticalLine(context, this.pointer, plot.top, plot.bottom, Theme.colour("faint"), 1);
    }
  }

  _drawOverview() {
    const { context, width, height } = fitCanvas(this.overview);
    const whole = { start: this.scope.begin, end: this.scope.end };
    const plotWidth = width - MARGIN.left - MARGIN.right;
    const ranges = envelope(this.total, whole, plotWidth);
    const most = this.scope.headline.peak_bytes || 1;
    context.fillStyle = Theme.colour("rest");
    ranges.forEach((range, x) => {
      const tall = range ? (range.most / most) * (height - 4) : 0;
      context.fillRect(MARGIN.left + x, height - tall, 1, tall);
    });
    const x = (ns) => MARGIN.left + ((ns - whole.start) / (whole.end - whole.start)) * plotWidth;
    const [a, b] = [x(this.view.start), x(this.view.end)];
    context.fillStyle = Theme.colour("select");
    context.fillRect(a, 0, Math.max(b - a, 2), height);
    context.strokeStyle = Theme.colour("accent");
    context.strokeRect(a + 0.5, 0.5, Math.max(b - a - 1, 2), height - 1);
    context.fillStyle = Theme.colour("faint");
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    context.textAlign = "right";
    context.fillText("all", MARGIN.left - 8, height - 8);
  }

  _legend() {
    if (!this.stack) return;
    const items = this.stack.names.map((name, place) => {
      const swatch = element("span", { class: "swatch" });
      swatch.style.background = this.stack.colours[place]();
      return element("span", { class: "legend-item", title: name }, swatch, shortened(this._named(name), 34));
    });
    const lines = [["allocated", "solid", null]];
    if (this.reserved) lines.push(["reserved", "dashed", "reserved"]);
    if (this.process) lines.push([this.scope.device === "cpu" ? "process (RSS)" : "process (NVML)", "dotted", "process"]);
    const toggles = lines.map(([label, style, key]) =>
      element("button", {
        type: "button",
        class: `line-toggle ${style}`,
        "aria-pressed": key ? String(this.shows[key]) : null,
        disabled: !key,
        text: label,
        onclick: () => {
          this.shows[key] = !this.shows[key];
          this._legend();
          this.redraw();
        },
      }),
    );
    fill(this.legend, ...items, element("span", { class: "spring" }), ...toggles);
  }
}

function largest(values) {
  let most = 0;
  for (const value of values) if (value > most) most = value;
  return most;
}

function rangeText({ least, most }) {
  return least === most ? formatBytes(most) : `${formatBytes(least)} to ${formatBytes(most)}`;
}
