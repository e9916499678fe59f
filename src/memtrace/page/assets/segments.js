"use strict";
// What the caching allocator had of the device at an instant: segments, the blocks in them, and
// what is free between them. And who keeps it (memtrace fragmentation).

const SEGMENT = 18;
const SEGMENT_LEFT = 150;

class SegmentsView {
  constructor(container) {
    this.note = element("p", { class: "note" });
    this.canvas = element("canvas", { role: "img" });
    this.canvas.addEventListener("pointermove", (event) => this._hover(event));
    this.canvas.addEventListener("pointerleave", () => this.tip.hide());
    this.scroll = element("div", { class: "segments-scroll" }, this.canvas);
    this.told = element("div", { class: "segments-told" });
    container.append(this.note, element("div", { class: "segments-box" }, this.scroll, this.told));
    this.tip = new Tooltip();
    this.redraw = inNextFrame(() => this.draw());
    new ResizeObserver(this.redraw).observe(this.scroll);
    Theme.listeners.push(this.redraw);
  }

  setScope(scope) {
    this.scope = scope;
  }

  setCut(cut) {
    if (!this.scope.segments) return;
    this.cut = cut;
    this.layout = layoutOf(this.scope, this.scope.cuts.seq[cut]);
    const { reserved, used, waiting, segments, missing } = this.layout;
    const unused = reserved - used - waiting;
    const words = [
      `${formatBytes(reserved)} reserved in ${formatNumberOf(segments.length, "segment")}: ${formatBytes(used)} in blocks, ${formatBytes(unused)} (${formatShare(unused, reserved)}) not used`,
    ];
    if (waiting) words.push(`${formatBytes(waiting)} freed, a stream still uses it`);
    if (missing) words.push("small blocks are not told one by one at this instant: what looks free may be theirs; go to the peak, or to an OOM");
    this.note.textContent = `${words.join("; ")}.`;
    const seq = this.scope.cuts.seq[cut];
    const { fragmentation } = this.scope.told;
    const found = fragmentation.find((told) => told.seq === seq) || fragmentation[0];
    fill(this.told, found ? blocksElement(found.told) : null);
    this.redraw();
  }

  draw() {
    if (!this.layout || !this.scroll.clientWidth) return;
    const { segments } = this.layout;
    this.canvas.style.height = `${Math.max(segments.length * SEGMENT + 4, 40)}px`;
    const { context, width } = fitCanvas(this.canvas);
    const wide = width - SEGMENT_LEFT - 10;
    const most = Math.max(...segments.map(({ bytes }) => bytes), 1);
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    segments.forEach((segment, place) => {
      const y = place * SEGMENT + 2;
      const scale = wide / most;
      context.fillStyle = Theme.colour("faint");
      context.textAlign = "right";
      context.fillText(`${formatBytes(segment.free)} free`, SEGMENT_LEFT - 68, y + 11);
      context.fillStyle = Theme.colour("text");
      context.fillText(formatBytes(segment.bytes), SEGMENT_LEFT - 6, y + 11);
      hatched(context, SEGMENT_LEFT, y, segment.bytes * scale, SEGMENT - 4);
      for (const block of segment.blocks) {
        context.fillStyle = block.waiting ? Theme.colour("rest") : Theme.category(block.category);
        const at = SEGMENT_LEFT + (block.address - segment.address) * scale;
        const size = Math.max(block.bytes * scale, 0.75);
        context.fillRect(at, y, size > 3 ? size - 0.5 : size, SEGMENT - 4);
      }
      context.strokeStyle = Theme.colour("line");
      context.strokeRect(SEGMENT_LEFT + 0.5, y + 0.5, Math.max(segment.bytes * scale - 1, 1), SEGMENT - 5);
    });
  }

  _hover(event) {
    const box = this.canvas.getBoundingClientRect();
    const segment = this.layout && this.layout.segments[Math.floor((event.clientY - box.top) / SEGMENT)];
    if (!segment) return this.tip.hide();
    const most = Math.max(...this.layout.segments.map(({ bytes }) => bytes), 1);
    const at = segment.address + ((event.clientX - box.left - SEGMENT_LEFT) / (box.width - SEGMENT_LEFT - 10)) * most;
    const block = segment.blocks.find(({ address, bytes }) => address <= at && at < address + bytes);
    const kinds = [segment.expandable && "expandable", segment.small && "for small blocks", segment.pool !== "default" && segment.pool].filter(Boolean);
    return this.tip.show(
      event.clientX,
      event.clientY,
      element("strong", { text: block ? formatExactBytes(block.bytes) : "free" }),
      block && element("div", { text: ownerOf(this.scope, block.row) }),
      element("div", {
        class: "faint",
        text: `segment at 0x${segment.address.toString(16)}: ${formatBytes(segment.bytes)}, ${formatBytes(segment.free)} free${kinds.length ? ` (${kinds.join(", ")})` : ""}`,
      }),
    );
  }
}

/** Segments and their blocks after an event, those with most free memory first. */
function layoutOf(scope, seq) {
  const { segments: all, rows, words } = scope;
  const segments = [];
  for (let place = 0; place < all.born.length; place++) {
    if (all.born[place] > seq || (all.lived[place] && all.born[place] + all.lived[place] <= seq)) continue;
    segments.push({
      address: all.address[place],
      bytes: all.bytes[place],
      free: all.bytes[place],
      pool: all.pool[place] ? words[all.pool[place] - 1] : "default",
      small: Boolean(all.flags[place] & 1),
      expandable: Boolean(all.flags[place] & 2),
      blocks: [],
    });
  }
  segments.sort((a, b) => a.address - b.address);
  const starts = segments.map(({ address }) => address);
  let [used, waiting, number] = [0, 0, 0];
  const end = upperBound(rows.born, seq);
  for (let row = 0; row < end; row++) {
    const isWaiting = scope.freed[row] <= seq;
    if (isWaiting && scope.freed[row] + rows.waits[row] <= seq) continue;
    number += isWaiting ? 0 : 1;
    const segment = segments[upperBound(starts, rows.address[row]) - 1];
    if (isWaiting) waiting += rows.bytes[row];
    else used += rows.bytes[row];
    if (!segment || rows.address[row] >= segment.address + segment.bytes) continue;
    segment.free -= rows.bytes[row];
    const category = scope.word(rows.site[row], "category");
    segment.blocks.push({ row, address: rows.address[row], bytes: rows.bytes[row], waiting: isWaiting, category });
  }
  const reserved = segments.reduce((sum, { bytes }) => sum + bytes, 0);
  const missing = number < sumOf(scope.liveSites(scope.cutOf(seq)).blocks);
  segments.sort((a, b) => b.free - a.free || b.bytes - a.bytes);
  return { segments, reserved, used, waiting, missing };
}

function hatched(context, x, y, width, height) {
  context.fillStyle = Theme.colour("raised");
  context.fillRect(x, y, width, height);
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.strokeStyle = Theme.colour("line");
  context.lineWidth = 1;
  context.beginPath();
  for (let at = x - height; at < x + width; at += 6) {
    context.moveTo(at, y + height);
    context.lineTo(at + height, y);
  }
  context.stroke();
  context.restore();
}
