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

/** Ticks of an axis of sizes from 0: round numbers of the unit that the maximum is told in. */
function byteTicks(maximum, wanted) {
  if (!(maximum > 0)) return [{ bytes: 0, text: "0 B" }];
  const place = Math.min(Math.floor(Math.log2(Math.max(maximum, 1)) / 10), BINARY_UNITS.length - 1);
  const unit = Math.pow(1024, place);
  const step = Math.max(roundStep(maximum / unit / Math.max(wanted, 1)), place ? 0 : 1);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = [];
  for (let at = 0; at * step * unit <= maximum; at++) {
    ticks.push({ bytes: at * step * unit, text: `${(at * step).toFixed(at ? digits : 0)} ${BINARY_UNITS[place]}` });
  }
  return ticks;
}

/** The round number (1, 2 or 5 times a power of ten) that is not below. */
function roundStep(rough) {
  const power = Math.pow(10, Math.floor(Math.log10(rough)));
  return [1, 2, 5, 10].find((n) => n * power >= rough * (1 - 1e-9)) * power;
}

const MINUTE_NS = 6e10;
const ROUND_MINUTES = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440];

/** Ticks of an axis of time between two instants in ns: [{ns, text}]. */
function timeTicks(start, end, wanted) {
  const rough = (end - start) / Math.max(wanted, 1);
  if (!(rough > 0)) return [];
  const minutes = ROUND_MINUTES.find((n) => n * MINUTE_NS >= rough);
  const inMinutes = rough > MINUTE_NS / 2;
  const step = inMinutes ? (minutes || roundStep(rough / MINUTE_NS / 1440) * 1440) * MINUTE_NS : Math.max(roundStep(rough), 1);
  const ticks = [];
  for (let ns = Math.ceil(start / step) * step; ns <= end; ns += step) {
    ticks.push({ ns, text: inMinutes ? formatMinutes(ns / MINUTE_NS) : formatTick(ns, step) });
  }
  return ticks;
}

function formatMinutes(minutes) {
  const rounded = Math.round(minutes);
  const rest = String(rounded % 60).padStart(2, "0");
  return rounded < 60 ? `${rounded} min` : `${Math.floor(rounded / 60)}:${rest} h`;
}

/** An instant beside others `step` ns apart: no more digits than tell them apart. */
function formatTick(ns, step) {
  const [unit, name] =
    step >= 1e8 ? [1e9, "s"] : step >= 1e5 ? [1e6, "ms"] : step >= 100 ? [1e3, "us"] : [1, "ns"];
  const digits = Math.max(0, Math.ceil(-Math.log10(step / unit) - 1e-9));
  return `${(ns / unit).toFixed(digits)} ${name}`;
}
