"""The largest batch for each capacity."""

from __future__ import annotations

from pathlib import Path

import pytest

from fit.made_up import MIB
from memtrace.errors import MemtraceError
from memtrace.fit.batches import largest_batches
from memtrace.fit.served import serve
from memtrace.replay.requests import Requests, read_requests
from memtrace.trace import open_trace
from memtrace.whatif.scaling import LARGEST, Scaling
from trace_builder import TraceBuilder


def recorded(path: Path, batches: tuple[int, ...], each: int = 10 * MIB) -> Requests:
    """100 MiB of weights, and calls that hold `each` for every one of a batch."""
    builder = TraceBuilder(path)
    p = builder.process()
    p.alloc("cpu", 100 * MIB, category="weight", module="lm")
    for batch in batches:
        shapes = f'{{"ids": [{batch}, 16]}}'
        with p.step(batch_size=batch, input_shapes=shapes, kind="inference"):
            size = batch * each if each else 1000
            p.free(p.alloc("cpu", size, category="activation", module="lm", operator="aten::relu"))
    return read_requests(open_trace(builder.write()))


def test_the_largest_holds_and_one_more_does_not(tmp_path: Path) -> None:
    requests = recorded(tmp_path / "x.memtrace", (1, 2, 4))
    scaling = Scaling(requests)
    capacities = [105 * MIB, 110 * MIB, 119 * MIB, 1000 * MIB, 1001 * MIB, 77_777 * MIB]
    found = largest_batches(scaling, requests, capacities, on_gpu=False)
    assert found == [0, 1, 1, 90, 90, 7767]
    for batch, capacity in zip(found[1:], capacities[1:], strict=True):
        for more, fits in ((0, True), (1, False)):
            changed = scaling.at(requests, {"batch": batch + more}).requests
            assert (serve(changed, on_gpu=False).high_bytes <= capacity) is fits


def test_nothing_grows(tmp_path: Path) -> None:
    requests = recorded(tmp_path / "x.memtrace", (1, 2), each=0)
    assert largest_batches(Scaling(requests), requests, [200 * MIB], on_gpu=False) == [LARGEST]


def test_one_batch_size_tells_nothing(tmp_path: Path) -> None:
    requests = recorded(tmp_path / "x.memtrace", (2, 2))
    with pytest.raises(MemtraceError, match="has batch size 2, so nothing tells"):
        largest_batches(Scaling(requests), requests, [200 * MIB], on_gpu=False)
