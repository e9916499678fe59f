"""Workers on a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from fit.made_up import GIB, MIB, server, worker
from memtrace.errors import MemtraceError
from memtrace.fit.workers import find_density
from memtrace.trace import open_trace
from trace_builder import TraceBuilder


def test_a_peak_between_two_samples_counts(tmp_path: Path) -> None:
    one = find_density(worker(tmp_path / "x.memtrace"), []).worker
    assert one.tensors_bytes == 190 * MIB
    assert one.peak_bytes == (200 + 190) * MIB
    assert one.idle_bytes == 300 * MIB
    assert (one.shared_bytes, one.pss_bytes) == (0, 280 * MIB)


def test_as_many_as_there_is_room_for(tmp_path: Path) -> None:
    found = find_density(worker(tmp_path / "x.memtrace"), [2 * GIB, 300 * MIB], workers=3)
    machine, too_small = found.instances
    assert machine.usable_bytes == 2 * GIB - 2 * GIB // 10
    assert machine.workers == 4  # 4 x 390 MiB in 1843 MiB
    assert machine.needed_bytes == 4 * 390 * MIB
    assert found.asked_bytes == 3 * 390 * MIB
    assert (too_small.workers, too_small.needed_bytes) == (0, 0)


def test_what_is_shared_counts_once(tmp_path: Path) -> None:
    trace = worker(tmp_path / "x.memtrace", shared=1000 * MIB)
    found = find_density(trace, [4 * GIB], workers=2)
    one = found.worker
    assert one.shared_bytes == 1000 * MIB
    assert one.peak_bytes == (390 + 1000) * MIB
    assert found.asked_bytes == (1000 + 2 * 390) * MIB
    assert one.together(2, idle=True) == (1000 + 2 * 300) * MIB
    assert found.instances[0].workers == 6  # (3686 - 1000) / 390 MiB
    assert any("shared" in line for line in found.assumptions)


def test_pages_that_others_had_as_well_are_shared(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    p.alloc("cpu", 10 * MIB)
    p.sample("host", "rss", "rss", 500 * MIB, reason="period")
    p.sample("host", "uss", "uss", 320 * MIB, reason="period")
    one = find_density(open_trace(builder.write()), []).worker
    assert one.shared_bytes == 180 * MIB
    assert one.together(2) == (500 + 320) * MIB


def test_a_program_of_which_only_the_gpu_was_recorded(tmp_path: Path) -> None:
    found = find_density(server(tmp_path / "x.memtrace"), [])
    assert (found.worker.idle_bytes, found.worker.peak_bytes) == (900 * MIB, 1000 * MIB)
    assert found.worker.tensors_bytes == 0
    assert any("no tensors of the CPU" in line for line in found.assumptions)


def test_nothing_was_sampled(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process().alloc("cpu", MIB)
    with pytest.raises(MemtraceError, match="nothing was sampled of the memory of process 100"):
        find_density(open_trace(builder.write()), [])
