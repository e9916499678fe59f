"use strict";
// The data of the page, as page/assemble.py and page/columns.py wrote it.

function readDocument() {
  return JSON.parse(document.getElementById("memtrace-document").textContent);
}

/**
 * Numbers of the page, by `place` as the document tells it: {at, rows, width, delta}. A column lies
 * as `width` planes of `rows` bytes, least significant first; with `delta`, what lies there are
 * differences, zigzagged. Values are doubles: exact up to 2^53.
 */
class Columns {
  constructor(bytes) {
    this.bytes = bytes;
  }

  /** What page/columns.py's add_json was given. */
  json({ at, size }) {
    return JSON.parse(new TextDecoder().decode(this.bytes.subarray(at, at + size)));
  }

  numbers(place) {
    const { at, rows, width, delta } = place;
    const values = new Float64Array(rows);
    let scale = 1;
    for (let plane = 0; plane < width; plane++, scale *= 256) {
      const start = at + plane * rows;
      for (let row = 0; row < rows; row++) values[row] += this.bytes[start + row] * scale;
    }
    if (delta) {
      let sum = 0;
      for (let row = 0; row < rows; row++) {
        const zigzag = values[row];
        sum += zigzag % 2 ? -(zigzag + 1) / 2 : zigzag / 2;
        values[row] = sum;
      }
    }
    return values;
  }
}

async function readColumns() {
  const text = document.getElementById("memtrace-columns").textContent;
  if (!text) return new Columns(new Uint8Array(0));
  const packed = Uint8Array.fromBase64
    ? Uint8Array.fromBase64(text)
    : Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Columns(new Uint8Array(await new Response(stream).arrayBuffer()));
}
