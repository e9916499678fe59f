"""The dtype of every allocation, as the rules tell it, against the tensors' own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import memtrace
from memtrace.replay.requests import read_requests
from memtrace.whatif.operator_calls import OperatorCalls
from memtrace.whatif.recorded_dtypes import recorded_dtypes
from program_runs import recorded

PROGRAM = Path(__file__).parent / "noted_dtypes.py"


#: Model -> share of bytes that the rules may be wrong about.
MODELS = {
    "gpt2": 0.002, "llama": 0.002, "bert": 0.002, "vit": 0.002, "mixtral": 0.002,
    "convnet": 0.002, "lora": 0.002,
    # A cast between modules of different dtypes is told by no operator and no size.
    "mixed_dtypes": 0.04,
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_what_the_rules_tell_is_what_the_tensors_are(model: str, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    shown = recorded(tmp_path / "t.memtrace", PROGRAM, model, truth)
    assert shown.status == 0, shown.err.decode()[-500:]
    requests = read_requests(memtrace.open(tmp_path / "t.memtrace"))
    rows = requests.trace.allocations
    origin_ns = requests.process.row["clock_origin_ns"]
    lives: dict[int, list[tuple[int, int, int]]] = {}
    for address, begin, end, number in zip(
        *(rows[name].to_pylist() for name in
          ("address", "alloc_time_ns", "free_time_ns", "allocation_id")), strict=True,
    ):  # fmt: skip
        lives.setdefault(address, []).append((begin or 0, end or 1 << 62, number))
    dtypes = {
        number: dtype
        for address, when_ns, dtype in json.loads(truth.read_text())
        for begin, end, number in lives.get(address, ())
        if begin <= when_ns - origin_ns < end
    }
    told = recorded_dtypes(requests, OperatorCalls(requests))
    ids = np.array(requests.rows["allocation_id"].to_pylist())
    known = np.array([number in dtypes for number in ids.tolist()]) & (requests.size_bytes > 8)
    real = np.array([dtypes.get(number) == "float32" for number in ids.tolist()])
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
    assert share <= MODELS[model], sorted(set(listed))
