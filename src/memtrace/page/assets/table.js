"use strict";
// A table of any number of rows: only those in sight are elements.

const ROW_HEIGHT = 24;

/**
 * columns: [{title, width (a CSS length of grid-template-columns), right, text(row), sort(row),
 * colour(row), faint(row)}]: `sort` gives a number or a string; `colour` that of a swatch before the
 * text; `faint`: whether the text stands back.
 * onSelect(row): a row was clicked on, or Enter pressed. `order`: the column first sorted by; those
 * with numbers begin with the largest.
 */
class DataTable {
  constructor(container, { columns, onSelect, order = 0, label }) {
    this.columns = columns;
    this.onSelect = onSelect || (() => {});
    this.order = order;
    this.descending = true;
    this.all = [];
    this.shown = [];
    this.active = -1;
    this.filter = null;
    this.layout = columns.map((column) => column.width || "minmax(60px, 1fr)").join(" ");
    this.head = element("div", { class: "table-head", role: "row" });
    this.head.style.gridTemplateColumns = this.layout;
    this.buttons = columns.map((column, place) =>
      element("button", {
        class: column.right ? "number" : "",
        type: "button",
        text: column.title,
        onclick: () => this.sortBy(place),
      }),
    );
    this.head.append(
      ...this.buttons.map((button) => element("div", { role: "columnheader" }, button)),
    );
    this.space = element("div", { class: "table-space" });
    this.view = element(
      "div",
      {
        class: "table-view",
        tabindex: 0,
        onscroll: () => this._draw(),
        onkeydown: (event) => this._key(event),
      },
      this.space,
    );
    this.box = element("div", { class: "table", role: "grid", "aria-label": label }, this.head, this.view);
    container.append(this.box);
    this.pool = [];
    this._draw = inNextFrame(() => this.draw());
    new ResizeObserver(this._draw).observe(this.view);
    Theme.listeners.push(this._draw);
    this._mark();
  }

  /** Rows: anything that the columns' functions take. */
  setRows(rows) {
    this.all = rows;
    this.active = -1;
    this._arrange();
  }

  /** Shows only the rows that `filter` is true for; all when it is null. */
  setFilter(filter) {
    this.filter = filter;
    this._arrange();
  }

  sortBy(place) {
    const numbers = this.all.length && typeof this.columns[place].sort(this.all[0]) === "number";
    this.descending = place === this.order ? !this.descending : Boolean(numbers);
    this.order = place;
    this._mark();
    this._arrange();
  }

  _mark() {
    this.buttons.forEach((button, place) => {
      const sorted = place === this.order ? (this.descending ? "descending" : "ascending") : "none";
      button.parentElement.setAttribute("aria-sort", sorted);
    });
  }

  _arrange() {
    const rows = this.filter ? this.all.filter(this.filter) : this.all.slice();
    const { sort } = this.columns[this.order];
    const keys = rows.map(sort);
    const places = Array.from(rows.keys());
    const sign = this.descending ? -1 : 1;
    if (typeof keys[0] === "number") places.sort((a, b) => sign * (keys[a] - keys[b]) || a - b);
    else places.sort((a, b) => (keys[a] < keys[b] ? -sign : keys[a] > keys[b] ? sign : a - b));
    this.shown = places.map((place) => rows[place]);
    this.space.style.height = `${this.shown.length * ROW_HEIGHT}px`;
    this.view.scrollTop = 0;
    this._draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.view.scrollTop / ROW_HEIGHT) - 2);
    const number = Math.ceil(this.view.clientHeight / ROW_HEIGHT) + 4;
    const last = Math.min(this.shown.length, first + number);
    while (this.pool.length < last - first) this.pool.push(this._line());
    this.pool.forEach((line, place) => {
      const at = first + place;
      line.box.hidden = at >= last;
      if (at < last) this._fill(line, at);
    });
  }

  _line() {
    const cells = this.columns.map((column) => {
      const swatch = column.colour ? element("span", { class: "swatch" }) : null;
      const text = element("span");
      const cell = element("div", { class: column.right ? "cell number" : "cell", role: "gridcell" }, swatch, text);
      return { cell, text, swatch };
    });
    const box = element("div", { class: "table-row", role: "row" }, ...cells.map(({ cell }) => cell));
    box.style.gridTemplateColumns = this.layout;
    const line = { box, cells, at: -1 };
    box.addEventListener("click", () => this._choose(line.at));
    this.space.append(box);
    return line;
  }

  _fill(line, at) {
    const row = this.shown[at];
    line.at = at;
    line.box.style.transform = `translateY(${at * ROW_HEIGHT}px)`;
    line.box.setAttribute("aria-selected", String(at === this.active));
    line.box.setAttribute("aria-rowindex", String(at + 1));
    this.columns.forEach((column, place) => {
      const { text, swatch, cell } = line.cells[place];
      const words = column.text(row);
      if (text.textContent !== words) {
        text.textContent = words;
        cell.title = words.length > 12 ? words : "";
      }
      if (column.faint) cell.classList.toggle("faint", column.faint(row));
      if (swatch) swatch.style.background = column.colour(row);
    });
  }

  _choose(at) {
    if (at < 0 || at >= this.shown.length) return;
    this.active = at;
    this._draw();
    this.onSelect(this.shown[at]);
  }

  _key(event) {
    const page = Math.max(1, Math.floor(this.view.clientHeight / ROW_HEIGHT) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key === "Enter") this._choose(Math.max(this.active, 0));
    else if (event.key in moves) {
      this.active = Math.min(Math.max(this.active + moves[event.key], 0), this.shown.length - 1);
      const top = this.active * ROW_HEIGHT;
      if (top < this.view.scrollTop) this.view.scrollTop = top;
      const below = top + ROW_HEIGHT - this.view.clientHeight;
      if (below > this.view.scrollTop) this.view.scrollTop = below;
      this._draw();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
