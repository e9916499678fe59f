"use strict";
// Numbers as people read them, in the same words as memtrace's tables (report/units.py).

const BINARY_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** Binary units, three or four digits: "512 B", "1.50 KiB", "640 MiB". */
function formatBytes(bytes) {
  if (Math.abs(bytes) < 1024) return `${bytes} B`;
  let value = bytes;
  let unit = 0;
  // 1023.6 MiB would print as 1024 MiB: it is a GiB.
  while (Math.abs(value) >= 1023.5 && unit < BINARY_UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const size = Math.abs(value);
  return `${value.toFixed(size < 99.995 ? 2 : size < 999.95 ? 1 : 0)} ${BINARY_UNITS[unit]}`;
}

/** "1,234,567" */
function formatCount(number) {
  return String(Math.round(number)).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** "1 block", "1,024 blocks" */
function formatNumberOf(number, noun) {
  return `${formatCount(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** A size with the bytes themselves: "1.50 KiB (1,536 bytes)". */
function formatExactBytes(bytes) {
  if (Math.abs(bytes) < 1024) return formatNumberOf(bytes, "byte");
  return `${formatBytes(bytes)} (${formatCount(bytes)} bytes)`;
}

/** A span or an instant: "850 ns", "1.250 ms", "12.345 s", "3 min 04.5 s". */
function formatTime(ns) {
  const size = Math.abs(ns);
  if (size < 1e3) return `${Math.round(ns)} ns`;
  if (size < 1e6) return `${(ns / 1e3).toFixed(3)} us`;
  if (size < 1e9) return `${(ns / 1e6).toFixed(3)} ms`;
  const seconds = ns / 1e9;
  if (seconds < 120) return `${seconds.toFixed(3)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 120) return `${minutes} min ${(seconds % 60).toFixed(1).padStart(4, "0")} s`;
  const rest = String(minutes % 60).padStart(2, "0");
  return `${Math.floor(minutes / 60)} h ${rest} min ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
}

/** A share of a whole in percent, one decimal. */
function formatShare(part, whole) {
  const percent = whole > 0 ? (100 * part) / whole : 0;
  return percent > 0 && percent < 0.05 ? "< 0.1 %" : `${percent.toFixed(1)} %`;
}

/** Values for the ticks of an axis of sizes: round numbers of a binary unit. */
function byteTicks(maximum, wanted) {
  if (!(maximum > 0)) return [0];
  const rough = maximum / Math.max(wanted, 1);
  const unit = Math.pow(1024, Math.max(0, Math.floor(Math.log2(rough) / 10)));
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1024].find((n) => n * unit >= rough) * unit;
  const ticks = [];
  for (let value = 0; value <= maximum; value += step) ticks.push(value);
  return ticks;
}

/** Values for the ticks of an axis of time between two instants in ns. */
function timeTicks(start, end, wanted) {
  const rough = (end - start) / Math.max(wanted, 1);
  if (!(rough > 0)) return [];
  const power = Math.pow(10, Math.floor(Math.log10(rough)));
  const step = Math.max([1, 2, 5, 10].find((n) => n * power >= rough) * power, 1);
  const ticks = [];
  for (let value = Math.ceil(start / step) * step; value <= end; value += step) ticks.push(value);
  return ticks;
}

/** An instant beside others `step` ns apart: no more digits than tell them apart. */
function formatTick(ns, step) {
  const [unit, name] =
    step >= 1e8 ? [1e9, "s"] : step >= 1e5 ? [1e6, "ms"] : step >= 100 ? [1e3, "us"] : [1, "ns"];
  const digits = Math.max(0, Math.ceil(-Math.log10(step / unit) - 1e-9));
  return `${(ns / unit).toFixed(digits)} ${name}`;
}
