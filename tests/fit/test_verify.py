"""A prediction beside a recording."""

from __future__ import annotations

from pathlib import Path

import pytest

from fit.made_up import GIB, MIB, server, worker
from memtrace.errors import MemtraceError
from memtrace.fit.verify import verify
from memtrace.trace import Trace, open_trace
from trace_builder import TraceBuilder


def program(path: Path, temporary: int, kept: int) -> Trace:
    builder = TraceBuilder(path)
    p = builder.process()
    p.alloc("cpu", kept, category="weight", operator="aten::empty")
    p.alloc("cpu", temporary, category="temporary", operator="aten::mm")
    return open_trace(builder.write())


def test_differences_have_a_sign_and_the_largest_comes_first(tmp_path: Path) -> None:
    a = program(tmp_path / "a.memtrace", 30 * MIB, 100 * MIB)
    b = program(tmp_path / "b.memtrace", 60 * MIB, 90 * MIB)
    found = verify(a, b)
    (total,) = found.totals
    assert (total.predicted_bytes, total.real_bytes) == (130 * MIB, 150 * MIB)
    assert total.delta_bytes == -20 * MIB
    assert round(total.error_permille) == -133
    categories = [(pair.name, pair.delta_bytes) for pair in found.parts["category"]]
    assert categories == [("temporary", -30 * MIB), ("weight", 10 * MIB)]
    assert [pair.name for pair in found.parts["operator"]] == ["aten::mm", "aten::empty"]


def test_what_only_one_of_them_has(tmp_path: Path) -> None:
    a = program(tmp_path / "a.memtrace", 30 * MIB, 100 * MIB)
    builder = TraceBuilder(tmp_path / "b.memtrace")
    builder.process().alloc("cpu", MIB, category="gradient", operator="aten::add")
    found = verify(a, open_trace(builder.write()))
    pairs = {pair.name: (pair.predicted_bytes, pair.real_bytes) for pair in found.parts["operator"]}
    assert pairs["aten::add"] == (0, MIB)
    assert pairs["aten::mm"] == (30 * MIB, 0)


def test_a_cpu_beside_a_gpu_is_an_estimate(tmp_path: Path) -> None:
    cpu = worker(tmp_path / "a.memtrace")
    gpu = server(tmp_path / "b.memtrace")
    found = verify(cpu, gpu)
    assert (found.device, found.other_device) == ("cpu", "cuda:0")
    assert found.band_permille > 0
    assert found.totals[0].real_bytes == 16 * GIB
    with pytest.raises(MemtraceError, match="was recorded on the CPU"):
        verify(gpu, cpu)
