"use strict";
// A tree as page/flamegraph.py packed it: columns, parents before children.

/** The root, with {name, kind, bytes, blocks, children} for it and all below. */
function unpackTree({ words, kind, name, parent, bytes, blocks }) {
  const nodes = name.map((word, row) => ({
    name: words[word],
    kind: words[kind[row]],
    bytes: bytes[row],
    blocks: blocks[row],
    children: [],
  }));
  for (let row = 1; row < nodes.length; row++) nodes[row - parent[row]].children.push(nodes[row]);
  return nodes[0];
}
