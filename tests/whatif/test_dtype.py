"""A program in half precision, predicted from its recording in float32."""

from __future__ import annotations

from pathlib import Path

import pytest

import memtrace
from memtrace.errors import MemtraceError
from memtrace.replay.requests import Requests, read_requests
from memtrace.whatif.registry import apply_all
from trace_builder import TraceBuilder
from whatif.precision_runs import peak_of_steps, requests_of_run

PROGRAM = Path(__file__).parent / "precision_program.py"


def of_run(folder: Path, dtype: str, mode: str) -> Requests:
    return requests_of_run(folder / f"{dtype}-{mode}.memtrace", PROGRAM, dtype, mode)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precision")


def test_what_is_float32_alone_takes_exactly_half(folder: Path) -> None:
    requests, _ = apply_all(of_run(folder, "float32", "plain"), {"dtype": ("fp16",)})
    assert peak_of_steps(requests) == peak_of_steps(of_run(folder, "float16", "plain"))


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_upcasts_are_where_half_precision_has_them(folder: Path, mode: str) -> None:
    base, real = of_run(folder, "float32", mode), of_run(folder, "float16", mode)
    requests, changes = apply_all(base, {"dtype": ("fp16",)})
    predicted, true = peak_of_steps(requests), peak_of_steps(real)
    assert abs(predicted / true - 1) <= 0.005
    if mode == "train":
        assert abs(peak_of_steps(base) / 2 / true - 1) > 0.1  # half of all of it is no answer
        told = " ".join(changes[0].assumptions)
        assert "RMS norms (8)" in told
        assert "attention as plain operators (8)" in told
        assert "losses (2)" in told


def test_what_is_of_no_known_dtype_stays_and_is_told_of(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "t.memtrace")
    process = builder.process()
    weight = process.alloc("cpu", 4000)
    process.name(weight, "fc.weight", kind="weight", dtype="float32", shape=[10, 100])
    process.alloc("cpu", 1000, operator=None)
    process.alloc("cpu", 800, operator="aten::argmax", top_operator="aten::argmax")
    process.alloc("cpu", 600, operator="aten::mul", top_operator="aten::mul")
    requests = read_requests(memtrace.open(builder.write()), device="cpu")
    changed, (change,) = apply_all(requests, {"dtype": ("bf16",)})
    assert changed.size_bytes.tolist() == [2000, 1000, 800, 300]
    assert change.what == "float32 as bfloat16"
    assert any("1,000 B" in line for line in change.assumptions)


def test_autocast_is_refused(folder: Path) -> None:
    with pytest.raises(MemtraceError, match="ran under autocast"):
        apply_all(of_run(folder, "float32", "autocast"), {"dtype": ("bf16",)})


def test_a_dtype_that_is_none_and_weights_that_are_half_already(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "t.memtrace")
    process = builder.process()
    weight = process.alloc("cpu", 4000)
    process.name(weight, "fc.weight", kind="weight", dtype="bfloat16", shape=[20, 100])
    requests = read_requests(memtrace.open(builder.write()), device="cpu")
    with pytest.raises(MemtraceError, match="--dtype int9: there are fp16 and bf16"):
        apply_all(requests, {"dtype": ("int9",)})
    with pytest.raises(MemtraceError, match="the weights are bfloat16"):
        apply_all(requests, {"dtype": ("fp16",)})
