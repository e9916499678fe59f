"use strict";
// A tree of bytes as an icicle: the root at the top, below each node its children, as wide as they
// have bytes. Only what is a pixel wide is ever looked at: a tree may have any number of nodes.
//
//   const icicle = Icicle(container, root, { onSelect, onZoom });
//
// container: an element with a height. A node: {name, bytes, blocks, children, kind}, without
// `children` where it has none; its bytes include theirs. kind: module, operator, source, code,
// library, value, none (nothing is known); it gives the colour; code when missing.
// onSelect({name, kind, bytes, blocks, node}, path): a node was clicked on, or reached by a key;
// path: the names from the root to it. onZoom(..., path): likewise, of what has the whole width now.
// The handle: search(text) -> {bytes, blocks, share}; reset(); setRoot(root); setInverted(flag):
// the ends of the paths come first, and below each what led to it; redraw(); shown(); destroy().

const ICICLE_KINDS = {
  module: { hue: 208, full: 62 },
  operator: { hue: 164, full: 36 },
  source: { hue: 38, full: 78 },
  code: { hue: 38, full: 78 },
  value: { hue: 265, full: 40 },
  library: { hue: 220, full: 13 },
  root: { hue: 220, full: 20 },
  none: { hue: 0, full: 0 },
};

/** The colour of a kind of node; `shade`, 0 to 6, tells neighbours apart. */
function icicleColour(kind, shade = 3) {
  const { hue, full } = ICICLE_KINDS[kind] || ICICLE_KINDS.none;
  if (Theme.isDark()) return `hsl(${hue} ${full * 0.7}% ${26 + shade * 1.7}%)`;
  return `hsl(${hue} ${full}% ${69 + shade * 2}%)`;
}

