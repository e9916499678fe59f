"""Exact on a real GPU, as on the simulated one (tests/exact). Skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu.cases import Case, cases, unavailable

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="session", autouse=True)
def _gpu() -> None:
    reason = unavailable()
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_exact(case: Case, tmp_path: Path) -> None:
    if case.lacks:
        pytest.skip(case.lacks)
    run = case.record(tmp_path)
    for compare in case.comparisons:
        compare(run)
