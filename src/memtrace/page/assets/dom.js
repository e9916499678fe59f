"use strict";
// Elements. Text of a trace reaches the page through here alone, as text: never as markup.

/**
 * An element. `attributes`: class, text (its textContent), title, and others as they are called in
 * HTML; on<event>: a function. Children: elements, or strings, which become text.
 */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

/** Empties an element and puts others in. */
function fill(parent, ...children) {
  parent.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
  return parent;
}

/** Fits a canvas to its element, for sharp lines; gives its context in CSS pixels, and the size. */
function fitCanvas(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** Calls `draw` once in the next frame, however often it is asked to. */
function inNextFrame(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
}

/** Text shortened in the middle to fit a width in pixels of a canvas; "" where nothing fits. */
function fitText(context, text, width) {
  if (width < 14) return "";
  if (context.measureText(text).width <= width) return text;
  let [low, high] = [0, text.length];
  while (low < high) {
    const half = (low + high + 1) >> 1;
    if (context.measureText(shortened(text, half)).width <= width) low = half;
    else high = half - 1;
  }
  return low < 3 ? "" : shortened(text, low);
}

/** The first and the last letters, with an ellipsis between. */
function shortened(text, letters) {
  if (text.length <= letters) return text;
  const tail = Math.ceil((letters - 1) / 2);
  return `${text.slice(0, letters - 1 - tail)}…${text.slice(text.length - tail)}`;
}

/** A box beside the pointer that tells what it is over. */
class Tooltip {
  constructor() {
    this.box = element("div", { class: "tooltip", role: "tooltip", hidden: true });
    document.body.append(this.box);
  }

  show(x, y, ...children) {
    fill(this.box, ...children);
    this.box.hidden = false;
    const { width, height } = this.box.getBoundingClientRect();
    const left = x + 14 + width > window.innerWidth ? x - 14 - width : x + 14;
    const top = y + 14 + height > window.innerHeight ? y - 14 - height : y + 14;
    this.box.style.left = `${Math.max(4, left)}px`;
    this.box.style.top = `${Math.max(4, top)}px`;
  }

  hide() {
    this.box.hidden = true;
  }
}
