"use strict";
// The page of `memtrace flamegraph`.

function showFlamegraph() {
  const page = readDocument();
  const root = unpackTree(page.tree);
  const icicle = Icicle(byId("icicle"), root, { onSelect: tellChosen, onZoom: tellPath });

  byId("title").textContent = page.title;
  byId("context").textContent = page.context.join(" · ");
  fill(byId("warnings"), ...page.warnings.map((text) => element("p", { text })));
  byId("theme").addEventListener("click", Theme.toggle);
  byId("reset").addEventListener("click", () => icicle.reset());
  byId("inverted").addEventListener("click", invert);
  const search = byId("search");
  search.addEventListener("input", () => find(search.value));
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape") leaveSearch();
    if (event.key === "Enter") focusIcicle();
  });
  document.addEventListener("keydown", onKey);
  showLegend();
  Theme.listeners.push(showLegend);
  tellPath(root, [root.name]);
  if (page.inverted) invert();
  focusIcicle();
  window.memtraceIcicle = icicle;

  function tellChosen(node) {
    const share = formatShare(node.bytes, root.bytes);
    const blocks = formatNumberOf(node.blocks, "block");
    byId("chosen").textContent = `${formatExactBytes(node.bytes)}, ${blocks}, ${share}: ${node.name}`;
  }

  function tellPath(node, path) {
    byId("path").textContent = path.join(" → ");
  }

  function find(text) {
    const { bytes, blocks, share } = icicle.search(text);
    const percent = `${(100 * share).toFixed(1)} %`;
    const told = `${percent}: ${formatExactBytes(bytes)}, ${formatNumberOf(blocks, "block")}`;
    byId("found").textContent = text.trim() === "" ? "" : bytes > 0 ? told : "nothing of that name";
  }

  function leaveSearch() {
    search.value = "";
    find("");
    focusIcicle();
  }

  function focusIcicle() {
    byId("icicle").querySelector(".icicle").focus({ preventScroll: true });
  }

  function invert() {
    const pressed = byId("inverted").getAttribute("aria-pressed") !== "true";
    byId("inverted").setAttribute("aria-pressed", String(pressed));
    icicle.setInverted(pressed);
    tellPath(root, [root.name]);
  }

  function onKey(event) {
    if (event.target === search || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") {
      search.focus();
      search.select();
    } else if (event.key === "i") {
      invert();
    } else {
      return;
    }
    event.preventDefault();
  }

  /** Which colour is which kind, of those that there are. */
  function showLegend() {
    const names = {
      module: "module",
      operator: "operator",
      source: "source line",
      code: "your code",
      library: "library",
      value: "group",
      none: "not known",
    };
    const there = new Set(page.tree.kind.map((word) => page.tree.words[word]));
    const shown = Object.entries(names).filter(([kind]) => there.has(kind));
    fill(byId("legend"), ...shown.map(([kind, name]) => {
      const swatch = element("span", { class: "swatch" });
      swatch.style.background = icicleColour(kind);
      return element("span", {}, swatch, name);
    }));
  }
}

showFlamegraph();
