"""What a GPU would be asked for by a program of the CPU."""

from __future__ import annotations

from pathlib import Path

from memtrace.fit.gpu_kernels import LT_WORKSPACE_BYTES, WORKSPACE_BYTES, as_on_gpu, kind_of_work
from memtrace.replay.outcome import serve_on_host
from memtrace.replay.requests import Requests, read_requests
from memtrace.trace import open_trace
from trace_builder import TraceBuilder


def requests(path: Path, *operators: tuple[str, str]) -> Requests:
    builder = TraceBuilder(path)
    p = builder.process()
    p.alloc("cpu", 1000, operator="aten::empty")
    for operator, phase in operators:
        p.free(p.alloc("cpu", 100, operator=operator, phase=phase))
    return read_requests(open_trace(builder.write()))


def added(path: Path, *operators: tuple[str, str]) -> int:
    before = requests(path, *operators)
    after = as_on_gpu(before)
    assert serve_on_host(after).peak(end=1).total_bytes == 1000  # not before the first product
    return serve_on_host(after).peak().total_bytes - serve_on_host(before).peak().total_bytes


def test_one_for_each_thread_that_multiplies(tmp_path: Path) -> None:
    forward, backward = ("aten::mm", "forward"), ("aten::mm", "backward")
    assert added(tmp_path / "a", ("aten::relu", "forward")) == 0
    assert added(tmp_path / "b", ("aten::relu", "forward"), forward, forward) == WORKSPACE_BYTES
    assert added(tmp_path / "c", ("aten::relu", "x"), forward, backward) == 2 * WORKSPACE_BYTES
    biased = ("aten::addmm", "forward")
    assert added(tmp_path / "d", ("aten::relu", "x"), biased) == (
        WORKSPACE_BYTES + LT_WORKSPACE_BYTES
    )


def test_they_are_workspaces_of_who_multiplied_first(tmp_path: Path) -> None:
    found = as_on_gpu(requests(tmp_path / "x", ("aten::mm", "forward")))
    assert found.rows["category"].to_pylist()[-1] == "workspace"
    assert found.rows["operator"].to_pylist()[-1] == "aten::mm"


def test_an_optimizer_takes_the_roots_of_all_parameters_at_once(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    p.alloc("cpu", 1000, category="weight")
    for _ in range(2):
        with p.marked("optimizer"):
            for size in (100, 300):
                columns = {"phase": "optimizer", "category": "temporary"}
                root = p.alloc("cpu", size, operator="aten::sqrt", **columns)
                p.free(p.alloc("cpu", size, operator="aten::div", **columns))
                p.free(root)
    recorded = read_requests(open_trace(builder.write()))
    assert serve_on_host(recorded).peak().total_bytes == 1000 + 2 * 300
    outcome = serve_on_host(as_on_gpu(recorded))
    assert outcome.peak().total_bytes == 1000 + 100 + 300
    assert outcome.curves["allocated"][-1] == 1000


def test_the_kind_of_work(tmp_path: Path) -> None:
    forward, backward = ("aten::mm", "forward"), ("aten::mm", "backward")
    assert kind_of_work(requests(tmp_path / "a", forward)) == "inference"
    assert kind_of_work(requests(tmp_path / "b", forward, backward)) == "training"
    convolution = ("aten::mkldnn_convolution", "forward")
    assert kind_of_work(requests(tmp_path / "c", convolution, backward)) == "cudnn"
