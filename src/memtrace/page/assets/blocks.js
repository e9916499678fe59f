"use strict";
// Lines and tables as memtrace prints them (page/told.py).

function blocksElement(blocks) {
  const box = element("div", { class: "told" });
  let part = null; // from one title to the next
  for (const block of blocks) {
    if (!block.rows && block.text.trim() === "") continue;
    const isTitle = block.style === "title";
    if (isTitle || !part) {
      part = element("section");
      box.append(part);
    }
    if (isTitle) part.append(element("h3", { text: block.text.trim() }));
    else part.append(block.rows ? gridElement(block) : lineElement(block));
  }
  return box;
}

function lineElement({ text, style }) {
  const indent = text.length - text.trimStart().length;
  const line = element("p", { class: `line ${style} indent-${Math.min(indent, 6)}`, text: text.trim() });
  return line;
}

function gridElement({ columns, rows, faint }) {
  const head = element("tr", {}, ...columns.map(({ title, right }) => element("th", { class: right ? "number" : "", text: title })));
  const body = rows.map((row, place) => {
    const total = row[0].startsWith("= ");
    const cells = row.map((text, column) => element("td", { class: columns[column].right ? "number" : "", text: column === 0 ? text.replace(/^[= ] /, "") : text }));
    return element("tr", { class: total ? "total" : faint.includes(place) ? "faint" : "" }, ...cells);
  });
  const titled = columns.some(({ title }) => title);
  return element("table", {}, titled ? element("thead", {}, head) : null, element("tbody", {}, ...body));
}
