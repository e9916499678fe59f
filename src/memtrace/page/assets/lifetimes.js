"use strict";
// The largest allocations as bars over their lives, on the same scale of time as the timeline.

const BAR = 20;
const MOST_BARS = 200;

class LifetimesView {
  /** viewOf(): the timeline's view. */
  constructor(container, { viewOf }) {
    this.viewOf = viewOf;
    this.note = element("p", { class: "note faint" });
    this.canvas = element("canvas", { tabindex: 0, role: "application" });
    this.canvas.addEventListener("pointermove", (event) => this._hover(event));
    this.canvas.addEventListener("pointerleave", () => this.tip.hide());
    this.canvas.addEventListener("click", (event) => this._tell(this._placeAt(event)));
    this.canvas.addEventListener("keydown", (event) => this._key(event));
    this.detail = element("aside", { class: "detail", hidden: true });
    this.scroll = element("div", { class: "lifetimes-scroll" }, this.canvas);
    container.append(this.note, element("div", { class: "live-box" }, this.scroll, this.detail));
    this.tip = new Tooltip();
    this.redraw = inNextFrame(() => this.draw());
    new ResizeObserver(this.redraw).observe(this.scroll);
    Theme.listeners.push(this.redraw);
    this.search = "";
  }

  setScope(scope) {
    this.scope = scope;
    this.detail.hidden = true;
    this.active = -1;
    const { bytes, born } = scope.rows;
    this.order = Array.from(born.keys()).sort((a, b) => bytes[b] - bytes[a] || born[a] - born[b]);
    this.redraw();
  }

  setSearch(text) {
    this.search = text;
    this.redraw();
  }

  /** The largest allocations that lived in the view, the largest first. */
  _choose(view) {
    const { rows } = this.scope;
    const matches = matcher(this.scope, this.search);
    const found = [];
    this.total = 0;
    for (const row of this.order) {
      if (rows.born_ns[row] > view.end || endOf(this.scope, row) < view.start) continue;
      if (matches && !matches.row(row)) continue;
      this.total += 1;
      if (found.length < MOST_BARS) found.push(row);
    }
    return found;
  }

  draw() {
    if (!this.scope || !this.scroll.clientWidth) return;
    const view = this.viewOf();
    this.rows = this._choose(view);
    this.canvas.style.height = `${Math.max(this.rows.length * BAR + 4, 40)}px`;
    const shown = `The ${formatCount(this.rows.length)} largest of ${formatNumberOf(this.total, "allocation")} in view`;
    const large = this.scope.told.rows.large_bytes;
    this.note.textContent = `${shown}${large ? ` that are told one by one (all of ${formatBytes(large)} and more)` : ""}; the scale of time is the timeline's.`;
    this.canvas.setAttribute("aria-label", `${this.note.textContent} Arrows go from bar to bar.`);
    const { context, width } = fitCanvas(this.canvas);
    const wide = width - MARGIN.left - MARGIN.right;
    const x = (ns) => MARGIN.left + ((Math.min(Math.max(ns, view.start), view.end) - view.start) / (view.end - view.start)) * wide;
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    this.rows.forEach((row, place) => {
      const { scope } = this;
      const y = place * BAR + 2;
      const [a, b] = [x(scope.rows.born_ns[row]), x(endOf(scope, row))];
      if (place === this.active) {
        context.fillStyle = Theme.colour("select");
        context.fillRect(0, y - 2, width, BAR);
      }
      context.fillStyle = Theme.category(scope.word(scope.rows.site[row], "category"));
      context.fillRect(a, y, Math.max(b - a, 2), BAR - 4);
      context.fillStyle = Theme.colour("faint");
      context.textAlign = "right";
      context.fillText(formatBytes(scope.rows.bytes[row]), MARGIN.left - 6, y + 12);
      this._label(context, ownerOf(scope, row), a, Math.max(b, a + 2), y, MARGIN.left + wide);
    });
  }

  /** After the bar or before it where there is room, else on it, on a ground that it can be read on. */
  _label(context, text, a, b, y, right) {
    context.textAlign = "left";
    const wide = context.measureText(text).width;
    if (b + wide + 8 < right) {
      context.fillStyle = Theme.colour("text");
      context.fillText(text, b + 6, y + 12);
      return;
    }
    if (a - wide - 8 > MARGIN.left) {
      context.textAlign = "right";
      context.fillStyle = Theme.colour("text");
      context.fillText(text, a - 6, y + 12);
      return;
    }
    const fitted = fitText(context, text, b - a - 16);
    if (!fitted) return;
    context.globalAlpha = 0.82;
    context.fillStyle = Theme.colour("panel");
    context.fillRect(a + 4, y + 1.5, context.measureText(fitted).width + 8, BAR - 7);
    context.globalAlpha = 1;
    context.fillStyle = Theme.colour("text");
    context.fillText(fitted, a + 8, y + 12);
  }

  _placeAt(event) {
    return Math.floor((event.clientY - this.canvas.getBoundingClientRect().top) / BAR);
  }

  _hover(event) {
    const row = this.rows && this.rows[this._placeAt(event)];
    if (row === undefined) return this.tip.hide();
    const { scope } = this;
    return this.tip.show(
      event.clientX,
      event.clientY,
      element("strong", { text: `${formatExactBytes(scope.rows.bytes[row])}` }),
      element("div", { text: ownerOf(scope, row) }),
      element("div", { class: "faint", text: `born ${formatTime(scope.rows.born_ns[row])}, lived ${lifeText(scope, row)}` }),
    );
  }

  /** Marks a bar and tells all of its allocation. */
  _tell(place) {
    const row = this.rows && this.rows[place];
    if (row === undefined) return;
    this.active = place;
    fill(this.detail, ...allocationDetails(this.scope, row, () => (this.detail.hidden = true)));
    this.detail.hidden = false;
    this.redraw();
  }

  _key(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const place = Math.min(Math.max(this.active + by, 0), this.rows.length - 1);
    this._tell(place);
    const [top, tall] = [place * BAR, this.scroll.clientHeight];
    if (top < this.scroll.scrollTop || top + BAR > this.scroll.scrollTop + tall) this.scroll.scrollTop = top - tall / 2;
  }
}

function endOf(scope, row) {
  return scope.rows.lived[row] ? scope.rows.born_ns[row] + scope.rows.lived_ns[row] : scope.end;
}

/** What an allocation is called: its label, or where it came from. */
function ownerOf(scope, row) {
  const { rows, words } = scope;
  const site = rows.site[row];
  const [, module, operator, source] = scope.sites[site];
  const parts = [
    rows.label[row] && words[rows.label[row] - 1],
    module && words[module - 1],
    operator && words[operator - 1],
    source && words[source - 1],
  ].filter(Boolean);
  return parts.length ? [...new Set(parts)].join(" · ") : scope.word(site, "category").replaceAll("_", " ");
}
