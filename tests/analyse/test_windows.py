"""Peaks of stretches of events, against looking at every event."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np

from memtrace.analyse.windows import END, read_windows
from memtrace.trace import open_trace
from trace_builder import TraceBuilder


def test_any_windows_of_two_devices(tmp_path: Path) -> None:
    random = Random(3)
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    live = []
    for _ in range(300):
        device = random.choice(["cpu", "cuda:0"])
        if live and random.random() < 0.5:
            process.free(live.pop(random.randrange(len(live))))
        else:
            live.append(process.alloc(device, random.randrange(1, 5000)))
    trace = open_trace(builder.write(rows_per_group=37))
    last = process.seq + 1
    pairs = [sorted(random.choices(range(last + 1), k=2)) for _ in range(60)]
    pairs += [[0, END], [last, END], [5, 5], [0, 0]]
    for device in ("cpu", "cuda:0"):
        events = [row for row in process.rows["events"] if row["device"] == device]
        windows = read_windows(
            trace, process.key, ["cpu", "cuda:0"], [END, *(cut for pair in pairs for cut in pair)]
        )[device]
        starts, ends = np.array(pairs, np.int64).T
        many = windows.peaks(starts, ends)
        for number, (start, end) in enumerate(pairs):
            before = [row for row in events if row["seq"] < start][-1:]
            inside = [row for row in events if start <= row["seq"] < end]
            values = [row["allocated_bytes"] for row in [*before, *inside]]
            most = max(values, default=0)
            if not before:
                most = max(most, 0)
            peak = windows.peak(start, end)
            assert peak.allocated_bytes == many[number] == most
            standing = before[0]["allocated_bytes"] if before else 0
            assert windows.before(start).allocated_bytes == standing
            if most > standing:
                first = next(row for row in inside if row["allocated_bytes"] == most)
                assert (peak.seq, peak.time_ns) == (first["seq"], first["time_ns"])
                assert peak.active_bytes == first["active_bytes"]
                assert peak.reserved_bytes == first["reserved_bytes"]
            else:
                assert (peak.seq, peak.time_ns) == (start - 1, None)


def test_a_device_without_events_holds_nothing(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cpu", 8)
    trace = open_trace(builder.write())
    windows = read_windows(trace, process.key, ["cuda:0"], [0, END])["cuda:0"]
    assert windows.peak(0, END).allocated_bytes == 0
    assert list(windows.peaks(np.array([0]), np.array([END]))) == [0]
    assert list(windows.peaks(np.zeros(0, np.int64), np.zeros(0, np.int64))) == []
