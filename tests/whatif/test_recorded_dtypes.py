"""The dtype of every allocation, as the rules tell it, against the tensors' own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from program_runs import recorded

import memtrace
from memtrace.replay.requests import read_requests
from memtrace.whatif.calls import Calls
from memtrace.whatif.recorded_dtypes import recorded_dtypes

PROGRAM = Path(__file__).parent / "noted_dtypes.py"


@pytest.mark.parametrize(
    "model", ["gpt2", "llama", "bert", "vit", "mixtral", "convnet", "lora", "mixed_dtypes"]
)
def test_what_the_rules_tell_is_what_the_tensors_are(model: str, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    shown = recorded(tmp_path / "t.memtrace", PROGRAM, model, truth)
    assert shown.status == 0, shown.err.decode()[-500:]
    requests = read_requests(memtrace.open(tmp_path / "t.memtrace"))
    rows = requests.trace.allocations
    origin_ns = requests.process.row["clock_origin_ns"]
    lives: dict[int, list[tuple[int, int, int]]] = {}
    for address, begin, end, id in zip(
        *(rows[name].to_pylist() for name in
          ("address", "alloc_time_ns", "free_time_ns", "allocation_id")), strict=True,
    ):  # fmt: skip
        lives.setdefault(address, []).append((begin or 0, end or 1 << 62, id))
    dtypes = {
        id: dtype
        for address, when_ns, dtype in json.loads(truth.read_text())
        for begin, end, id in lives.get(address, ())
        if begin <= when_ns - origin_ns < end
    }
    told = recorded_dtypes(requests, Calls(requests))
    ids = np.array(requests.rows["allocation_id"].to_pylist())
    known = np.array([id in dtypes for id in ids.tolist()]) & (requests.size_bytes > 8)
    real = np.array([dtypes.get(id) == "float32" for id in ids.tolist()])
    assert known.sum() > 100
    wrong = known & (real != told.float32)
    listed = [
        (
            requests.rows["operator"][row].as_py(),
            dtypes[int(ids[row])],
            int(requests.size_bytes[row]),
        )
        for row in np.flatnonzero(wrong)
    ]
    share = requests.size_bytes[wrong].sum() / requests.size_bytes[known].sum()
    assert share <= 0.002, sorted(set(listed))
