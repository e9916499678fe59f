"""What the sampler left in a spool, as rows: places, devices, and the timeline of the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memtrace.finalise import finalise
from memtrace.finalise import samples as samples_module
from memtrace.sample.sample_file import NAME, Reading, to_line
from spool_writer import SpoolWriter, rows

KEY = "host-1-a"
ORIGIN_NS = 1_000_000
UUID = "01234567-89ab-cdef-0123-456789abcdef"


def converted(trace_dir: Path, readings: list[Reading], **notes: Any) -> list[dict[str, Any]]:
    spool = SpoolWriter(trace_dir, KEY, start=(ORIGIN_NS, ORIGIN_NS))
    log = spool.log()
    for number in range(5):  # at 100, 200, ... 500
        log.alloc(ORIGIN_NS + 100 * (number + 1), 0x1000 * (number + 1), 64)
    spool.process(key=KEY, **notes)
    spool.finish()
    lines = [
        to_line(reading._replace(monotonic_ns=reading.monotonic_ns + ORIGIN_NS))
        for reading in readings
    ]
    (trace_dir / "spool" / f"process={KEY}" / NAME).write_bytes(b"".join(lines))
    finalise(trace_dir)
    return [row for row in rows(trace_dir, "samples") if row["reason"] == "period"]


def host(time_ns: int, value: int) -> Reading:
    return Reading(time_ns, "host", "rss", "rss", value)


def test_a_sample_has_the_place_of_the_next_event(trace_dir: Path) -> None:
    readings = [host(time_ns, 7) for time_ns in (0, 50, 150, 200, 499, 500, 900)]
    found = converted(trace_dir, readings)
    assert [(row["time_ns"], row["seq"]) for row in found] == [
        (0, 0), (50, 0), (150, 1), (200, 2), (499, 4), (500, 5), (900, 5),
    ]  # fmt: skip


@pytest.mark.parametrize("uuid", [UUID, f"GPU-{UUID}", f"GPU-{UUID}".upper()])
def test_gpus_are_known_by_their_uuid(trace_dir: Path, uuid: str) -> None:
    devices = [
        {"device": "cuda:0", "uuid": "another"}, {"device": "cuda:1", "uuid": uuid},
    ]  # fmt: skip
    readings = [
        Reading(10, f"GPU-{UUID}", "nvml", "process", 5),
        Reading(10, "GPU-of-nobody", "nvml", "process", 6),
        Reading(20, "gpu", "nvml", "unavailable", None, "no driver"),
        Reading(30, "container", "cgroup", "usage", 8),
    ]
    found = converted(trace_dir, readings, devices=devices)
    assert [(row["target"], row["metric"], row["value_bytes"], row["text"]) for row in found] == [
        ("cuda:1", "process", 5, None),
        ("cuda:0", "unavailable", None, "no driver"),
        ("cuda:1", "unavailable", None, "no driver"),
        ("container", "usage", 8, None),
    ]


def test_a_device_whose_name_is_not_utf8(trace_dir: Path) -> None:
    reading = Reading(10, UUID, "nvml", "process", 5)
    (found,) = converted(trace_dir, [reading], devices=[{"device": "cuda:\ud800", "uuid": UUID}])
    assert found["target"] == r"cuda:\ud800"


def test_a_program_without_gpus_has_no_rows_of_them(trace_dir: Path) -> None:
    readings = [Reading(20, "gpu", "nvml", "unavailable", None, "no driver")]
    assert converted(trace_dir, readings) == []


def test_samples_from_before_the_recording_are_no_rows(trace_dir: Path) -> None:
    assert len(converted(trace_dir, [host(-5, 1), host(5, 2)])) == 1


def test_the_timeline_of_the_process(trace_dir: Path) -> None:
    devices = [{"device": "cuda:0", "uuid": UUID}]
    readings = [host(10, 5), host(20, 9), host(30, 2), Reading(20, UUID, "nvml", "process", 77)]
    converted(trace_dir, readings, devices=devices)
    timeline = [row for row in rows(trace_dir, "timeline") if row["metric"] == "process"]
    names = ("device", "bin_start_ns", "min_bytes", "max_bytes", "last_bytes")
    assert [tuple(row[name] for name in names) for row in timeline] == [
        ("cpu", 10, 5, 5, 5), ("cpu", 20, 5, 9, 9), ("cpu", 30, 2, 9, 2),
        ("cuda:0", 20, 77, 77, 77),
    ]  # fmt: skip


def test_the_timeline_is_bounded(trace_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "_MOST_BINS", 10)
    values = [(number * 37) % 101 for number in range(200)]
    converted(trace_dir, [host(number, value) for number, value in enumerate(values)])
    timeline = [row for row in rows(trace_dir, "timeline") if row["metric"] == "process"]
    assert len(timeline) == 10
    for row in timeline:
        start = row["bin_start_ns"]
        inside = values[max(start - 1, 0) : start + 20]
        assert (row["min_bytes"], row["max_bytes"]) == (min(inside), max(inside))
        assert row["last_bytes"] == inside[-1]


def test_a_damaged_file_costs_its_samples_and_nothing_else(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir, KEY)
    spool.log().alloc(100, 0x1000, 64)
    spool.finish()
    (trace_dir / "spool" / f"process={KEY}" / NAME).write_bytes(b"\xff\0 garbage;\n" * 99)
    finalise(trace_dir)
    assert len(rows(trace_dir, "events")) == 1
    assert rows(trace_dir, "samples") == []
