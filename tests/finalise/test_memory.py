"""The finaliser's memory is bounded by what is live, never by the number of events."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "finalise" / "throughput.py"
_spec = importlib.util.spec_from_file_location("throughput", BENCHMARK)
assert _spec is not None
assert _spec.loader is not None
throughput = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(throughput)

_MORE_MIB = 40  # the spool of the events that are more has 100 MiB


def peak_mib(trace_dir: Path, events: int) -> int:
    throughput.write_spool(trace_dir, events)
    found = re.search(r"peak RSS (\d+) MiB", throughput.measure(trace_dir))
    assert found is not None
    return int(found[1])


def test_memory_does_not_grow_with_the_events(tmp_path: Path) -> None:
    few = peak_mib(tmp_path / "few.memtrace", 1_000_000)
    many = peak_mib(tmp_path / "many.memtrace", 2_000_000)
    assert many <= few + _MORE_MIB, (few, many)
