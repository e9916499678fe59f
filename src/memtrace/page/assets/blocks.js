"use strict";
// Lines and tables as memtrace prints them (page/told.py).

function blocksElement(blocks) {
  const box = element("div", { class: "told" });
  for (const block of blocks) {
    if (block.rows) box.append(gridElement(block));
    else if (block.text.trim() === "") continue;
    else if (block.style === "title") box.append(element("h3", { text: block.text.trim() }));
    else box.append(lineElement(block));
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