function Icicle(container, root, options = {}) {
  const ROW = 22;
  const PAD = 5;
  const LEAST_WIDTH = 1;
  const FONT = '12px ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", monospace';

  const canvas = element("canvas");
  Object.assign(canvas.style, { position: "sticky", top: 0, display: "block", cursor: "pointer" });
  const spacer = element("div");
  Object.assign(spacer.style, { position: "absolute", top: 0, width: "1px" });
  const box = element(
    "div",
    {
      class: "icicle",
      tabindex: 0,
      role: "application",
      "aria-label": "Icicle of bytes: arrows move, Enter zooms in, Backspace out, Escape shows all",
      onmousemove: onMove,
      onmouseleave: onLeave,
      onclick: onClick,
      onblur: () => tip.hide(),
      onkeydown: onKey,
      onscroll: () => redraw(),
    },
    canvas,
    spacer,
  );
  Object.assign(box.style, { position: "relative", height: "100%", overflow: "hidden auto" });
  container.append(box);
  const tip = new Tooltip();
  const redraw = inNextFrame(draw);

  let inverted = false;
  let [top, focus, chosen, hovered] = [null, null, null, null];
  let rows = []; // per row the spans drawn: {view, x, width}, from left to right
  let rests = []; // per row what is too narrow to be drawn each: {number, x, width}
  let wanted = "";
  let matches = new Map();

  // A view is a node as it is shown now. Its children are made when they are first needed.
  function viewOf(node, parent, fields = {}) {
    const { name, bytes, blocks, kind = "code" } = node;
    const level = parent ? parent.level + 1 : 0;
    return { name, bytes, blocks, kind, node, parent, level, children: null, ...fields };
  }

  const bySize = (a, b) => b.bytes - a.bytes || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);

  function childrenOf(of) {
    if (of.children === null) {
      const called = () => (of.node.children || []).map((node) => viewOf(node, of));
      of.children = (of.trails ? callers(of) : called()).sort(bySize);
    }
    return of.children;
  }

  // Inverted: a view stands for ends of paths; its children are what the next nodes up are called.
  function callers(of) {
    const found = new Map();
    for (const { at, bytes, blocks } of of.trails) {
      const next = of.parent === null ? at : at.parent;
      if (next === null || next.parent === null) continue;
      const key = `${next.node.kind} ${next.node.name}`;
      let made = found.get(key);
      if (!made) {
        made = viewOf(next.node, of, { bytes: 0, blocks: 0, trails: [] });
        found.set(key, made);
      }
      made.bytes += bytes;
      made.blocks += blocks;
      made.trails.push({ at: next, bytes, blocks });
    }
    return [...found.values()];
  }

  /** Every node with its parent, and what of its bytes is in no child. */
  function ends() {
    const found = [];
    const waiting = [{ node: root, parent: null }];
    while (waiting.length) {
      const at = waiting.pop();
      let { bytes, blocks } = at.node;
      for (const child of at.node.children || []) {
        bytes -= child.bytes;
        blocks -= child.blocks;
        waiting.push({ node: child, parent: at });
      }
      if (bytes > 0 && at.parent !== null) found.push({ at, bytes, blocks });
    }
    return found;
  }

  function begin() {
    top = viewOf(root, null, { kind: "root", ...(inverted ? { trails: ends() } : {}) });
    focus = chosen = top;
    hovered = null;
    box.scrollTop = 0;
    redraw();
  }

  function pathOf(of) {
    const path = [];
    for (let at = of; at; at = at.parent) path.unshift(at.name);
    return path;
  }

  function layOut(width) {
    rows = [];
    rests = [];
    for (let at = focus; at; at = at.parent) rows.unshift([{ view: at, x: 0, width }]);
    const scale = focus.bytes > 0 ? width / focus.bytes : 0;
    let last = rows[rows.length - 1];
    for (;;) {
      const next = [];
      const narrow = [];
      for (const span of last) {
        let x = span.x;
        const children = childrenOf(span.view);
        let drawn = 0;
        for (; drawn < children.length; drawn++) {
          const wide = children[drawn].bytes * scale;
          if (wide < LEAST_WIDTH) break; // the rest are no wider
          next.push({ view: children[drawn], x, width: wide });
          x += wide;
        }
        let bytes = 0;
        for (let at = drawn; at < children.length; at++) bytes += children[at].bytes;
        if (bytes * scale >= LEAST_WIDTH) {
          narrow.push({ number: children.length - drawn, x, width: bytes * scale });
        }
      }
      rests[rows.length] = narrow;
      if (!next.length && !narrow.length) return;
      rows.push(next);
      last = next;
    }
  }

  const shades = new Map();
  function shadeOf(name) {
    let shade = shades.get(name);
    if (shade === undefined) {
      let hash = 2166136261;
      for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 16777619);
      shade = (hash >>> 8) % 7;
      shades.set(name, shade);
    }
    return shade;
  }

  function isMatch(name) {
    let found = matches.get(name);
    if (found === undefined) {
      found = name.toLowerCase().includes(wanted);
      matches.set(name, found);
    }
    return found;
  }

  function draw() {
    const [width, height] = [box.clientWidth, box.clientHeight];
    if (!width || !height) return;
    layOut(width);
    spacer.style.height = `${rows.length * ROW}px`;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const { context } = fitCanvas(canvas);
    context.font = FONT;
    context.textBaseline = "middle";
    const letter = context.measureText("m").width;
    const first = Math.floor(box.scrollTop / ROW);
    const until = Math.ceil((box.scrollTop + height) / ROW);
    for (let row = first; row < Math.min(until, rows.length); row++) {
      const y = row * ROW - box.scrollTop;
      for (const span of rows[row]) drawSpan(context, span, y, letter, row < focus.level);
      for (const rest of rests[row] || []) drawRest(context, rest, y, letter);
    }
  }

  function drawSpan(context, { view: of, x, width }, y, letter, isAbove) {
    const dark = Theme.isDark();
    const hit = wanted !== "" && isMatch(of.name);
    const gap = width > 3 ? 1 : 0;
    context.globalAlpha = wanted !== "" && !hit ? 0.35 : isAbove ? 0.65 : 1;
    if (hit) context.fillStyle = dark ? "#b0447f" : "#ee8fc4";
    else context.fillStyle = icicleColour(of.kind, shadeOf(of.name));
    context.fillRect(x, y, width - gap, ROW - 1);
    if (of === hovered || (of === chosen && of !== top)) {
      context.strokeStyle = dark ? "#ffffff" : "#111418";
      context.lineWidth = of === chosen ? 2 : 1;
      context.strokeRect(x + 1, y + 1, Math.max(width - gap - 2, 1), ROW - 3);
    }
    const room = Math.floor((width - 2 * PAD) / letter);
    if (room >= Math.min(3, of.name.length)) {
      const size = formatBytes(of.bytes);
      context.fillStyle = dark ? "#f2f4f8" : "#14181f";
      context.fillText(fit(context, of.name, room, letter), x + PAD, y + ROW / 2);
      if (room >= of.name.length + size.length + 3) {
        context.globalAlpha *= 0.6;
        context.fillText(size, x + width - gap - PAD - size.length * letter, y + ROW / 2);
      }
    }
    context.globalAlpha = 1;
  }

  function drawRest(context, { number, x, width }, y, letter) {
    context.globalAlpha = 0.45;
    context.fillStyle = icicleColour("none");
    context.fillRect(x, y, Math.max(width - 1, 1), ROW - 1);
    const text = `${formatCount(number)} narrow`;
    if (width >= text.length * letter + 2 * PAD) {
      context.globalAlpha = 0.8;
      context.fillStyle = Theme.colour("text");
      context.fillText(text, x + PAD, y + ROW / 2);
    }
    context.globalAlpha = 1;
  }

  /** The name, or its beginning: letters are all as wide as one, but for those beyond Latin. */
  function fit(context, name, room, letter) {
    const short = (n) => (name.length > n ? `${name.slice(0, n - 1)}…` : name);
    let text = short(room);
    if (/[^\u0000-\u024f…]/.test(text)) {
      for (let n = room; n > 3 && context.measureText(text).width > room * letter; n--) {
        text = short(n - 1);
      }
    }
    return text;
  }

  function spanAt(event) {
    const place = box.getBoundingClientRect();
    const x = event.clientX - place.left;
    const row = rows[Math.floor((event.clientY - place.top + box.scrollTop) / ROW)];
    if (!row || !row.length) return null;
    let [low, high] = [0, row.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (row[middle].x <= x) low = middle;
      else high = middle - 1;
    }
    const span = row[low];
    return x >= span.x && x <= span.x + span.width ? span : null;
  }

  function told(of) {
    const shares = [`${formatShare(of.bytes, top.bytes)} of all`];
    if (focus !== top && of.level > focus.level) {
      shares.push(`${formatShare(of.bytes, focus.bytes)} of ${focus.name}`);
    }
    const held = `${formatExactBytes(of.bytes)} · ${formatNumberOf(of.blocks, "block")}`;
    return [
      element("b", { text: of.name }),
      element("div", { text: held }),
      element("div", { class: "faint", text: shares.join(" · ") }),
    ];
  }

  function select(of) {
    chosen = of;
    if (options.onSelect) options.onSelect(of, pathOf(of));
    redraw();
  }

  function zoom(of) {
    focus = of;
    box.scrollTop = Math.max(0, Math.min(box.scrollTop, of.level * ROW - ROW));
    if (options.onZoom) options.onZoom(of, pathOf(of));
    redraw();
  }

  /** The node beside, in its row. */
  function beside(step) {
    const row = rows[chosen.level] || [];
    const next = row[row.findIndex((span) => span.view === chosen) + step];
    return next ? next.view : null;
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isDrawn = (of) => (rows[of.level] || []).some((span) => span.view === of);
    const moves = {
      ArrowDown: () => childrenOf(chosen).find(isDrawn),
      ArrowUp: () => chosen.parent,
      ArrowLeft: () => beside(-1),
      ArrowRight: () => beside(1),
      Home: () => top,
    };
    if (moves[event.key]) {
      const next = moves[event.key]();
      if (next) {
        select(next);
        keepInSight(next);
        tellChosen();
      }
    } else if (event.key === "Enter" || event.key === " ") {
      zoom(chosen);
    } else if (event.key === "Backspace") {
      if (focus.parent) {
        chosen = focus.parent;
        zoom(focus.parent);
      }
    } else if (event.key === "Escape") {
      reset();
    } else {
      return;
    }
    event.preventDefault();
  }

  function keepInSight(of) {
    const y = of.level * ROW;
    if (y < box.scrollTop) box.scrollTop = y;
    if (y + ROW > box.scrollTop + box.clientHeight) box.scrollTop = y + ROW - box.clientHeight;
  }

  function tellChosen() {
    draw();
    const span = (rows[chosen.level] || []).find((each) => each.view === chosen);
    if (!span) return;
    const place = box.getBoundingClientRect();
    const y = place.top + (chosen.level + 0.4) * ROW - box.scrollTop;
    tip.show(place.left + span.x, y, ...told(chosen));
  }

  function reset() {
    chosen = top;
    tip.hide();
    zoom(top);
  }

  /** Marks what holds the text in its name: what all of it holds, each byte counted once. */
  function search(text) {
    wanted = text.trim().toLowerCase();
    matches = new Map();
    const found = { bytes: 0, blocks: 0, share: 0 };
    const waiting = wanted === "" ? [] : [...(root.children || [])];
    while (waiting.length) {
      const node = waiting.pop();
      if (isMatch(node.name)) {
        found.bytes += node.bytes;
        found.blocks += node.blocks;
      } else {
        for (const child of node.children || []) waiting.push(child);
      }
    }
    found.share = root.bytes > 0 ? found.bytes / root.bytes : 0;
    redraw();
    return found;
  }

  function onMove(event) {
    const span = spanAt(event);
    const next = span ? span.view : null;
    if (next) tip.show(event.clientX, event.clientY, ...told(next));
    else tip.hide();
    if (hovered === next) return;
    hovered = next;
    redraw();
  }

  function onLeave() {
    tip.hide();
    hovered = null;
    redraw();
  }

  function onClick(event) {
    const span = spanAt(event);
    if (!span) return;
    select(span.view);
    zoom(span.view);
  }

  const sizes = new ResizeObserver(redraw);
  sizes.observe(box);
  Theme.listeners.push(redraw);
  begin();

  return {
    search,
    reset,
    redraw,
    setRoot(next) {
      root = next;
      begin();
    },
    setInverted(flag) {
      inverted = flag;
      begin();
    },
    /** What is drawn, row by row: [{name, bytes, x, width}]. */
    shown() {
      draw();
      const told = ({ view: of, x, width }) => ({ name: of.name, bytes: of.bytes, x, width });
      return rows.map((row) => row.map(told));
    },
    destroy() {
      sizes.disconnect();
      Theme.listeners.splice(Theme.listeners.indexOf(redraw), 1);
      box.remove();
      tip.box.remove();
    },
  };
}
