"""The timeline of several processes and devices: bounded, and what the events say, bin by bin."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq

from memtrace.finalise import finalise
from spool_writer import CPU, LogWriter, SpoolWriter

EVENTS = 60_000
MIB = 1 << 20
METRICS = ("allocated", "active", "reserved")


def use(log: LogWriter, device: int | None, random: Random) -> None:
    """Allocations of random sizes, at most 64 at a time, with a pause now and then."""
    ticks, order = 10, 0
    live: list[int] = []

    def event(action: str, address: int, size: int) -> None:
        nonlocal ticks, order
        ticks += random.randrange(1, 2000) if random.random() < 0.999 else 50_000_000
        order += 1
        log.event(action, ticks, address, size, device=device, order=0 if device is CPU else order)

    base = (8 + (device or 0)) << 40
    if device is not CPU:
        order += 1
        log.event("segment_alloc", 5, base, 512 * MIB, device=device, order=order)
    free = [base + i * 4 * MIB for i in range(64)]
    for _ in range(EVENTS):
        if free and (not live or random.random() < 0.5):
            live.append(free.pop(random.randrange(len(free))))
            event("alloc", live[-1], random.randrange(1, 4 * MIB))
        else:
            address = live.pop(random.randrange(len(live)))
            free.append(address)
            event("free_requested", address, 0)
            if device is not CPU:
                event("free_completed", address, 0)


def test_several_processes_and_devices(tmp_path: Path) -> None:
    trace_dir = tmp_path / "t.memtrace"
    used: dict[str, tuple[int | None, ...]] = {"host-1-a": (CPU, 0, 1), "host-2-a": (0,)}
    for key, devices in used.items():
        spool = SpoolWriter(trace_dir, key)
        for number, device in enumerate(devices):
            use(spool.log(), device, Random(f"{key} {number}"))
        spool.finish()
    finalise(trace_dir)
    for key, devices in used.items():
        timeline = [row for row in read(trace_dir, "timeline", key) if row["metric"] != "category"]
        names = {"cpu" if device is CPU else f"cuda:{device}" for device in devices}
        assert {(row["device"], row["metric"]) for row in timeline} == {
            (name, metric)
            for name in names
            for metric in METRICS
            if name != "cpu" or metric == "allocated"
        }
        assert all(row["key"] is None for row in timeline)
        events = read(trace_dir, "events", key)
        for name in names:
            rows = [row for row in timeline if row["device"] == name]
            assert 500 < len(rows) <= 100_000
            of_device = [row for row in events if row["device"] == name]
            for metric in METRICS if name != "cpu" else METRICS[:1]:
                check([row for row in rows if row["metric"] == metric], of_device, metric)


def read(trace_dir: Path, dataset: str, key: str) -> list[dict[str, Any]]:
    (file,) = (trace_dir / dataset / f"process={key}").iterdir()
    rows: list[dict[str, Any]] = pq.ParquetFile(file).read().to_pylist()
    return rows


def check(bins: list[dict[str, Any]], events: list[dict[str, Any]], metric: str) -> None:
    """Every bin has the extremes and the last value of the events in it, and what stood before."""
    starts = [row["bin_start_ns"] for row in bins]
    assert starts == sorted(set(starts))
    ends = [*starts[1:], events[-1]["time_ns"] + 1]
    place, last = 0, 0
    for row, end in zip(bins, ends, strict=True):
        values = [last]
        while place < len(events) and events[place]["time_ns"] < end:
            assert events[place]["time_ns"] >= row["bin_start_ns"]
            values.append(events[place][f"{metric}_bytes"])
            place += 1
        last = values[-1]
        assert len(values) > 1, "a bin in which nothing happened"
        assert (row["min_bytes"], row["max_bytes"], row["last_bytes"]) == (
            min(values), max(values), last,
        )  # fmt: skip
    assert place == len(events)
