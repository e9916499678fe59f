"""Spools of recordings that were paused: what is live after it is what the allocator holds."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finalise.mirror_oracle import FREE, PENDING, Device, Made
from memtrace import _core
from memtrace.finalise import finalise
from spool_writer import LogWriter, SpoolWriter, rows

MIB = 1 << 20


class PausedWriter:
    """Writes what the hook writes of one device, which is paused now and then."""

    def __init__(self, logs: list[LogWriter], device: Device) -> None:
        self.logs, self.log, self.device = logs, logs[0], device
        self.paused = False
        self.written = self.ticks = self.order = 0
        self.told: set[tuple[str, int]] = set()
        self.known: set[int] = set()  # addresses of live blocks that were recorded or listed
        self.expected: list[tuple[str, int, Made | None]] = []  # of each row of events

    def write_on(self) -> None:
        """What has happened since the last time."""
        for made in self.device.made[self.written :]:
            self.written += 1
            is_free = made.action in ("free_requested", "free_completed")
            if self.paused and made.action == "alloc":
                continue
            if self.paused and is_free:
                if (made.action, made.address) in self.told:
                    continue
                self.told.add((made.action, made.address))
            self._event(made.action, made.address, made.size, made.stream)
            if not is_free or made.address in self.known:
                row = made if not self.paused else None
                self.expected.append((made.action, made.address, row))
            if made.action == "alloc":
                self.known.add(made.address)
            elif made.action == "free_completed":
                self.known.discard(made.address)

    def pause(self) -> None:
        self.ticks += 1000
        self.log.mark(self.ticks, "pause")
        self.paused = True
        self.told.clear()

    def resume(self) -> None:
        """The live blocks are listed, then the mark."""
        self.ticks += 1000
        self.log = self.logs[1]  # in a log of their own
        for address, block in self.device.blocks.items():
            if block.state == FREE:
                continue
            units = block.size // 512
            self._listed("preexisting", address, block.requested, reserved=units)
            if address not in self.known:
                self.known.add(address)
                self.expected.append(("preexisting", address, None))
                if block.state == PENDING:
                    self.expected.append(("free_requested", address, None))
            if block.state == PENDING:
                self._listed("free_requested", address, block.requested)
        self.log = self.logs[0]
        self.ticks += 1000
        self.log.mark(self.ticks, "resume")
        self.paused = False

    def sample(self) -> None:
        self.ticks += 10
        for name in ("allocated", "active", "reserved"):
            value = getattr(self.device, name)
            self.log.sample(self.ticks, f"{name}_bytes.current", value, target="cuda:0", device=0)

    def _event(self, action: str, address: int, size: int, stream: int) -> None:
        self.ticks += 1000
        self.order += 1
        more = {"stream": stream, "order": self.order}
        self.log.event(action, self.ticks, address, size, device=0, **more)

    def _listed(self, action: str, address: int, size: int, **more: Any) -> None:
        more["order"] = self.order  # of the last event before
        self.log.event(action, self.ticks, address, size, device=0, **more)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 1 << 32),
    runs=st.lists(st.tuples(st.booleans(), st.integers(0, 40)), min_size=1, max_size=12),
    expandable=st.booleans(),
    max_split=st.sampled_from([-1, 24 << 20]),
)
def test_what_is_live_after_a_pause_is_what_the_allocator_holds(
    tmp_path: Path, seed: int, runs: list[tuple[bool, int]], expandable: bool, max_split: int
) -> None:
    device = Device(Random(seed), expandable=expandable, divisions=0, max_split=max_split)
    trace_dir = tmp_path / f"{len(list(tmp_path.iterdir()))}.memtrace"
    spool = SpoolWriter(trace_dir)
    spool.process(devices=[{"device": "cuda:0", "total_bytes": 1 << 34}])
    writer = PausedWriter([spool.log(), spool.log()], device)
    writer.log.mark(1, "settings", text=json.dumps(device.settings()))
    for pause, steps in [*runs, (False, 5)]:
        if pause != writer.paused:
            writer.pause() if pause else writer.resume()
        writer.sample()  # in a pause it says more than is recorded
        for _ in range(steps):
            device.step()
            writer.write_on()
    writer.sample()
    path = spool.finish()
    conversion = _core.Conversion(_core.SpoolReader(str(path)))
    while not conversion.finished:
        conversion.advance()
    layout = conversion.layout().get("cuda:0", [])
    assert {address: (size, state != 0) for _, address, size, state, _ in layout} == {
        address: (block.size, block.state != FREE) for address, block in device.blocks.items()
    }
    finalise(trace_dir)

    events = rows(trace_dir, "events")
    assert [(row["action"], row["address"]) for row in events] == [
        expected[:2] for expected in writer.expected
    ]
    for row, (_, _, made) in zip(events, writer.expected, strict=True):
        if made is not None:
            for name in ("allocated", "active", "reserved"):
                assert row[f"{name}_bytes"] == getattr(made, name), (name, row)
    (process,) = rows(trace_dir, "processes")
    lost = json.loads(process["lost_events"])
    assert (process["lost_total"], process["unmatched_frees"]) == (0, 0)
    assert (lost["missed_frees"], lost["mirror_inconsistencies"]) == (0, 0)
    assert process["reconciled"] in (True, None if not device.made else True)
    assert process["mismatch_bytes"] in (0, None)


def test_the_peak_of_a_pause_is_told_where_it_is_higher_than_before(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()

    def peaks(ticks: int, first: int, second: int, reason: str) -> None:
        for device, value in enumerate((first, second)):
            name, target = "allocated_bytes.peak", f"cuda:{device}"
            log.sample(ticks, name, value, target=target, device=device, reason=reason)

    peaks(10, 4096, 512, "pause")
    log.mark(20, "pause")
    peaks(30, 5000, 512, "mark")
    log.mark(40, "resume")
    peaks(50, 6000, 512, "resume")
    peaks(60, 9000, 9000, "mark")
    log.mark(70, "pause")
    log.mark(80, "reset_peak", device=1)
    spool.finish()
    finalise(trace_dir)
    (process,) = rows(trace_dir, "processes")
    assert json.loads(process["paused_peaks"]) == {"cuda:0": 6000}
    (first, last) = json.loads(process["paused_intervals"])
    assert (first[1] - first[0], last[1]) == (20, None)


def test_frees_of_a_pause_are_recorded_and_unknown_ones_are_none(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    log.alloc(10, 0x1000, 64)
    log.mark(20, "pause")
    log.free(30, 0x1000)
    log.free(40, 0x2000)
    log.mark(50, "resume")
    log.free(60, 0x3000)
    spool.finish()
    finalise(trace_dir)
    (allocation,) = rows(trace_dir, "allocations")
    (process,) = rows(trace_dir, "processes")
    assert allocation["free_time_ns"] - allocation["alloc_time_ns"] == 20
    assert process["unmatched_frees"] == 1
    assert [row["action"] for row in rows(trace_dir, "events")] == [
        "alloc", "free_requested", "free_requested",
    ]  # fmt: skip


def test_cpu_memory_found_after_a_pause_was_not_there_before(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()

    def note(ticks: int, address: int, name: str) -> None:
        spool.tensor(
            ticks=ticks, address=address, bytes=64, device="cpu", name=name, kind="weight",
            memory=None, root="M", root_id=0, offset_bytes=0, shape=[16], dtype="float32",
        )  # fmt: skip

    log.alloc(10, 0x9000, 64)
    note(15, 0x1000, "early")
    log.mark(20, "pause")
    log.mark(30, "resume")
    note(40, 0x2000, "late")
    log.alloc(50, 0x8000, 64)
    spool.finish()
    finalise(trace_dir)
    found = {row["address"]: row for row in rows(trace_dir, "allocations")}
    assert {found[place]["origin"] for place in (0x1000, 0x2000)} == {"preexisting"}
    assert found[0x1000]["alloc_seq"] < found[0x9000]["alloc_seq"]
    assert found[0x9000]["alloc_seq"] < found[0x2000]["alloc_seq"] < found[0x8000]["alloc_seq"]
