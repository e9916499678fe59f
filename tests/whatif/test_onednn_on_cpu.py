"""Scratch of oneDNN's kernels in bfloat16: predicted beside the real program."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.replay.requests import Requests
from memtrace.whatif.convolutions_on_cpu import _parts, _Sizes
from memtrace.whatif.cpu_kernels import cpu_kernels
from memtrace.whatif.registry import apply_all
from whatif.precision_runs import peak_of_steps, requests_of_run

PROGRAM = Path(__file__).parent / "onednn_program.py"


def of_run(path: Path, dtype: str, mode: str) -> Requests:
    return requests_of_run(path, PROGRAM, dtype, mode)


@pytest.mark.parametrize("mode", ["convolutions", "layers"])
def test_the_peak_is_that_of_the_program(tmp_path: Path, mode: str) -> None:
    base = of_run(tmp_path / "float32.memtrace", "float32", mode)
    real = peak_of_steps(of_run(tmp_path / "bfloat16.memtrace", "bfloat16", mode))
    changed, (change,) = apply_all(base, {"dtype": ("bf16",)})
    if cpu_kernels(base.process).blocks_known:
        assert peak_of_steps(changed) == pytest.approx(real, rel=0.01)
        assert peak_of_steps(base) / 2 < 0.95 * real
    else:  # of another CPU it is told that this is not counted
        told = " ".join(change.assumptions)
        assert "is not counted" in told or "no kernels of bfloat16" in told


@pytest.mark.parametrize(
    ("sizes", "threads", "parts"),
    [
        (_Sizes(8 * 128 * 256, 8 * 128 * 256, 128, 128, 128 * 128 * 9), 2, 2),
        (_Sizes(8 * 128 * 256, 8 * 256 * 64, 128, 256, 128 * 256 * 9), 2, 1),  # of stride 2
        (_Sizes(8 * 128 * 256, 8 * 128 * 256, 128, 128, 128 * 128 * 9), 1, 1),
    ],
)
def test_threads_share_the_batch_or_the_channels(sizes: _Sizes, threads: int, parts: int) -> None:
    assert _parts(sizes, threads) == parts
