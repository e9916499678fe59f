"""A layer checkpointed: what is predicted is what torch.utils.checkpoint makes of the program."""

from __future__ import annotations

import numpy as np
import pytest

from memtrace.errors import MemtraceError
from memtrace.replay.requests import Requests
from memtrace.whatif.checkpoint_module import apply
from memtrace.whatif.modules import rows_of
from memtrace.whatif.runs import Timeline
from whatif.layered_runs import changes, first_step, peak_bytes, requests_of, without_scalars

TRAINED = "--train --optimizer sgd"
ALL = " --checkpoint 0 --checkpoint 1 --checkpoint 2 --checkpoint 3"


@pytest.mark.parametrize(
    ("text", "options"), [("layers.0", " --checkpoint 0"), ("layers.3", " --checkpoint 3")]
)
def test_the_peak_is_that_of_the_program_with_it_checkpointed(text: str, options: str) -> None:
    change = apply(requests_of(TRAINED), text)
    assert peak_bytes(change.requests) == peak_bytes(requests_of(TRAINED + options))


def test_all_layers_by_a_pattern_or_one_by_one() -> None:
    recorded = requests_of(TRAINED)
    change = apply(recorded, "layers.*")
    assert peak_bytes(change.requests) == peak_bytes(requests_of(TRAINED + ALL))
    assert peak_bytes(change.requests) < peak_bytes(recorded)
    one_by_one = recorded
    for index in range(4):
        one_by_one = apply(one_by_one, f"layers.{index}").requests
    assert peak_bytes(one_by_one) == peak_bytes(change.requests)


def test_what_is_made_in_the_backward_is_what_torch_makes_there() -> None:
    change = apply(requests_of(TRAINED), "layers.1")
    real = requests_of(TRAINED + " --checkpoint 1")
    assert _in_backward(change.requests) == _in_backward(real)
    assert _in_backward(requests_of(TRAINED)) != _in_backward(real)


def _in_backward(requests: Requests) -> list[int]:
    """Sizes of what the layer asks for between the first of its backward and the layer before."""
    backward = [
        run for run in Timeline(requests).runs(rows_of(requests, "layers.0")) if run.backward
    ]
    after = [run for run in Timeline(requests).runs(rows_of(requests, "layers.2")) if run.backward]
    found = without_scalars(requests)
    asked = (found.start >= after[-1].end - 1) & (found.start < backward[-1].begin)
    order = np.argsort(found.start[asked], kind="stable")
    return found.size_bytes[asked][order].tolist()


def test_what_goes_on_is_as_before() -> None:
    change = apply(requests_of(TRAINED), "layers.1")
    kept = change.requests.chosen(np.arange(len(change.requests)) < len(requests_of(TRAINED)))
    assert kept.size_bytes.tolist() == requests_of(TRAINED).size_bytes.tolist()
    assert changes(kept, ("optimizer",)) == changes(requests_of(TRAINED), ("optimizer",))
    ends = kept.free[rows_of(kept, "layers.0") & (kept.start < first_step(kept))]
    assert ends.tolist() == requests_of(TRAINED).free[
        rows_of(requests_of(TRAINED), "layers.0")
        & (requests_of(TRAINED).start < first_step(kept))
    ].tolist()  # fmt: skip


def test_without_a_backward_nothing_changes_and_it_says_so() -> None:
    recorded = requests_of("")
    change = apply(recorded, "layers.*")
    assert change.requests is recorded
    assert "changes nothing" in change.assumptions[0]


def test_a_module_that_is_not_there_is_one_line() -> None:
    with pytest.raises(MemtraceError, match=r"^no module layers\.7 asked .*layers\.3"):
        apply(requests_of(TRAINED), "layers.7")
