"""ZeRO: what is predicted of a rank is what FSDP2 makes of the program on a made-up group."""

from __future__ import annotations

import pytest

from memtrace.replay.outcome import serve_on_host
from memtrace.replay.requests import Requests
from memtrace.whatif.optimizer import apply
from whatif.layered_runs import peak_bytes, requests_of

ADAMW = "--train --optimizer adamw"
#: Indices that FSDP2 sends along with what it copies: bytes of one unit.
INDICES_BYTES = 4096


@pytest.mark.parametrize("ranks", [2, 8])
def test_the_peak_of_stage_3_is_that_of_fully_shard(ranks: int) -> None:
    predicted = peak_bytes(apply(requests_of(ADAMW), f"zero3:{ranks}").requests)
    real = peak_bytes(requests_of(f"{ADAMW} --ranks {ranks}"))
    assert predicted == pytest.approx(real, abs=INDICES_BYTES)
    assert predicted < peak_bytes(requests_of(ADAMW))


def test_states_of_a_rank_are_its_share() -> None:
    recorded = requests_of(ADAMW)
    shared = _by_label(apply(recorded, "zero1:4").requests, "optimizer_state")
    whole = _by_label(recorded, "optimizer_state")
    assert shared == {label: -(-size // 4) if size > 8 else size for label, size in whole.items()}
    assert peak_bytes(apply(recorded, "zero1:4").requests) < peak_bytes(recorded)


def _by_label(requests: Requests, category: str) -> dict[str, int]:
    rows = requests.rows.select(["category", "label"]).to_pylist()
    return {
        row["label"]: size
        for row, size in zip(rows, requests.size_bytes.tolist(), strict=True)
        if row["category"] == category
    }


def test_each_stage_keeps_less_between_steps() -> None:
    recorded = requests_of(ADAMW)
    marks = recorded.trace.marks.to_pylist()
    begin = max(mark["seq"] for mark in marks if mark["kind"] == "optimizer_begin") - 0.25
    kept = []
    for stage in (1, 2, 3):
        outcome = serve_on_host(apply(recorded, f"zero{stage}:4").requests)
        kept.append(outcome.peak(start=begin, end=begin).total_bytes)
    assert kept[0] - kept[1] == pytest.approx(_held(recorded, "gradient", begin) * 3 / 4, rel=0.001)
    assert kept[1] - kept[2] == pytest.approx(_held(recorded, "weight", begin) * 3 / 4, rel=0.001)


def _held(requests: Requests, category: str, place: float) -> int:
    table = requests.held(requests.live_at(place), requests.size_bytes)
    rows = zip(table["category"].to_pylist(), table["bytes"].to_pylist(), strict=True)
    return sum(size for held, size in rows if held == category)


def test_what_a_rank_gathers_is_called_so() -> None:
    labels = _by_label(apply(requests_of(ADAMW), "zero3:4").requests, "temporary")
    assert {"buffer of weights of layers.0", "buffer of weights of the root"} <= set(labels)
    shares = _by_label(apply(requests_of(ADAMW), "zero2:4").requests, "gradient")
    assert {"shared grad of layers.3", "shared grad of the root"} <= set(shares)
