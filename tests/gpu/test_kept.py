"""Runs that are kept are what they were: all that a fresh one is held against holds of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from exact.comparison import COMPARISONS
from exact.recording import Recording, record
from gpu.kept import keep, kept_run

pytestmark = pytest.mark.cuda_sim


@pytest.mark.parametrize("program", ["mlp", "out_of_memory"])
def test_a_kept_run_is_compared_as_a_fresh_one(program: str, tmp_path: Path) -> None:
    run = record(program, "", "history", tmp_path)
    keep(run, tmp_path / "kept" / f"{program}.zip")
    kept = kept_run(tmp_path / "kept" / f"{program}.zip", tmp_path / "again")
    assert kept.trace.events.equals(run.trace.events)
    for compare in COMPARISONS:
        compare(kept)


def test_what_differs_in_a_kept_run_is_seen(tmp_path: Path) -> None:
    run = record("mlp", "", "history", tmp_path)
    run.torch["stats"][0]["allocated_bytes.all.peak"] += 512
    del run.torch["segments"][0]["blocks"][0]
    keep(run, tmp_path / "mlp.zip")
    kept: Recording = kept_run(tmp_path / "mlp.zip", tmp_path / "again")
    wrong = []
    for compare in COMPARISONS:
        try:
            compare(kept)
        except AssertionError:
            wrong.append(compare.__name__)
    assert wrong == [
        "peaks_and_currents_equal_torchs_counters",
        "final_layout_equals_torchs_snapshot_block_for_block",
    ]
