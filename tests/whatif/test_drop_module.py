"""A layer left out: what is predicted is what the program without it does."""

from __future__ import annotations

import numpy as np
import pytest

from memtrace.errors import MemtraceError
from memtrace.replay.requests import Requests
from memtrace.whatif.drop_module import apply
from memtrace.whatif.modules import rows_of
from whatif.layered_runs import changes, peak_bytes, requests_of


@pytest.mark.parametrize("mode", ["", "--train"])
@pytest.mark.parametrize("index", [0, 1, 3])
def test_the_peak_is_that_of_the_program_without_it(mode: str, index: int) -> None:
    change = apply(requests_of(mode), f"layers.{index}")
    assert peak_bytes(change.requests) == peak_bytes(requests_of(f"{mode} --drop {index}"))
    assert peak_bytes(change.requests) < peak_bytes(requests_of(mode))


@pytest.mark.parametrize("mode", ["", "--train"])
def test_every_life_is_that_of_the_program_without_it(mode: str) -> None:
    phases = ("forward", "backward")
    change = apply(requests_of(mode), "layers.1")
    real = changes(requests_of(f"{mode} --drop 1"), phases)
    assert changes(change.requests, phases) == real
    assert changes(requests_of(mode), phases) != real


def test_a_pattern_leaves_out_all_that_it_fits() -> None:
    change = apply(requests_of("--train"), "layers.[12]")
    assert change.what == "without layers.1, layers.2"
    assert peak_bytes(change.requests) == peak_bytes(requests_of("--train --drop 1 --drop 2"))


def test_one_after_the_other_is_both_at_once() -> None:
    one = apply(apply(requests_of("--train"), "layers.2").requests, "layers.1").requests
    assert peak_bytes(one) == peak_bytes(requests_of("--train --drop 1 --drop 2"))


def test_states_and_what_a_step_makes_of_them_go_too() -> None:
    requests = apply(requests_of("--train"), "layers.1").requests
    assert not rows_of(requests, "layers.1").any()
    phases = requests.rows["phase"].to_pylist()
    kept = sorted(
        size
        for size, phase in zip(requests.size_bytes.tolist(), phases, strict=True)
        if phase == "optimizer" and size > 8
    )
    real = requests_of("--train --drop 1")
    phases = real.rows["phase"].to_pylist()
    assert kept == sorted(
        size
        for size, phase in zip(real.size_bytes.tolist(), phases, strict=True)
        if phase == "optimizer" and size > 8
    )


def test_what_gives_on_another_size_than_it_is_given_says_so() -> None:
    change = apply(requests_of(""), "layers.1.up")
    assert "of another size" in change.assumptions[1]
    assert len(apply(requests_of(""), "layers.1").assumptions) == 1


def test_nothing_else_is_touched() -> None:
    requests = requests_of("--train")
    changed = apply(requests, "layers.1").requests
    kept = dict(zip(_ids(requests), requests.size_bytes, strict=True))
    assert all(
        kept[id_] == size for id_, size in zip(_ids(changed), changed.size_bytes, strict=True)
    )
    assert (np.diff(changed.start) >= 0).all()
    assert (changed.free > changed.start).all()


def _ids(requests: Requests) -> list[int]:
    return requests.rows["allocation_id"].to_pylist()


@pytest.mark.parametrize(
    ("text", "named"), [("layers.9", "layers.3"), ("leyers", "layers"), ("Model", "layers")]
)
def test_a_module_that_is_not_there_is_one_line_that_names_near_ones(text: str, named: str) -> None:
    with pytest.raises(MemtraceError, match=rf"^no module {text} asked .*\(there are .*{named}"):
        apply(requests_of(""), text)
