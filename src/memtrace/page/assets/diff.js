"use strict";
// The page of `memtrace diff`.

const MOST_ROWS = 1000;
const MOVED = {
  source: "lines that moved within their function",
  module: "modules with another wrapper",
  label: "modules with another wrapper",
};

/** A change with its sign: "+1.50 MiB", "-512 B". */
function formatChange(bytes) {
  const whole = Math.round(bytes);
  return whole > 0 ? `+${formatBytes(whole)}` : formatBytes(whole);
}

/** A change in percent of what was; "new", "gone", or nothing where it stayed. */
function formatGrowth(a, b) {
  if (a === b) return "";
  if (!a || !b) return a ? "gone" : "new";
  if (b / a >= 11) return `${(b / a).toFixed(1)}x`;
  return `${b > a ? "+" : ""}${((100 * (b - a)) / a).toFixed(1)} %`;
}

function changeClass(delta) {
  return delta > 0 ? "grown" : delta < 0 ? "shrunk" : "";
}

/** A cell with a bar to the right or left of its middle; `most`: the widest. */
function barCell(delta, most) {
  const bar = delta ? element("i", { class: changeClass(delta) }) : null;
  if (bar) bar.style.width = `${Math.max(2, (100 * Math.abs(delta)) / most)}%`;
  return element("td", { class: "bars" }, element("div", {}, bar));
}

function amountCells({ a_bytes: a, b_bytes: b, delta_bytes: delta }, most) {
  const number = (text, kind, exact) =>
    element("td", { class: `number ${kind}`, text, title: `${formatCount(exact)} bytes` });
  return [
    number(formatBytes(Math.round(a)), "", a),
    number(formatBytes(Math.round(b)), "", b),
    number(formatChange(delta), changeClass(delta), delta),
    element("td", { class: `number ${changeClass(delta)}`, text: formatGrowth(a, b) }),
    barCell(delta, most),
  ];
}

/** What is compared, in few words: `title` has more. */
function nameOf({ what, name }) {
  return { peak: "peak", stage_end: `end of ${name}`, step: `each ${name} step` }[what];
}

const SORTS = [
  { title: "", of: (row) => row.key.toLowerCase() },
  { title: "A", of: (row) => row.a_bytes },
  { title: "B", of: (row) => row.b_bytes },
  { title: "Change", of: (row) => Math.abs(row.delta_bytes) },
];

class DiffView {
  constructor(page) {
    this.page = page;
    this.device = 0;
    this.comparison = 0;
    this.by = page.by[0];
    this.order = 3;
    this.descending = true;
    byId("theme").addEventListener("click", Theme.toggle);
    byId("search").addEventListener("input", () => this.showOwners());
    byId("unchanged").addEventListener("change", () => this.showOwners());
    this.showVerdict();
    this.showNotes();
    this.showDevice(0);
  }

  get found() {
    return this.page.devices[this.device];
  }

  showVerdict() {
    const { verdict } = this.page;
    if (!verdict) return;
    const line = byId("verdict");
    line.hidden = false;
    line.className = verdict.failed ? "bad" : "good";
    line.textContent = `${verdict.failed ? "✗" : "✓"} ${verdict.text}`;
  }

  /** Devices that only one of the traces has. */
  showNotes() {
    const told = (letter) => ({ device, peak_bytes: peak, recorded }) => {
      const why = recorded ? "" : "; the other did not record it";
      return `${device}: only in ${letter}, with a peak of ${formatExactBytes(peak)}${why}`;
    };
    const lines = [
      ...this.page.devices_only_a.map(told("A")),
      ...this.page.devices_only_b.map(told("B")),
    ];
    if (!this.page.devices.length) lines.push("The traces have no device in common.");
    fill(byId("notes"), ...lines.map((text) => element("p", { text })));
  }

  showDevice(place) {
    this.device = place;
    this.comparison = 0;
    const { a, b, devices, of } = this.page;
    byId("title").textContent = `Traces compared: ${a.split("/").pop()} and ${b.split("/").pop()}`;
    if (!devices.length) return;
    const [peak] = this.found.comparisons;
    const growth = formatGrowth(peak.a_bytes, peak.b_bytes);
    byId("title").textContent =
      `${this.found.device}: peak of ${of} memory ${formatBytes(peak.a_bytes)} → ` +
      formatBytes(peak.b_bytes) +
      (peak.delta_bytes ? `, ${formatChange(peak.delta_bytes)} (${growth})` : ", the same");
    const { a: left, b: right, only_a: onlyA, only_b: onlyB } = this.found;
    fill(
      byId("sides"),
      ...this.side("A", a, left, peak.a_time_ns, onlyA),
      ...this.side("B", b, right, peak.b_time_ns, onlyB),
    );
    byId("devices").hidden = devices.length < 2;
    fill(
      byId("devices"),
      ...devices.map((each, at) =>
        element("button", {
          text: each.device,
          "aria-pressed": String(at === place),
          onclick: () => this.showDevice(at),
        }),
      ),
    );
    this.showComparisons();
  }

