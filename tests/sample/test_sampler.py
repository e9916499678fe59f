"""The sampler on real processes: those it may see, those that die, stop, or are not ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from memtrace import _core
from memtrace.sample import process
from memtrace.sample import sampler as sampler_module
from memtrace.sample.nvml import NvmlError
from memtrace.sample.sample_file import NAME, read_samples
from memtrace.sample.sampler import Sampler

MIB = 1 << 20
RECORDS = """
import sys
from memtrace import _core
recorder = _core.Recorder(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    held = bytearray(b"x" * int(line))
    print("held", flush=True)
"""


class Child:
    """A process that writes a spool, and holds as many bytes as it is told."""

    def __init__(self, trace: Path, key: str) -> None:
        self.spool = trace / "spool" / f"process={key}"
        self.spool.mkdir(parents=True)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-c", RECORDS, str(self.spool)], stdin=pipe, stdout=pipe
        )
        self._answer(b"ready\n")

    def hold(self, size_bytes: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"%d\n" % size_bytes)
        self.process.stdin.flush()
        self._answer(b"held\n")

    def _answer(self, expected: bytes) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == expected

    def end(self) -> None:
        self.process.kill()
        self.process.send_signal(signal.SIGCONT)
        self.process.communicate()

    def samples(self, metric: str) -> list[int | None]:
        return [r.value_bytes for r in read_samples(str(self.spool)) if r.metric == metric]


@pytest.fixture
def children(tmp_path: Path) -> Iterator[list[Child]]:
    made: list[Child] = []
    yield made
    for child in made:
        child.end()


def steps(sampler: Sampler, seconds: float) -> int:
    end_s = time.monotonic() + seconds
    taken = 0
    while time.monotonic() < end_s:
        time.sleep(sampler.step())
        taken += 1
    return taken


def test_a_child_that_grows(tmp_path: Path, children: list[Child]) -> None:
    children.append(Child(tmp_path, "host-1-a"))
    sampler = Sampler(str(tmp_path))
    steps(sampler, 0.5)
    before = children[0].samples("rss")
    children[0].hold(200 * MIB)
    steps(sampler, 0.5)
    after = children[0].samples("rss")
    assert len(before) >= 2
    assert len(after) > len(before)
    assert after[-1] is not None
    assert before[-1] is not None
    assert 199 * MIB < after[-1] - before[-1] < 210 * MIB
    assert children[0].samples("pss")
    times = [r.monotonic_ns for r in read_samples(str(children[0].spool))]
    assert times == sorted(times)
    sampler.close()


def test_children_that_come_and_go(tmp_path: Path, children: list[Child]) -> None:
    sampler = Sampler(str(tmp_path))
    assert sampler.step() >= sampler_module.PERIOD_S  # there is not even a spool
    for number in range(12):
        children.append(Child(tmp_path, f"host-{number}-a"))
        sampler.step()
    children[3].end()
    time.sleep(0.15)
    sampler.step()
    gone = len(children[3].samples("rss"))
    steps(sampler, 0.4)
    assert len(children[3].samples("rss")) == gone >= 1
    assert all(len(child.samples("rss")) >= 2 for child in children if child is not children[3])
    open_before = len(os.listdir("/proc/self/fd"))
    sampler.close()
    assert len(os.listdir("/proc/self/fd")) == open_before - 2 * 11


def test_a_stopped_program_is_sampled(tmp_path: Path, children: list[Child]) -> None:
    children.append(Child(tmp_path, "host-1-a"))
    children[0].process.send_signal(signal.SIGSTOP)
    sampler = Sampler(str(tmp_path))
    assert steps(sampler, 0.4) >= 2
    assert len(children[0].samples("rss")) >= 2
    sampler.close()


def test_a_zombie_has_no_samples(tmp_path: Path, children: list[Child]) -> None:
    children.append(Child(tmp_path, "host-1-a"))
    sampler = Sampler(str(tmp_path))
    sampler.step()
    children[0].process.kill()
    os.waitid(os.P_PID, children[0].process.pid, os.WEXITED | os.WNOWAIT)
    time.sleep(0.15)
    sampler.step()
    assert len(children[0].samples("rss")) == 1
    assert 0 not in children[0].samples("rss")
    sampler.close()


def test_a_process_of_which_it_is_not_known_who_it_is(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    children.append(Child(tmp_path, "host-1-a"))
    monkeypatch.setattr(_core, "writer_pid", lambda spool: 0)
    sampler = Sampler(str(tmp_path))
    for _ in range(20):
        sampler.step()
    assert not (children[0].spool / NAME).exists()
    sampler.close()


def test_another_process_of_the_same_number(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    children.append(Child(tmp_path, "host-1-a"))
    answers = iter([children[0].process.pid, 0])  # it ended as its folder was opened
    monkeypatch.setattr(_core, "writer_pid", lambda spool: next(answers, 0))
    sampler = Sampler(str(tmp_path))
    sampler.step()
    assert not (children[0].spool / NAME).exists()
    sampler.close()


def test_files_of_the_process_that_may_not_be_read(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    children.append(Child(tmp_path, "host-1-a"))
    read = process.read

    def refused(name: str, folder: int | None = None, **kwargs: int) -> bytes:
        if name in ("smaps_rollup", "maps"):
            raise PermissionError(name)
        return read(name, folder, **kwargs)

    monkeypatch.setattr(process, "read", refused)
    sampler = Sampler(str(tmp_path))
    steps(sampler, 0.3)
    assert len(children[0].samples("rss")) >= 2
    assert children[0].samples("pss") == []
    sampler.close()


def test_a_full_disk_costs_samples_and_nothing_else(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    children.append(Child(tmp_path, "host-1-a"))
    sampler = Sampler(str(tmp_path))
    sampler.step()
    write = os.write
    # In the middle of a number, which must not go on in the next line.
    room = b" host rss rss "
    monkeypatch.setattr(
        os, "write", lambda fd, data: write(fd, data[: data.index(room) + len(room) + 3])
    )
    time.sleep(0.15)
    sampler.step()
    monkeypatch.setattr(os, "write", write)
    time.sleep(0.15)
    sampler.step()
    values = children[0].samples("rss")
    assert len(values) == 2
    assert all(value is not None and MIB < value < 200 * MIB for value in values)
    sampler.close()


def test_it_takes_ever_longer_pauses(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    children.append(Child(tmp_path, "host-1-a"))
    clock_s = [1000.0]
    monkeypatch.setattr(sampler_module, "monotonic", lambda: clock_s[0])
    sampler = Sampler(str(tmp_path))
    taken = {}
    for hours in (1 / 60, 1, 24):
        while clock_s[0] < 1000 + hours * 3600:
            clock_s[0] += sampler.step()
        taken[hours] = len(children[0].samples("rss"))
    assert 400 < taken[1 / 60] < 650
    assert 2000 < taken[1] < 3500
    assert 3500 < taken[24] < 6000
    assert len(children[0].samples("pss")) < taken[24] / 8
    sampler.close()


def test_what_takes_its_time_is_done_less_often(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    children.append(Child(tmp_path, "host-1-a"))
    clock_s = [1000.0]
    cheap_s: list[float] = []
    dear_s: list[float] = []
    resident, shares = process.resident_bytes, process.share_bytes

    def slow(folder: int) -> int:
        cheap_s.append(clock_s[0])
        clock_s[0] += 0.02
        return resident(folder)

    def slower(folder: int) -> dict[str, int]:
        dear_s.append(clock_s[0])
        clock_s[0] += 0.05
        return shares(folder)

    monkeypatch.setattr(sampler_module, "monotonic", lambda: clock_s[0])
    monkeypatch.setattr(sampler_module, "thread_time", lambda: clock_s[0])
    monkeypatch.setattr(process, "resident_bytes", slow)
    monkeypatch.setattr(process, "share_bytes", slower)
    sampler = Sampler(str(tmp_path))
    while clock_s[0] < 1030:
        clock_s[0] += sampler.step()
    assert min(b - a for a, b in pairwise(cheap_s)) >= 50 * 0.02 * 0.999
    assert min(b - a for a, b in pairwise(dear_s)) >= 200 * 0.05 * 0.999
    assert len(cheap_s) >= 20
    assert len(dear_s) >= 3
    sampler.close()


def test_what_only_waits_is_done_as_often(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    children.append(Child(tmp_path, "host-1-a"))
    clock_s = [1000.0]
    resident = process.resident_bytes

    def preempted(folder: int) -> int:
        clock_s[0] += 0.05
        return resident(folder)

    monkeypatch.setattr(sampler_module, "monotonic", lambda: clock_s[0])
    monkeypatch.setattr(process, "resident_bytes", preempted)
    sampler = Sampler(str(tmp_path))
    while clock_s[0] < 1003:
        clock_s[0] += sampler.step()
    assert len(children[0].samples("rss")) >= 15
    sampler.close()


def test_without_nvml_it_says_so_once(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise NvmlError("nvidia-ml-py is not installed")

    monkeypatch.setattr(sampler_module, "Gpus", absent)
    monkeypatch.setattr(process, "uses_cuda", lambda folder: True)
    children.append(Child(tmp_path, "host-1-a"))
    sampler = Sampler(str(tmp_path))
    steps(sampler, 0.4)
    told = [r for r in read_samples(str(children[0].spool)) if r.source == "nvml"]
    assert [(r.target, r.metric, r.value_bytes, r.text) for r in told] == [
        ("gpu", "unavailable", None, "nvidia-ml-py is not installed")
    ]
    assert len(children[0].samples("rss")) >= 2
    sampler.close()


class TwoGpus:
    """NVML of a machine on which the process uses the second GPU."""

    uuids = ("GPU-a", "GPU-b")
    pid = 0

    def process_bytes(self, uuid: str) -> dict[int, int]:
        return {self.pid: 100} if uuid == "GPU-b" else {99999999: 5}

    def used_and_total_bytes(self, uuid: str) -> tuple[int, int]:
        return 150, 1000


def test_of_several_gpus_those_that_it_uses(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "Gpus", TwoGpus)
    monkeypatch.setattr(process, "uses_cuda", lambda folder: True)
    children.append(Child(tmp_path, "host-1-a"))
    monkeypatch.setattr(TwoGpus, "pid", children[0].process.pid)
    sampler = Sampler(str(tmp_path))
    sampler.step()
    told = [r[1:5] for r in read_samples(str(children[0].spool)) if r.source == "nvml"]
    assert told == [
        ("GPU-b", "nvml", "used", 150), ("GPU-b", "nvml", "total", 1000),
        ("GPU-b", "nvml", "process", 100),
    ]  # fmt: skip
    # A driver that hides the process does not say which it uses: then all are told of.
    monkeypatch.setattr(TwoGpus, "pid", 1)
    time.sleep(0.15)
    sampler.step()
    targets = {r.target for r in read_samples(str(children[0].spool)) if r.source == "nvml"}
    assert "process" not in {
        r.metric for r in read_samples(str(children[0].spool)) if r.target == "GPU-a"
    }
    assert targets <= {"GPU-a", "GPU-b"}
    sampler.close()
