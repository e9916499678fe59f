"""The tests of test_real_gpu.py without pytest, for a machine that has only torch and memtrace.

    python tests/gpu/run_all.py [PART_OF_A_NAME...] [--jobs N] [--keep FOLDER]

--jobs: so many at a time; what is compared are counts and sizes, no times. --keep: each trace, and
what torch said of the same run, into the folder (tests/gpu/kept.py reads them).
Status 1 when anything differs or nothing could be run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from exact.comparison import devices, events_of, recorded_by_memtrace, recorded_by_torch
from exact.recording import Recording
from gpu.cases import Case, Comparison, cases, unavailable
from gpu.kept import keep


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wanted", nargs="*", metavar="PART_OF_A_NAME", help="default: all")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    reason = unavailable()
    if reason:
        print(reason)
        return 1
    chosen = [
        case
        for case in cases()
        if not options.wanted or any(word in str(case) for word in options.wanted)
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda case: _told(case, options.keep), chosen))
    passed, failed = results.count(True), results.count(False)
    print(f"{passed} passed, {failed} failed, {results.count(None)} not run")
    return 1 if failed or not passed else 0


def _told(case: Case, kept: Path | None) -> bool | None:
    """Runs one case and prints what came of it; None: this machine cannot."""
    if case.lacks:
        print(f"not run  {case}: {case.lacks}", flush=True)
        return None
    start_s = time.monotonic()
    wrong = failures(case, kept)
    lines = [f"{'FAILED' if wrong else 'passed':<8} {case} in {time.monotonic() - start_s:.1f} s"]
    print("\n         ".join(lines + wrong), flush=True)
    return not wrong


def failures(case: Case, kept: Path | None = None) -> list[str]:
    """What differs, a line each; empty when all is exact."""
    with tempfile.TemporaryDirectory(prefix="memtrace-gpu-") as folder:
        try:
            run = case.record(Path(folder))
        except Exception:
            return traceback.format_exc().splitlines()
        if kept:
            keep(run, kept / f"{case}.zip")
        return [line for compare in case.comparisons for line in _difference(compare, run)]


def _difference(compare: Comparison, run: Recording) -> list[str]:
    try:
        compare(run)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{compare.__name__}: {type(error).__name__} {error} at line {frame.lineno}: "
        return [line + (frame.line or ""), *_first_divergence(run)]
    return []


def _first_divergence(run: Recording) -> list[str]:
    if "traces" not in run.torch:
        return []
    lines = []
    for device in devices(run):
        ours = recorded_by_memtrace(events_of(run, device))
        theirs = recorded_by_torch(run, device)
        pairs = enumerate(zip(ours, theirs))  # noqa: B905  # strict= would hide the lengths
        where = next((i for i, (one, other) in pairs if one != other), None)
        if where is not None or len(ours) != len(theirs):
            at = min(len(ours), len(theirs)) if where is None else where
            lines.append(
                f"cuda:{device}: event {at} of {len(ours)} and {len(theirs)}: "
                f"memtrace {ours[at : at + 1]}, torch {theirs[at : at + 1]}"
            )
    return lines


if __name__ == "__main__":
    sys.exit(main())
