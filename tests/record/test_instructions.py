"""The cost of a CUDA event in instructions, which the machine's load cannot change."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "record" / "event_instructions.py"
MOST_INSTRUCTIONS = 60  # per event, operators and stacks off, beyond a tracker that does nothing
# With stacks: of three events two are frees, which need none and go the short way.
MOST_WITH_STACKS = 110
MOST_PAUSED = 45  # likewise in a pause: of three events two are looked up among those told of


def load_benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("event_instructions", BENCHMARK)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="needs valgrind: tools/install_test_tools"
)
def test_an_event_costs_at_most_60_instructions() -> None:
    trackers = ("nothing", "record", "stacks", "paused")
    nothing, record, stacks, paused = load_benchmark().measure(*trackers)
    assert 0 < nothing < record
    assert record - nothing <= MOST_INSTRUCTIONS
    assert stacks - nothing <= MOST_WITH_STACKS
    assert paused - nothing <= MOST_PAUSED
