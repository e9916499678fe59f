"use strict";
// A range of time: what was allocated in it, what was freed, what of the allocated was still there.

const CHANGES = [
  ["allocated", "Allocated", "in the range"],
  ["freed", "Freed", "whenever it was allocated"],
  ["kept", "Kept", "allocated in the range, and live at its end"],
];

class RangeView {
  constructor(container) {
    this.by = "source";
    this.cards = element("div", { class: "cards" });
    this.empty = element("p", {
      class: "note",
      text: "No range is selected. Drag over the timeline with Shift held (or press S first) to see what was allocated, freed and kept there; or take what is in view.",
    });
    this.place = element("div", { class: "range-table" });
    container.append(this.empty, this.cards, this.place);
  }

  setScope(scope) {
    this.scope = scope;
    fill(this.place);
    this.table = new DataTable(this.place, { label: "Changes in the range", columns: this._columns(), order: 5 });
    this.setRange(null, null);
  }

  setBy(column) {
    this.by = column;
    this._show();
  }

  setSearch(text) {
    this.wanted = text.trim().toLowerCase();
    this.table.setFilter(this.wanted ? ({ name }) => name.toLowerCase().includes(this.wanted) : null);
  }

  setRange(from, to) {
    this.range = from === null ? null : { from, to };
    this._show();
  }

  _show() {
    this.empty.hidden = Boolean(this.range);
    this.cards.hidden = this.place.hidden = !this.range;
    if (!this.range) return;
    const { scope } = this;
    const { from, to } = this.range;
    const sums = scope.changes(from, to);
    const span = element(
      "div",
      { class: "card" },
      element("span", { class: "faint", text: "Range" }),
      element("strong", { text: formatTime(scope.cuts.ns[to] - scope.cuts.ns[from]) }),
      element("span", { class: "faint", text: `${formatTime(scope.cuts.ns[from])} to ${formatTime(scope.cuts.ns[to])}` }),
    );
    const held = scope.cuts.allocated[to] - scope.cuts.allocated[from];
    const change = element(
      "div",
      { class: "card" },
      element("span", { class: "faint", text: "Change" }),
      element("strong", { text: `${held > 0 ? "+" : ""}${formatBytes(held)}` }),
      element("span", { class: "faint", text: `${formatBytes(scope.cuts.allocated[from])} to ${formatBytes(scope.cuts.allocated[to])}` }),
    );
    const cards = CHANGES.map(([name, title, hint]) => {
      const [bytes, blocks] = [sumOf(sums[name].bytes), sumOf(sums[name].blocks)];
      return element(
        "div",
        { class: "card", title: hint, "data-change": name, "data-bytes": bytes, "data-blocks": blocks },
        element("span", { class: "faint", text: title }),
        element("strong", { text: formatBytes(bytes) }),
        element("span", { class: "faint", text: formatNumberOf(blocks, "block") }),
      );
    });
    fill(this.cards, span, ...cards, change);
    const rows = new Map();
    for (const [name] of CHANGES) {
      for (const group of scope.grouped(sums[name], this.by)) {
        if (!rows.has(group.name)) rows.set(group.name, { name: group.name, of: {} });
        rows.get(group.name).of[name] = group;
      }
    }
    this.table.setRows([...rows.values()]);
  }

  _columns() {
    const part = (change, what) => (row) => (row.of[change] ? row.of[change][what] : 0);
    const shown = (change, what, format) => (row) => (row.of[change] ? format(row.of[change][what]) : "");
    const columns = [{ title: "Owner", width: "minmax(160px, 2fr)", text: ({ name }) => name, sort: ({ name }) => name }];
    for (const [name, title] of CHANGES) {
      columns.push(
        { title, right: true, width: "92px", text: shown(name, "bytes", formatBytes), sort: part(name, "bytes") },
        { title: "Blocks", right: true, width: "76px", text: shown(name, "blocks", formatCount), sort: part(name, "blocks") },
      );
    }
    return columns;
  }
}
