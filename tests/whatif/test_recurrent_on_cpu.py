"""LSTMs in half precision on a CPU: predicted beside the real program, and oneDNN's own sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memtrace.replay.requests import Requests
from memtrace.whatif.recurrent_on_cpu import _Layer
from memtrace.whatif.registry import apply_all
from whatif.precision_runs import peak_of_steps, requests_of_run

PROGRAM = Path(__file__).parent / "recurrent_program.py"


def of_run(folder: Path, dtype: str, mode: str) -> Requests:
    return requests_of_run(folder / f"{dtype}-{mode}.memtrace", PROGRAM, dtype, mode)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recurrent")


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 0.02), ("float16", 0.06)])
def test_the_peak_is_that_of_the_program(folder: Path, dtype: str, mode: str, error: float) -> None:
    changed, _ = apply_all(of_run(folder, "float32", mode), {"dtype": (dtype,)})
    real = peak_of_steps(of_run(folder, dtype, mode))
    assert peak_of_steps(changed) == pytest.approx(real, rel=error)
    if mode == "train":
        half = peak_of_steps(of_run(folder, "float32", mode)) / 2
        assert half != pytest.approx(real, rel=3 * error)


def test_a_recording_tells_what_its_cpu_can_do(folder: Path) -> None:
    told = json.loads(of_run(folder, "float32", "infer").process.row["cpu_kernels"])
    assert told["threads"] >= 1
    assert isinstance(told["bfloat16"], bool)
    assert isinstance(told["amx"], bool)


@pytest.mark.parametrize(
    ("layer", "float32_bytes", "bfloat16_bytes"),
    [
        (_Layer(inputs=128, width=256, batch=8, steps=64), 8_220_672, 5_844_992),
        (_Layer(inputs=256, width=256, batch=8, steps=64), 8_220_672, 5_844_992),
        (_Layer(inputs=40, width=100, batch=5, steps=33), 1_089_536, 794_624),
    ],
)
def test_workspaces_are_as_large_as_onednn_makes_them(
    layer: _Layer, float32_bytes: int, bfloat16_bytes: int
) -> None:
    assert layer.workspace_bytes(4) == float32_bytes
    assert layer.workspace_bytes(2) == bfloat16_bytes
