"use strict";
/*
 * A tree of bytes as an icicle: the root at the top, below each node its children, widths in
 * proportion to bytes. Only what is a pixel wide is ever looked at, so that a tree may have any
 * number of nodes.
 *
 *   const icicle = Icicle(container, root, {onSelect, onZoom, format});
 *
 * node: {name, bytes, blocks, children, kind}: `children` and `kind` may be missing. A node's bytes
 * include those of its children. kind: "module", "operator", "source", "library", "none" (nothing
 * is known); it gives the colour.
 * options: onSelect(node, path): a node was clicked on or reached by a key; `path`: the names from
 * the root down to it. onZoom(node, path): likewise, of the node that takes the whole width.
 * format(bytes): a size for people.
 *
 * The handle has search(text) -> {bytes, blocks, share}, zoom(view), reset(), setRoot(root),
 * setInverted(flag), shown(), redraw(), destroy().
 */
function Icicle(container, root, options = {}) {
  const ROW = 22, PAD = 5, LEAST = 1, FONT = "12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace";
  const HUES = {module: [208, 62], operator: [164, 38], source: [38, 78], code: [38, 78], library: [220, 14], none: [0, 0]};
  const format = options.format || ((bytes) => `${bytes.toLocaleString("en-US")} B`);
  const count = (n, noun) => `${n.toLocaleString("en-US")} ${noun}${n === 1 ? "" : "s"}`;

  const element = (tag, style, parent) => {
    const made = document.createElement(tag);
    Object.assign(made.style, style);
    parent.append(made);
    return made;
  };
  const box = element("div", {overflowY: "auto", overflowX: "hidden", position: "relative", height: "100%"}, container);
  box.className = "icicle";
  box.tabIndex = 0;
  box.setAttribute("role", "application");
  box.setAttribute("aria-label", "Icicle of bytes: arrows move, Enter zooms in, Backspace out, Escape shows all");
  const canvas = element("canvas", {position: "sticky", top: "0", display: "block", cursor: "pointer"}, box);
  const spacer = element("div", {position: "absolute", top: "0", width: "1px", pointerEvents: "none"}, box);
  const tip = element("div", {
    position: "fixed", zIndex: "50", display: "none", pointerEvents: "none", maxWidth: "46rem", padding: "6px 9px",
    borderRadius: "6px", font: FONT, lineHeight: "1.5", overflowWrap: "anywhere", boxShadow: "0 3px 14px rgb(0 0 0 / .3)",
    background: "#1b1f27", color: "#f2f4f8", border: "1px solid #48505e",
  }, container);
  tip.className = "icicle-tip";
  tip.setAttribute("role", "status");
  const context = canvas.getContext("2d");

  let inverted = false, top = null, focus = null, chosen = null, hovered = null;
  let rows = [];          // per row the spans drawn: {view, x, width}, from left to right
  let wanted = "", matches = new Map();
  let frame = 0;

  // A view is a node as it is shown now. Its children are made when they are first needed.
  const view = (fields, parent) => ({kind: "code", blocks: 0, ...fields, parent, level: parent ? parent.level + 1 : 0, children: null});
  const bySize = (a, b) => b.bytes - a.bytes || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);

  function childrenOf(of) {
    if (of.children === null) of.children = (of.trails ? callers(of) : called(of)).sort(bySize);
    return of.children;
  }

  function called(of) {
    return (of.node.children || []).map((node) => view({name: node.name, kind: node.kind || "code", bytes: node.bytes, blocks: node.blocks, node}, of));
  }

  // Inverted: a view stands for ends of paths; its children are what the next nodes up are called.
  function callers(of) {
    const found = new Map();
    for (const {at, bytes, blocks} of of.trails) {
      const next = of.parent === null ? at : at.parent;
      if (next === null || next.parent === null) continue;
      const key = `${next.node.kind} ${next.node.name}`;
      let made = found.get(key);
      if (!made) {
        made = view({name: next.node.name, kind: next.node.kind || "code", bytes: 0, blocks: 0, node: next.node, trails: []}, of);
        found.set(key, made);
      }
      made.bytes += bytes;
      made.blocks += blocks;
      made.trails.push({at: next, bytes, blocks});
    }
    return [...found.values()];
  }

  /** Every node with its parent, and what of its bytes is in no child. */
  function ends() {
    const found = [], waiting = [{node: root, parent: null}];
    while (waiting.length) {
      const at = waiting.pop();
      let {bytes, blocks} = at.node;
      for (const child of at.node.children || []) {
        bytes -= child.bytes;
        blocks -= child.blocks;
        waiting.push({node: child, parent: at});
      }
      if (bytes > 0 && at.parent !== null) found.push({at, bytes, blocks});
    }
    return found;
  }

  function begin() {
    top = view({name: root.name, kind: root.kind || "none", bytes: root.bytes, blocks: root.blocks, node: root}, null);
    if (inverted) top.trails = ends();
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
    for (let at = focus; at; at = at.parent) rows.unshift([{view: at, x: 0, width}]);
    const scale = focus.bytes > 0 ? width / focus.bytes : 0;
    let last = rows[rows.length - 1];
    for (;;) {
      const next = [];
      for (const span of last) {
        let x = span.x;
        const children = childrenOf(span.view);
        for (const child of children) {
          const wide = child.bytes * scale;
          if (wide < LEAST) break;          // the rest are no larger
          next.push({view: child, x, width: wide});
          x += wide;
        }
      }
      if (!next.length) return;
      rows.push(next);
      last = next;
    }
  }

  function isDark() {
    const [r, g, b] = (getComputedStyle(container).color.match(/[\d.]+/g) || [0, 0, 0]).map(Number);
    return r * 0.3 + g * 0.59 + b * 0.11 > 128;   // light letters: a dark page
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

  function colour(of, dark) {
    const [hue, full] = HUES[of.kind] || HUES.code;
    const shade = shadeOf(of.name);
    return dark ? `hsl(${hue} ${full * 0.7}% ${27 + shade * 1.6}%)` : `hsl(${hue} ${full}% ${70 + shade * 1.9}%)`;
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
    frame = 0;
    const width = box.clientWidth, height = box.clientHeight;
    if (!width || !height) return;
    layOut(width);
    spacer.style.height = `${rows.length * ROW}px`;
    const ratio = window.devicePixelRatio || 1;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = FONT;
    context.textBaseline = "middle";
    const letter = context.measureText("m").width, dark = isDark();
    const first = Math.floor(box.scrollTop / ROW), until = Math.ceil((box.scrollTop + height) / ROW);
    for (let row = first; row < Math.min(until, rows.length); row++) {
      const y = row * ROW - box.scrollTop;
      for (const span of rows[row]) drawSpan(span, y, letter, dark, row);
    }
  }

  function drawSpan({view: of, x, width}, y, letter, dark, row) {
    const hit = wanted !== "" && isMatch(of.name);
    const gap = width > 3 ? 1 : 0;
    context.globalAlpha = wanted !== "" && !hit ? 0.4 : row < focus.level ? 0.65 : 1;
    context.fillStyle = hit ? (dark ? "#a8477d" : "#e79ac4") : colour(of, dark);
    context.fillRect(x, y, width - gap, ROW - 1);
    if (of === hovered || of === chosen) {
      context.strokeStyle = dark ? "#ffffff" : "#111418";
      context.lineWidth = of === chosen ? 2 : 1;
      context.strokeRect(x + 1, y + 1, Math.max(width - gap - 2, 1), ROW - 3);
    }
    const room = Math.floor((width - 2 * PAD) / letter);
    if (room >= 3) {
      context.fillStyle = dark ? "#f2f4f8" : "#14181f";
      context.fillText(fit(of.name, room, letter), x + PAD, y + ROW / 2);
    }
    context.globalAlpha = 1;
  }

  /** The name, or its beginning: letters are all as wide as one, but for those beyond Latin. */
  function fit(name, room, letter) {
    const short = (n) => (name.length > n ? `${name.slice(0, n - 1)}…` : name);
    let text = short(room);
    if (/[^\u0000-\u024f…]/.test(text)) {
      for (let n = room; n > 3 && context.measureText(text).width > room * letter; n--) text = short(n - 1);
    }
    return text;
  }

  function redraw() {
    if (!frame) frame = requestAnimationFrame(draw);
  }

  function spanAt(event) {
    const place = box.getBoundingClientRect();
    const x = event.clientX - place.left, y = event.clientY - place.top + box.scrollTop;
    const row = rows[Math.floor(y / ROW)];
    if (!row) return null;
    let low = 0, high = row.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (row[middle].x <= x) low = middle; else high = middle - 1;
    }
    const span = row[low];
    return x >= span.x && x <= span.x + span.width ? span : null;
  }

  function percent(part, whole) {
    return whole > 0 ? `${((100 * part) / whole).toFixed(1)} %` : "0.0 %";
  }

  function told(of) {
    const exact = of.bytes < 1024 ? "" : ` (${of.bytes.toLocaleString("en-US")} bytes)`;
    const shares = [`${percent(of.bytes, top.bytes)} of all`];
    if (focus !== top && of.level > focus.level) shares.push(`${percent(of.bytes, focus.bytes)} of ${focus.name}`);
    return [of.name, `${format(of.bytes)}${exact} · ${count(of.blocks, "block")}`, shares.join(" · ")];
  }

  function showTip(of, x, y) {
    tip.replaceChildren(...told(of).map((text, line) => {
      const made = document.createElement("div");
      made.textContent = text;
      if (line === 0) made.style.fontWeight = "600";
      return made;
    }));
    tip.style.display = "block";
    const size = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, window.innerWidth - size.width - 6))}px`;
    tip.style.top = `${y + 18 + size.height > window.innerHeight ? Math.max(4, y - size.height - 10) : y + 18}px`;
  }

  function hideTip() {
    tip.style.display = "none";
  }

  function select(of) {
    chosen = of;
    if (options.onSelect) options.onSelect(of.node, pathOf(of));
    redraw();
  }

  function zoom(of) {
    focus = of;
    box.scrollTop = Math.max(0, Math.min(box.scrollTop, of.level * ROW - ROW));
    if (options.onZoom) options.onZoom(of.node, pathOf(of));
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
      if (focus.parent) { chosen = focus.parent; zoom(focus.parent); }
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
    const place = box.getBoundingClientRect();
    if (span) showTip(chosen, place.left + span.x, place.top + (chosen.level + 0.3) * ROW - box.scrollTop);
  }

  function reset() {
    chosen = top;
    hideTip();
    zoom(top);
  }

  /** Marks what holds the text in its name: what all of it holds, each byte counted once. */
  function search(text) {
    wanted = text.trim().toLowerCase();
    matches = new Map();
    const found = {bytes: 0, blocks: 0, share: 0};
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

  box.addEventListener("mousemove", (event) => {
    const span = spanAt(event);
    if (span) showTip(span.view, event.clientX, event.clientY); else hideTip();
    if (hovered !== (span && span.view)) { hovered = span && span.view; redraw(); }
  });
  box.addEventListener("mouseleave", () => { hideTip(); hovered = null; redraw(); });
  box.addEventListener("click", (event) => {
    const span = spanAt(event);
    if (span) { select(span.view); zoom(span.view); }
  });
  box.addEventListener("blur", hideTip);
  box.addEventListener("keydown", onKey);
  box.addEventListener("scroll", redraw);
  const sizes = new ResizeObserver(redraw);
  sizes.observe(box);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", redraw);
  const themes = new MutationObserver(redraw);
  themes.observe(document.documentElement, {attributes: true});
  begin();

  return {
    search, zoom, reset, redraw,
    setRoot(next) { root = next; begin(); },
    setInverted(flag) { inverted = flag; begin(); },
    /** What is drawn, row by row: [{name, bytes, x, width}]. */
    shown() {
      if (frame) { cancelAnimationFrame(frame); draw(); }
      return rows.map((row) => row.map(({view: of, x, width}) => ({name: of.name, bytes: of.bytes, x, width})));
    },
    destroy() {
      sizes.disconnect();
      themes.disconnect();
      scheme.removeEventListener("change", redraw);
      box.remove();
      tip.remove();
    },
  };
}
