"""After a pause what is live is what torch's allocator holds: block for block, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import memtrace
import simcuda

pytestmark = pytest.mark.cuda_sim

PROGRAM = Path(__file__).parent / "paused_program.py"
SETTINGS = {"default": "", "expandable": "expandable_segments:True"}


def run(folder: Path, *words: str, settings: str = "", **machine: Any) -> Any:
    env = simcuda.environment(simcuda.Machine(**{"devices": 2, "memory_mb": 2048, **machine}))
    if settings:
        env["PYTORCH_ALLOC_CONF"] = settings
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(folder / "t.memtrace")]
    done = subprocess.run(
        [*argv, *words], env=env, capture_output=True, text=True, timeout=240, cwd=folder
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-4000:]
    return memtrace.open(folder / "t.memtrace")


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("seed", range(6))
def test_random_pauses(tmp_path: Path, seed: int, setting: str) -> None:
    out = tmp_path / "torch.json"
    trace = run(tmp_path, str(PROGRAM), str(seed), str(out), settings=SETTINGS[setting])
    torch_says = json.loads(out.read_text())
    rows = [row for row in trace.allocations.to_pylist() if row["device"] != "cpu"]
    segments = trace.segments.to_pylist()
    starts = {row["name"]: row["start_seq"] for row in trace.stages.to_pylist()}
    for number, check in enumerate(torch_says["checks"]):
        seq = starts[f"check {number}"]
        ours = {
            (int(row["device"][5:]), row["address"]): (
                row["block_bytes"], row["size_bytes"],
                row["free_seq"] is None or row["free_seq"] >= seq, row["origin"],
            )
            for row in rows
            if row["alloc_seq"] < seq and (row["release_seq"] is None or row["release_seq"] >= seq)
        }  # fmt: skip
        theirs = {
            (device, address): (block, size, live, "preexisting" if paused else "recorded")
            for device, address, block, size, live, paused in check["blocks"]
        }
        assert ours == theirs, number
        for device in (0, 1):
            held = sum(
                row["size_bytes"]
                for row in segments
                if row["device"] == f"cuda:{device}"
                and row["alloc_seq"] < seq
                and (row["free_seq"] is None or row["free_seq"] >= seq)
            )
            assert held == sum(size for d, size in check["segments"] if d == device)
    (process,) = trace.processes.to_pylist()
    assert (process["lost_total"], process["unmatched_frees"]) == (0, 0)
    lost = json.loads(process["lost_events"])
    assert (lost["missed_frees"], lost["mirror_inconsistencies"]) == (0, 0)
    assert process["reconciled"] is True, process["reconcile_note"]
    assert process["mismatch_bytes"] == 0
    pauses = json.loads(process["paused_intervals"])
    ended = [
        row
        for row in rows
        if row["origin"] == "recorded"
        and any(start < (row["free_time_ns"] or 0) < end for start, end in pauses)
        and not any(start < row["alloc_time_ns"] < end for start, end in pauses)
    ]
    assert len(ended) == torch_says["ended_in_pause"]
