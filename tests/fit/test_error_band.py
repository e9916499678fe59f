"""The error of a prediction."""

from __future__ import annotations

from memtrace.fit.error_band import UNKNOWN_PERMILLE, WHAT_IF_PERMILLE, band_permille
from memtrace.whatif.registry import WHAT_IFS


def test_a_replay_of_the_same_is_exact() -> None:
    assert band_permille([]) == 0


def test_each_step_adds_its_own() -> None:
    dtype = WHAT_IF_PERMILLE["dtype"]
    assert band_permille(["dtype", "unheard-of"]) == dtype + UNKNOWN_PERMILLE
    estimate = band_permille([], cpu_as_gpu="inference")
    assert 0 < estimate < band_permille([], cpu_as_gpu="training")
    assert band_permille(["dtype"], cpu_as_gpu="inference") == dtype + estimate


def test_every_what_if_has_been_measured() -> None:
    assert {what_if.name for what_if in WHAT_IFS} <= WHAT_IF_PERMILLE.keys()
