"""The follower beside the finaliser: whatever the events, and wherever one looks in between."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finalise.mirror_oracle import Device
from live.finished_figures import FinishedFigures
from memtrace.analyse.live_view import (
    ENDED,
    FINISHED,
    GONE,
    KILLED,
    PAUSED,
    RECORDING,
    REFUSED,
    STARTING,
    ProcessView,
)
from memtrace.finalise import finalise
from memtrace.live.follow import TraceFollower, chosen
from memtrace.report.live import state_text
from spool_writer import LogWriter, SpoolWriter, Writer, rows

_SETTINGS = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_OPERATORS = ("aten::mm", "aten::add", "aten::empty", "")
_KINDS = ("weight", "gradient", "input", "output", "label")


class Growing:
    """A spool that is written bit by bit; its clock is none of ours, so that all is settled."""

    def __init__(self, trace_dir: Path, chunk_records: int, logs: int) -> None:
        self.spool = SpoolWriter(
            trace_dir,
            chunk_bytes=64 * (chunk_records + 1),
            end=None,
            exit_status=None,
            pid=os.getpid(),  # a process that runs
            writer=Writer.this_process(),
        )
        self.logs = [self.spool.log() for _ in range(logs)]
        self._appended: list[tuple[int, int]] = []

    def publish(self) -> None:
        """As a recorder leaves it: full chunks are appended, the last of each log is a window."""
        chunks = {
            struct.unpack_from("<IQ", chunk, 4): chunk.ljust(self.spool.chunk_bytes, b"\0")
            for chunk in self.spool.chunks()
        }
        windows = dict(sorted(chunks)).items()  # log -> its last chunk
        self._appended += sorted(set(chunks) - set(self._appended) - set(windows))
        path = self.spool.path
        path.mkdir(parents=True, exist_ok=True)
        (path / "control.bin").write_bytes(self.spool.control())
        (path / "records.bin").write_bytes(b"".join(chunks[at] for at in self._appended))
        (path / "windows.bin").write_bytes(b"".join(chunks[at] for at in windows))
        (path / "text.log").write_bytes(bytes(self.spool.text))

    def close(self, trace_dir: Path) -> None:
        """The same spool again, closed in order: what a finaliser converts."""
        shutil.rmtree(trace_dir, ignore_errors=True)
        closed = SpoolWriter(trace_dir, chunk_bytes=self.spool.chunk_bytes)
        closed._logs, closed.text = self.spool._logs, self.spool.text
        closed.finish()


def look(follower: TraceFollower) -> ProcessView:
    (process,) = follower.refresh(points=20, most_s=10).processes
    return process


def fresh(tmp_path: Path) -> Path:
    return tmp_path / f"{len(list(tmp_path.iterdir()))}.memtrace"


@_SETTINGS
@given(
    seed=st.integers(0, 1 << 32),
    steps=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    threads=st.integers(1, 4),
    expandable=st.booleans(),
    chunk_records=st.sampled_from([2, 7, 100]),
)
def test_cuda_figures_at_any_moment_are_the_finalisers(
    tmp_path: Path, seed: int, steps: list[int], threads: int, expandable: bool, chunk_records: int
) -> None:
    random = Random(seed)
    device = Device(random, expandable=expandable, divisions=0, max_split=-1)
    trace_dir = fresh(tmp_path)
    growing = Growing(trace_dir, chunk_records, threads)
    growing.spool.process(devices=[{"device": "cuda:0", "total_bytes": 1 << 34}])
    growing.logs[0].mark(1, "settings", text=json.dumps(device.settings()))
    growing.publish()
    follower = TraceFollower(trace_dir)
    clocks = [1000] * threads
    views: list[ProcessView] = []
    done = 0
    for more in steps:
        for _ in range(more):
            device.step()
        for order, made in enumerate(device.made[done:], done + 1):
            thread = random.randrange(threads)
            ticks = clocks[thread] = max(clocks[thread], 1000 * order + random.randint(-300, 300))
            growing.logs[thread].event(
                made.action, ticks, made.address, made.size, device=0, stream=made.stream,
                order=order, op=random.choice(_OPERATORS),
            )  # fmt: skip
        done = len(device.made)
        growing.publish()
        views.append(look(follower))
        assert views[-1].events == done
    growing.close(trace_dir)
    finalise(trace_dir)
    figures = FinishedFigures(trace_dir, "cuda:0")
    for view in views:
        shown = view.device("cuda:0")
        if shown is not None:
            figures.check(shown, view.events, by=["operator"])
            assert shown.total_bytes == 1 << 34


def random_cpu_event(random: Random, log: LogWriter, ticks: int, live: dict[int, int]) -> bool:
    """False: what was written was no event."""
    address = 4096 * random.randint(1, 12)
    action = random.choice(["alloc", "alloc", "free", "tensor", "external"])
    if action == "alloc":
        live[address] = random.randint(1, 4000)
        op = random.choice(_OPERATORS)
        log.alloc(ticks, address, live[address], op=op, stack=1 if random.random() < 0.5 else 0)
    elif action == "free":
        live.pop(address, None)
        log.free(ticks, address)
    elif action == "external":
        log.event("external", ticks, 1 << 40 | address, random.randint(1, 4000), pool=3)
    else:
        log.tensor(ticks, address, "h.0.fc.weight", random.choice(_KINDS), "float32 1")
        return False
    return True


@_SETTINGS
@given(
    seed=st.integers(0, 1 << 32),
    steps=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    threads=st.integers(1, 4),
    chunk_records=st.sampled_from([2, 7, 100]),
)
def test_cpu_figures_at_any_moment_are_the_finalisers(
    tmp_path: Path, seed: int, steps: list[int], threads: int, chunk_records: int
) -> None:
    random = Random(seed)
    trace_dir = fresh(tmp_path)
    growing = Growing(trace_dir, chunk_records, threads)
    growing.spool.stack([("forward", "/home/me/model.py", 12, 0)])
    growing.publish()
    follower = TraceFollower(trace_dir)
    live: dict[int, int] = {}
    views: list[ProcessView] = []
    ticks = events = 0
    for more in steps:
        for _ in range(more):
            ticks += 10
            events += random_cpu_event(random, random.choice(growing.logs), ticks, live)
        growing.publish()
        views.append(look(follower))
        assert views[-1].events == events
    growing.close(trace_dir)
    finalise(trace_dir)
    figures = FinishedFigures(trace_dir, "cpu")
    for view in views:
        shown = view.device("cpu")
        if shown is not None and shown.peak_bytes:
            figures.check(shown, view.events, by=["operator", "source"])
            assert sum(h.now_bytes for h in shown.holders["category"]) == shown.allocated_bytes
            assert sum(h.peak_bytes for h in shown.holders["category"]) == shown.peak_bytes
    if views[-1].devices and views[-1].devices[0].peak_bytes:
        figures.check(views[-1].devices[0], events, by=["category", "module"])


# ---- how a recording goes on and ends --------------------------------------------------------


def test_it_is_followed_from_its_first_moment(tmp_path: Path) -> None:
    trace_dir = tmp_path / "t.memtrace"
    (trace_dir / "spool").mkdir(parents=True)
    follower = TraceFollower(trace_dir)
    assert follower.refresh(points=1, most_s=1).processes == ()
    (trace_dir / "spool" / "process=host-1-a").mkdir()
    assert look(follower).state in (STARTING, REFUSED)


def test_a_pause_is_told_and_what_is_live_after_it(tmp_path: Path) -> None:
    growing = Growing(tmp_path, 100, 1)
    follower = TraceFollower(tmp_path)
    (log,) = growing.logs

    def cuda(action: str, ticks: int, place: int, size: int, order: int, units: int = 0) -> None:
        address = (1 << 40) + (place << 20)
        log.event(action, ticks, address, size, device=0, order=order, reserved=units)

    def state(state: str, allocated: int) -> None:
        growing.publish()
        view = look(follower)
        figures = view.device("cuda:0")
        assert figures is not None
        assert (view.state, figures.allocated_bytes) == (state, allocated)

    cuda("segment_alloc", 10, 0, 20 << 20, 1)
    cuda("alloc", 20, 0, 2 << 20, 2)
    cuda("alloc", 30, 2, 3 << 20, 3)
    state(RECORDING, 5 << 20)
    log.mark(40, "pause")
    cuda("free_requested", 50, 0, 2 << 20, 4)
    cuda("free_completed", 60, 0, 2 << 20, 5)
    cuda("free_requested", 70, 9, 1 << 20, 6)  # of the pause
    state(PAUSED, 3 << 20)
    cuda("preexisting", 80, 2, 3 << 20, 6, 6144)  # known
    cuda("preexisting", 80, 5, 4 << 20, 6, 8192)
    log.mark(90, "resume")
    state(RECORDING, 7 << 20)


def test_a_name_that_comes_later_is_told_of_what_is_there(tmp_path: Path) -> None:
    trace_dir = tmp_path / "t.memtrace"
    growing = Growing(trace_dir, 100, 1)
    (log,) = growing.logs
    module = growing.spool.module("Linear")
    stack = growing.spool.stack([("forward", "/home/me/model.py", 12, module)])
    log.alloc(10, 0x1000, 100, stack=stack)
    growing.publish()
    follower = TraceFollower(trace_dir)
    assert [h.name for h in look(follower).devices[0].holders["module"]] == ["Linear"]
    root = growing.spool.module("Model", path="")
    payload = root.to_bytes(4, "little") + b"encoder.fc"
    growing.spool.write_text("module_path", module, payload)
    growing.publish()
    (held,) = look(follower).devices[0].top("module")
    assert (held.name, held.now_bytes, held.peak_bytes) == ("encoder.fc", 100, 100)


def test_a_marked_step_is_told_by_its_name(tmp_path: Path) -> None:
    trace_dir = tmp_path / "t.memtrace"
    growing = Growing(trace_dir, 100, 1)
    (log,) = growing.logs
    follower = TraceFollower(trace_dir)
    log.note("step_begin", 10, "", value=5, text='{"name": "POST /raw/4", "kind": "request"}')
    log.note("in_step", 11, "", value=5)
    log.note("step_begin", 20, "Model", value=6, value2=5, text="{}")
    log.alloc(21, 0x1000, 100)
    growing.publish()
    view = look(follower)
    assert (view.step, view.step_name, view.step_running) == (5, "POST /raw/4", True)
    assert view.devices[0].allocated_bytes == 100
    log.note("step_end", 30, "", value=6)
    log.note("step_end", 40, "POST /raw/{id}", value=5)
    growing.publish()
    view = look(follower)
    assert (view.step, view.step_name, view.step_running) == (5, "POST /raw/{id}", False)


def test_stages_and_steps_are_told_as_they_come(tmp_path: Path) -> None:
    trace_dir = tmp_path / "t.memtrace"
    growing = Growing(trace_dir, 100, 1)
    (log,) = growing.logs
    follower = TraceFollower(trace_dir)
    log.note("stage_begin", 10, "warmup", value=1, text="user")
    log.note("step_begin", 20, "Model", value=1, text="{}")
    growing.publish()
    view = look(follower)
    assert (view.stage, view.step, view.step_name, view.step_running) == (
        "warmup", 1, "Model", True,
    )  # fmt: skip
    log.note("step_end", 30, "Model", value=1)
    # `with stage(...)`: first it looks like a plain one.
    log.note("stage_begin", 40, "load", value=2, text="user")
    log.note("stage_begin", 41, "load", value=2, text="scope")
    growing.publish()
    view = look(follower)
    assert (view.stage, view.step, view.step_running) == ("load", 1, False)
    log.note("stage_end", 50, "load", value=2)
    growing.publish()
    assert look(follower).stage == "warmup"


def test_losses_and_failed_allocations_are_told(tmp_path: Path) -> None:
    trace_dir = tmp_path / "t.memtrace"
    growing = Growing(trace_dir, 100, 1)
    growing.spool.lost[0] = 5
    growing.logs[0].alloc(10, 0x1000, 100, device=0, order=1)
    growing.logs[0].event("oom", 20, 0, 1 << 40, device=0, order=2)
    growing.publish()
    view = look(TraceFollower(trace_dir))
    assert view.lost == (("event_no_space", 5),)
    assert view.devices[0].ooms == 1


def test_memory_that_was_there_before_is_in_the_peak(tmp_path: Path) -> None:
    trace_dir = tmp_path / "t.memtrace"
    growing = Growing(trace_dir, 100, 1)
    (log,) = growing.logs
    follower = TraceFollower(trace_dir)
    log.alloc(10, 0x1000, 1000)
    log.free(20, 0x1000)
    growing.publish()
    assert look(follower).devices[0].peak_bytes == 1000
    growing.spool.tensor(ticks=30, address=0x9000, bytes=500, device="cpu", name="w", kind="weight")
    log.alloc(40, 0x2000, 10)
    growing.publish()
    view = look(follower)
    growing.close(trace_dir)
    finalise(trace_dir)
    events = rows(trace_dir, "events")
    (shown,) = view.devices
    assert shown.peak_bytes == max(event["allocated_bytes"] for event in events) == 1500
    assert shown.allocated_bytes == events[-1]["allocated_bytes"] == 510
    assert {h.name: h.peak_bytes for h in shown.holders["category"]} == {None: 1000, "weight": 500}
    assert shown.allocated_curve[0] >= 500


@pytest.mark.parametrize(
    ("end", "exit_status", "state"),
    [((1 << 40, 1 << 40), 0, ENDED), (None, None, KILLED), (None, 1, ENDED)],
)
def test_the_end_of_a_recording(
    tmp_path: Path, end: tuple[int, int] | None, exit_status: int | None, state: str
) -> None:
    trace_dir = tmp_path / "t.memtrace"
    spool = SpoolWriter(trace_dir, end=end, exit_status=exit_status)
    spool.log().alloc(10, 0x1000, 100)
    path = spool.finish()
    follower = TraceFollower(trace_dir)
    view = follower.refresh(points=1, most_s=1)
    (process,) = view.processes
    assert (process.state, process.devices[0].allocated_bytes) == (state, 100)
    text, _ = state_text(view, process)
    assert ("memtrace recover" in text) == (state == KILLED)
    # The finaliser is done: what was seen stays, and the finished trace is pointed at.
    shutil.rmtree(path)
    assert look(follower).state == GONE
    (trace_dir / "processes" / "process=host-1-start").mkdir(parents=True)
    (trace_dir / "processes" / "process=host-1-start" / "part-0.parquet").touch()
    view = follower.refresh(points=1, most_s=1)
    (process,) = view.processes
    assert (process.state, process.devices[0].allocated_bytes) == (FINISHED, 100)
    assert "memtrace summary" in state_text(view, process)[0]


def test_a_spool_that_vanishes_is_read_to_its_end(tmp_path: Path) -> None:
    trace_dir = tmp_path / "t.memtrace"
    growing = Growing(trace_dir, 3, 1)
    growing.logs[0].alloc(10, 0x1000, 1)
    growing.publish()
    follower = TraceFollower(trace_dir)
    assert look(follower).events == 1
    for number in range(2, 40):
        growing.logs[0].alloc(10 * number, 0x1000 * number, 1)
    growing.publish()
    shutil.rmtree(growing.spool.path)
    assert look(follower).devices[0].allocated_bytes == 39


def test_a_spool_of_a_newer_memtrace_is_refused_in_a_line(tmp_path: Path) -> None:
    trace_dir = tmp_path / "t.memtrace"
    SpoolWriter(trace_dir, version=99).finish()
    view = TraceFollower(trace_dir).refresh(points=1, most_s=1)
    (process,) = view.processes
    assert process.state == REFUSED
    assert "upgrade memtrace" in state_text(view, process)[0]


def test_a_process_is_chosen_by_pid_or_key(tmp_path: Path) -> None:
    trace_dir = tmp_path / "t.memtrace"
    for number in (1, 2):
        spool = SpoolWriter(trace_dir, f"host-{number}-a")
        spool.log().alloc(10, 0x1000, number)
        spool.process(pid=number, rank=2 - number, argv=["train.py", f"--part={number}"])
        spool.finish()
    view = TraceFollower(trace_dir).refresh(points=1, most_s=1)
    assert [process.rank for process in view.processes] == [0, 1]
    for which in ("2", "host-2-a"):
        (process,) = chosen(view, process=which, device=None).processes
        assert (process.pid, process.program) == (2, "train.py --part=2")
