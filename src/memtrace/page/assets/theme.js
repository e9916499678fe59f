"use strict";
// Light and dark, and the colours as scripts need them. Every colour is a variable of base.css.

const CATEGORIES = [
  "weight", "buffer", "gradient", "optimizer_state", "kv_cache", "input", "output", "activation",
  "workspace", "temporary", "other",
];
const SERIES = 10;

const Theme = {
  /** Functions that are called after a change: whoever draws on a canvas draws again. */
  listeners: [],
  _colours: new Map(),
  _probe: document.head.appendChild(document.createElement("span")),

  /** The colour of a variable of base.css: colour("text"), colour("category-weight"). */
  colour(name) {
    if (!Theme._colours.has(name)) {
      // A variable that has a light and a dark value is one only where it is used.
      Theme._probe.style.color = `var(--${name})`;
      Theme._colours.set(name, getComputedStyle(Theme._probe).color);
    }
    return Theme._colours.get(name);
  },

  /** The colour of a category; of what has none, or another name, that of "other". */
  category(name) {
    return Theme.colour(`category-${CATEGORIES.includes(name) ? name.replaceAll("_", "-") : "other"}`);
  },

  /** A colour for the n-th of several things that are not categories. */
  series(number) {
    return Theme.colour(`series-${number % SERIES}`);
  },

  isDark() {
    const chosen = document.documentElement.dataset.theme;
    if (chosen) return chosen === "dark";
    return window.matchMedia("(prefers-color-scheme: dark)").matches;
  },

  toggle() {
    document.documentElement.dataset.theme = Theme.isDark() ? "light" : "dark";
    try {
      localStorage.setItem("memtrace-theme", document.documentElement.dataset.theme);
    } catch {
      // A page opened from a file may have no storage: the choice lasts as long as the page.
    }
    Theme._changed();
  },

  _changed() {
    Theme._colours.clear();
    for (const listener of Theme.listeners) listener();
  },
};

try {
  const theme = localStorage.getItem("memtrace-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // As above.
}
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", Theme._changed);
