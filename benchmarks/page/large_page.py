"""The page of a large trace: how long it takes to write, how large it is, how it opens and scrolls.

    python benchmarks/page/large_page.py [--millions 10] [--keep DIR]

Needs chromium and its driver. Allowed for 10 million events: 15 MB, and 3 s until the page has been
drawn and takes keys.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from large_trace import write_trace
from selenium.webdriver.remote.webdriver import WebDriver

from page.browser import open_browser

LIMIT_BYTES, LIMIT_S, LIMIT_MIB = 15_000_000, 3.0, 2048

_MEASURED = """
import resource, sys, time
begun = time.perf_counter()
from memtrace.cli.main import main
status = main(["report", sys.argv[1], "-o", sys.argv[2], "--force"])
told = open("/proc/self/status").read()
print(time.perf_counter() - begun, int(told.split("VmHWM:")[1].split()[0]) // 1024)
sys.exit(status)
"""

# Every allocation of the page in one table, as if all had been live at once.
_EVERY_ROW = """
const { live, scope } = window.memtraceReport;
live.allocations.setRows(Array.from(scope.rows.born.keys()));
return scope.rows.born.length;
"""

# Frame times in ms while something is done in each of `frames` frames.
_FRAMES = """
const [frames, name, done] = arguments;
const report = window.memtraceReport;
const table = report.live.allocations.view;
const acts = {
  scroll: (n) => { table.scrollTop = (n * 997) % table.scrollHeight; },
  zoom: (n) => report.timeline.zoom(n % 60 < 30 ? 1.25 : 0.8),
  pan: (n) => report.timeline.pan(n % 40 < 20 ? 0.05 : -0.05),
  instants: (n) => report.setCut((n * 37) % report.scope.cuts.seq.length),
};
const took = [];
let last = performance.now();
let n = 0;
const frame = () => {
  const now = performance.now();
  took.push(now - last);
  last = now;
  if (n++ === frames) return done(took.slice(1));
  acts[name](n);
  requestAnimationFrame(frame);
};
requestAnimationFrame(frame);
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=float, default=10)
    parser.add_argument("--keep", type=Path, help="directory for the trace, kept afterwards")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        trace_dir = options.keep or Path(temporary) / "large.memtrace"
        if not trace_dir.exists():
            begun = time.perf_counter()
            write_trace(trace_dir, int(options.millions * 1e6))
            print(f"made a trace in {time.perf_counter() - begun:.0f} s")
        page = Path(temporary) / "large.html"
        argv = [sys.executable, "-c", _MEASURED, str(trace_dir), str(page)]
        shown = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
        wall_s, peak_mib = shown.split()[-2:]
        size = page.stat().st_size
        print(f"wrote {size / 1e6:.2f} MB ({LIMIT_BYTES / 1e6:.0f} allowed) in {wall_s:.5} s, "
              f"peak RSS {peak_mib} MiB ({LIMIT_MIB} allowed)")  # fmt: skip
        with open_browser() as browser:
            opened = [opening(browser, page) for _ in range(options.runs)]
            print(f"opens in {statistics.median(opened):.2f} s ({LIMIT_S} allowed), "
                  f"the slowest {max(opened):.2f} s")  # fmt: skip
            rows = browser.execute_script(_EVERY_ROW)
            print(f"the table that scrolls has {rows:,} rows")
            for name in ("scroll", "zoom", "pan", "instants"):
                took = sorted(browser.execute_async_script(_FRAMES, 240, name))
                slow = took[int(len(took) * 0.99)]
                print(f"{name:9} frames: median {statistics.median(took):5.1f} ms, "
                      f"99 % {slow:5.1f} ms, worst {took[-1]:5.1f} ms")  # fmt: skip


def opening(browser: WebDriver, page: Path) -> float:
    """Seconds from the navigation until the page was drawn and took keys."""
    browser.get("about:blank")
    browser.get(page.as_uri())
    script = "return performance.getEntriesByName('memtrace-ready')[0]?.startTime"
    for _ in range(600):
        found = browser.execute_script(script)
        if found is not None:
            return float(found) / 1000
        time.sleep(0.05)
    raise SystemExit("the page did not open within 30 s")


if __name__ == "__main__":
    main()
