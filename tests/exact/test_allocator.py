"""Exact on the real CUDA caching allocator: our events, peaks, sizes and layout are torch's own.

Differences are failures, not tolerances.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exact.comparison import (
    COMPARISONS,
    a_replay_knows_when_the_device_is_full,
    block_bytes_equal_what_the_profiler_reports,
)
from exact.recording import Recording, constants, program_names, record

pytestmark = pytest.mark.cuda_sim

SETTINGS = {
    "default": "",
    "expandable": "expandable_segments:True",
    "roundup": "roundup_power2_divisions:4",
    "max_split": "max_split_size_mb:32",
    "gc": "garbage_collection_threshold:0.6,per_process_memory_fraction:0.9",
}
# A real device is not as full as it says: others allocate too, and its pages are large.
SIMULATED = (*COMPARISONS, a_replay_knows_when_the_device_is_full)
CASES = [(program, setting) for program in program_names() for setting in SETTINGS]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    program, setting = request.param
    folder = tmp_path_factory.mktemp(f"{program}-{setting}")
    return record(program, SETTINGS[setting], "history", folder)


@pytest.mark.parametrize("compare", SIMULATED, ids=lambda compare: compare.__name__)
def test_exact(run: Recording, compare: Callable[[Recording], None]) -> None:
    compare(run)


PROFILED = [name for name in program_names() if constants(name)["SINGLE_THREADED"]]


@pytest.mark.parametrize("program", PROFILED)
@pytest.mark.parametrize("setting", ["default", "expandable"])
def test_block_bytes_equal_what_the_profiler_reports(
    program: str, setting: str, tmp_path: Path
) -> None:
    run = record(program, SETTINGS[setting], "profiler", tmp_path)
    block_bytes_equal_what_the_profiler_reports(run)
