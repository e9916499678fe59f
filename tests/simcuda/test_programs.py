"""The programs of tests/programs/cuda run, twice the same, and torch's own figures agree."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import simcuda
from simcuda.conftest import RunCode

pytestmark = pytest.mark.cuda_sim

FOLDER = Path(simcuda.TESTS_FOLDER) / "programs" / "cuda"
PROGRAMS = sorted(FOLDER.glob("*.py"))

RECORD = """
import hashlib, runpy
torch.cuda.init()
torch.cuda.memory._record_memory_history(context=None, max_entries=10**7)
module = runpy.run_path({path!r}, run_name="__main__")
torch.cuda.synchronize()
snapshot = torch.cuda.memory._snapshot()
for device, trace in enumerate(snapshot["device_traces"]):
    reserved = peak = 0
    for event in trace:
        if event["action"] in ("segment_alloc", "segment_map"):
            reserved += event["size"]
            peak = max(peak, reserved)
        elif event["action"] in ("segment_free", "segment_unmap"):
            reserved -= event["size"]
    stats = torch.cuda.memory_stats(device)
    assert reserved == stats["reserved_bytes.all.current"]
    assert peak == stats["reserved_bytes.all.peak"]
    assert reserved == simcuda.counters(device).allocated_bytes
    keys = ("action", "addr", "size", "stream")
    events = [tuple(event.get(key) for key in keys) for event in trace]
    assert sum(event[0] == "alloc" for event in events) == stats["allocation.all.allocated"] > 0
    print(len(events), hashlib.sha256(repr(events).encode()).hexdigest())
"""


def constants(program: Path) -> dict[str, Any]:
    """Returns the constants that the program declares for its harness."""
    found = {}
    for node in ast.parse(program.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name.isupper() and isinstance(node.value, ast.Constant):
                found[name] = ast.literal_eval(node.value)
    return found


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_program(run_code: RunCode, program: Path) -> None:
    if "transformers" in program.read_text():
        pytest.importorskip("transformers")
    declared = constants(program)
    machine = {
        "devices": declared.get("DEVICES", 1),
        "memory_mb": declared.get("MEMORY_MB", 1024),
    }
    code = RECORD.format(path=str(program))
    first = run_code(code, **machine)
    if declared.get("REPEATABLE", declared["SINGLE_THREADED"]):
        assert run_code(code, **machine) == first
