"""Another optimizer: what is predicted is what the program does with it."""

from __future__ import annotations

import pytest

from memtrace.errors import MemtraceError
from memtrace.replay.requests import Requests
from memtrace.whatif.optimizer import apply
from whatif.layered_runs import SCALAR_BYTES, peak_bytes, requests_of

ADAMW, MOMENTUM, SGD = (f"--train --optimizer {name}" for name in ("adamw", "momentum", "sgd"))


@pytest.mark.parametrize(
    ("recorded", "asked"),
    [(ADAMW, "sgd"), (ADAMW, "momentum"), (MOMENTUM, "adamw"), (MOMENTUM, "sgd"),
     (SGD, "adamw"), (SGD, "momentum"), (ADAMW, "adamw")],
)  # fmt: skip
def test_the_peak_is_that_of_the_program_with_it(recorded: str, asked: str) -> None:
    change = apply(requests_of(recorded), asked)
    real = requests_of(f"--train --optimizer {asked}")
    assert peak_bytes(change.requests) == peak_bytes(real)
    assert _states(change.requests) == _states(real)


@pytest.mark.parametrize("asked", ["sgd", "momentum", "adamw"])
def test_what_its_steps_ask_for_is_what_they_do(asked: str) -> None:
    change = apply(requests_of(ADAMW if asked != "adamw" else SGD), asked)
    assert _of_steps(change.requests) == _of_steps(requests_of(f"--train --optimizer {asked}"))


def _of_steps(requests: Requests) -> list[tuple[int, str]]:
    rows = requests.rows.select(["phase", "category"]).to_pylist()
    return sorted(
        (size, row["category"])
        for row, size in zip(rows, requests.size_bytes.tolist(), strict=True)
        if row["phase"] == "optimizer" and size > SCALAR_BYTES
    )


def _states(requests: Requests) -> dict[str, int]:
    """Label -> bytes; the number of steps aside."""
    rows = requests.rows.select(["category", "label"]).to_pylist()
    return {
        row["label"]: size
        for row, size in zip(rows, requests.size_bytes.tolist(), strict=True)
        if row["category"] == "optimizer_state" and not row["label"].startswith("step of")
    }


def test_8_bit_states_are_a_byte_an_element_and_scales() -> None:
    change = apply(requests_of(SGD), "adamw8bit")
    states = _states(change.requests)
    # 256 x 64 elements in 64 blocks; 64 elements are too few for 8 bit.
    assert states["state1 of layers.0.up.weight"] == 256 * 64
    assert states["absmax2 of layers.0.up.weight"] == 64 * 4
    assert states["state2 of layers.0.norm.bias"] == 64 * 4
    assert "absmax1 of layers.0.norm.bias" not in states
    assert sum(label.startswith("qmap") for label in states) == 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("adam9", r"^no such optimizer: adam9 \(there are sgd, momentum, adamw, adamw8bit, and "),
        ("zero4:8", "^no such optimizer: zero4:8 "),
        ("zero2:1", "^zero2:1: it takes two ranks or more"),
    ],
)
def test_bad_input_is_one_line(text: str, line: str) -> None:
    with pytest.raises(MemtraceError, match=line):
        apply(requests_of(ADAMW), text)


def test_where_nothing_is_trained_it_says_so() -> None:
    with pytest.raises(MemtraceError, match=r"^no optimizer's step is in the trace"):
        apply(requests_of(""), "sgd")