  side(letter, path, { pid, rank, lost_records: lost }, peakNs, only) {
    const process = `process ${pid}${rank === null ? "" : ` (rank ${rank})`}`;
    const bounds = lost ? `; ${formatNumberOf(lost, "record")} lost: figures are bounds` : "";
    const alone = only.length ? `; only here: ${only.join(", ")}` : "";
    const text = `${path}, ${process}, peak at ${formatTime(peakNs)}${bounds}${alone}`;
    return [element("dt", { text: letter }), element("dd", { text })];
  }

  showComparisons() {
    const table = byId("comparisons");
    const { comparisons, stages_left_out: left } = this.found;
    const most = Math.max(...comparisons.map((each) => Math.abs(each.delta_bytes)));
    const titles = ["", "A", "B", "Change", "", ""];
    const heads = titles.map((text, at) => element("th", { text, class: at ? "number" : "" }));
    fill(table.tHead, element("tr", {}, ...heads));
    const rows = comparisons.map((each, at) =>
      element(
        "tr",
        {
          tabindex: 0,
          "aria-selected": String(at === this.comparison),
          class: each.delta_bytes ? "" : "same",
          onclick: () => this.choose(at),
          onkeydown: (event) => this.onKey(event, at),
        },
        element("td", { class: "name", text: nameOf(each), title: each.title }),
        ...amountCells(each, most),
      ),
    );
    if (left) {
      const text = `${formatNumberOf(left, "more stage")} in both: not compared`;
      rows.push(element("tr", {}, element("td", { class: "faint", colspan: 6, text })));
    }
    fill(table.tBodies[0], ...rows);
    this.showGroupings();
    this.showOwners();
  }

  choose(place) {
    this.comparison = place;
    const rows = [...byId("comparisons").tBodies[0].rows];
    rows.forEach((row, at) => row.setAttribute("aria-selected", String(at === place)));
    this.showOwners();
  }

  onKey(event, at) {
    const move = { ArrowDown: 1, ArrowUp: -1, Enter: 0, " ": 0 }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    const place = at + move;
    if (place < 0 || place >= this.found.comparisons.length) return;
    this.choose(place);
    byId("comparisons").tBodies[0].rows[place].focus();
  }

  showGroupings() {
    fill(
      byId("groupings"),
      ...this.page.by.map((by) =>
        element("button", {
          text: by.replaceAll("_", " "),
          "aria-pressed": String(by === this.by),
          onclick: () => {
            this.by = by;
            this.showGroupings();
            this.showOwners();
          },
        }),
      ),
    );
  }

  sortBy(place) {
    this.descending = place === this.order ? !this.descending : place > 0;
    this.order = place;
    this.showOwners();
  }

  showOwners() {
    const chosen = this.found.comparisons[this.comparison];
    const all = chosen.changes[this.by];
    const wanted = byId("search").value.trim().toLowerCase();
    const isWanted = (row) =>
      (byId("unchanged").checked || row.status !== "same") &&
      (row.key.toLowerCase().includes(wanted) || (row.was || "").toLowerCase().includes(wanted));
    const rows = this.sorted(all.filter(isWanted));
    const most = Math.max(1, ...all.map((row) => Math.abs(row.delta_bytes)));
    const title = chosen.title[0].toUpperCase() + chosen.title.slice(1);
    byId("heading").textContent = `${title}, by ${this.by.replaceAll("_", " ")}`;
    const head = SORTS.map(({ title }, at) =>
      element(
        "th",
        {
          class: at ? "number" : "",
          "aria-sort": at !== this.order ? "none" : this.descending ? "descending" : "ascending",
        },
        element("button", { text: title || "Owner", onclick: () => this.sortBy(at) }),
      ),
    );
    const table = byId("owners");
    fill(table.tHead, element("tr", {}, ...head, element("th"), element("th")));
    const lines = rows.slice(0, MOST_ROWS).map((row) => this.ownerRow(row, most));
    if (!lines.length) {
      const nothing = all.length ? "Nothing changed." : "Nothing in either.";
      const text = wanted ? "No owner of that name changed." : nothing;
      lines.push(element("tr", {}, element("td", { class: "faint", colspan: 6, text })));
    }
    fill(table.tBodies[0], ...lines);
    const moved = all.filter((row) => row.was !== null).length;
    const notes = [];
    if (rows.length > MOST_ROWS) {
      notes.push(`The first ${formatCount(MOST_ROWS)} of ${formatCount(rows.length)}.`);
    }
    if (moved) notes.push(`${formatCount(moved)} matched: ${MOVED[this.by]}.`);
    byId("note").textContent = notes.join(" ");
  }

  sorted(rows) {
    const { of } = SORTS[this.order];
    const sign = this.descending ? -1 : 1;
    return rows
      .map((row, at) => ({ row, at, key: of(row) }))
      .sort((x, y) => (x.key < y.key ? -sign : x.key > y.key ? sign : x.at - y.at))
      .map(({ row }) => row);
  }

  ownerRow(row, most) {
    const isNamed = row.kind === "group";
    const name = element(
      "td",
      { class: isNamed ? "name code" : "name faint", text: isNamed ? row.key : `(${row.key})` },
    );
    if (row.was !== null) {
      name.append(" ", element("span", { class: "faint", text: `was ${row.was}` }));
    }
    const faint = row.status === "same" ? "same" : "";
    return element("tr", { class: faint }, name, ...amountCells(row, most));
  }
}

window.memtraceDiff = new DiffView(readDocument());
