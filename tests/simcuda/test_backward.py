"""Backward memory of the engine's own threads, which have no Python frames of the program."""

from __future__ import annotations

from pathlib import Path

import pytest

import simcuda
from backward_oracle import MODELS, check_with_oracle

pytestmark = pytest.mark.cuda_sim


@pytest.mark.parametrize("model", [model for model in MODELS if model != "net"])  # needs cuDNN
def test_backward_memory_is_where_anomaly_mode_says(tmp_path: Path, model: str) -> None:
    if reason := simcuda.unavailable():
        pytest.skip(reason)
    check_with_oracle(tmp_path, model, "cuda", env=simcuda.environment(simcuda.Machine()))
