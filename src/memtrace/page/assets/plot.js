"use strict";
// What a chart over time is drawn with: its grid, marks with words, lanes of stages and steps.

const MARGIN = { left: 62, right: 10, top: 4, bottom: 18 };
const LANE = 16;
const MOST_LANES = 3;

function verticalLine(context, x, top, bottom, colour, width) {
  context.beginPath();
  context.moveTo(x, top);
  context.lineTo(x, bottom);
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke();
}

/** A word beside a mark, within the plot and on no other word, on a ground of its own. */
function flag(context, x, y, text, colour, plot, taken) {
  const wide = context.measureText(text).width + 8;
  const isFree = (left, top) =>
    left >= plot.left && left + wide <= plot.right && !taken.some((box) => left < box.right && left + wide > box.left && Math.abs(top - box.top) < 14);
  const places = [0, 15, 30].flatMap((down) => [[x + 2, y + down], [x - wide - 2, y + down]]);
  const [left, top] = places.find((place) => isFree(...place)) || [Math.max(Math.min(x, plot.right - wide), plot.left), y];
  taken.push({ left, right: left + wide, top });
  context.fillStyle = Theme.colour("panel");
  context.globalAlpha = 0.85;
  context.fillRect(left, top - 9, wide, 14);
  context.globalAlpha = 1;
  context.fillStyle = colour;
  context.textAlign = "left";
  context.fillText(text, left + 4, top + 2);
}

function drawGrid(context, plot, view, scale) {
  context.strokeStyle = Theme.colour("grid");
  context.fillStyle = Theme.colour("faint");
  context.lineWidth = 1;
  context.textAlign = "right";
  for (const { bytes, text } of byteTicks(scale.maximum, Math.max(2, (plot.bottom - plot.top) / 36))) {
    const y = Math.round(scale.y(bytes)) + 0.5;
    context.beginPath();
    context.moveTo(plot.left, y);
    context.lineTo(plot.right, y);
    context.stroke();
    context.fillText(text, plot.left - 6, y + 3);
  }
  context.textAlign = "center";
  for (const { ns, text } of timeTicks(view.start, view.end, (plot.right - plot.left) / 110)) {
    const x = Math.round(plot.left + ((ns - view.start) / (view.end - view.start)) * (plot.right - plot.left)) + 0.5;
    context.beginPath();
    context.moveTo(x, plot.top);
    context.lineTo(x, plot.bottom);
    context.stroke();
    if (x > plot.left + 12 && x < plot.right - 12) context.fillText(text, x, plot.bottom + 13);
  }
}

/** Stages by how deep they lie in others, and the steps below them. */
function lanesOf(scope) {
  const open = [];
  let depth = 0;
  const stages = scope.process.stages.map((stage) => {
    while (open.length && open[open.length - 1].end_ns <= stage.begin_ns) open.pop();
    const lane = open.length;
    open.push(stage);
    depth = Math.max(depth, lane + 1);
    return { ...stage, lane };
  });
  return { stages, depth, steps: scope.steps.begin_ns.length ? scope.steps : null };
}

function drawLanes(context, lanes, view, plot) {
  const wide = plot.right - plot.left;
  const x = (ns) => plot.left + ((ns - view.start) / (view.end - view.start)) * wide;
  context.textAlign = "left";
  for (const stage of lanes.stages) {
    if (stage.lane >= MOST_LANES || stage.end_ns < view.start || stage.begin_ns > view.end) continue;
    const [a, b] = [Math.max(x(stage.begin_ns), plot.left), Math.min(x(stage.end_ns), plot.right)];
    const y = MARGIN.top + stage.lane * LANE;
    context.fillStyle = Theme.colour("raised");
    context.fillRect(a, y, Math.max(b - a, 1), LANE - 2);
    context.fillStyle = Theme.colour("accent");
    context.fillRect(a, y, 2, LANE - 2);
    context.fillStyle = Theme.colour("text");
    context.fillText(fitText(context, stage.name, b - a - 10), a + 6, y + 11);
  }
  if (!lanes.steps) return;
  const { begin_ns: begin, lasted_ns: lasted, number } = lanes.steps;
  const y = MARGIN.top + Math.min(lanes.depth, MOST_LANES) * LANE;
  context.fillStyle = Theme.colour("text");
  let drawn = -1;
  for (let step = 0; step < begin.length; step++) {
    const [a, b] = [x(begin[step]), x(begin[step] + lasted[step])];
    if (b < plot.left || a > plot.right || b - drawn < 1) continue;
    drawn = Math.max(b, a + 1);
    context.globalAlpha = 0.28;
    context.fillRect(a, y, Math.max(b - a - 0.5, 1), LANE - 4);
    context.globalAlpha = 1;
    const label = formatCount(number[step]);
    const left = Math.max(a, plot.left);
    if (Math.min(b, plot.right) - left > 10 + 7 * label.length) context.fillText(label, left + 4, y + 10);
  }
}
