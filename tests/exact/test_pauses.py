"""After a pause what is live is what torch's allocator holds: block for block, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import memtrace
import simcuda
from memtrace.replay.engine import verify
from memtrace.replay.requests import read_requests

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


HEAD = """
import json, memtrace, torch
def new(size):
    return torch.empty(size, dtype=torch.uint8, device="cuda")
"""


def small(folder: Path, text: str, *options: str) -> tuple[Any, dict[str, Any]]:
    """The trace of a small program, nothing odd in it, and its row of `processes`."""
    program = HEAD + textwrap.dedent(text)
    trace = run(folder, *options, "-c", program, devices=1)
    (process,) = trace.processes.to_pylist()
    assert (process["lost_total"], process["unmatched_frees"]) == (0, 0), process["lost_events"]
    assert json.loads(process["lost_events"])["mirror_inconsistencies"] == 0
    assert process["reconciled"] is True, process["reconcile_note"]
    return trace, process


def sizes(trace: Any, *, live: bool = False) -> dict[int, str]:
    """Origins by size; `live`: of what is live at the end."""
    return {
        row["size_bytes"]: row["origin"]
        for row in trace.allocations.to_pylist()
        if row["device"] == "cuda:0" and not (live and row["free_seq"] is not None)
    }


def test_a_pause_in_the_capture_of_a_graph(tmp_path: Path) -> None:
    trace, _ = small(tmp_path, """
        import warnings
        warnings.simplefilter("ignore")  # the graph is empty
        kept = [new(1001)]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept += [new(2001)]
            memtrace.pause()
            kept += [new(2002)]
            del kept[1]
            memtrace.resume()
            kept += [new(2003)]
        graph.replay()
        kept += [new(1002)]
    """)  # fmt: skip
    everything = {
        1001: "recorded", 2001: "recorded", 2002: "preexisting", 2003: "recorded", 1002: "recorded",
    }  # fmt: skip
    assert {size: origin for size, origin in sizes(trace).items() if size > 1000} == everything
    pools = {
        row["size_bytes"]: row["pool"].partition(":")[0]
        for row in trace.allocations.to_pylist()
        if row["device"] == "cuda:0"
    }
    assert [pools[size] for size in (1001, 2001, 2002, 2003)] == ["default", *["graph"] * 3]


def test_cuda_comes_up_in_a_pause(tmp_path: Path) -> None:
    trace, process = small(tmp_path, """
        kept, gone = new(3 << 20), new(5 << 20)
        del gone
        memtrace.resume()
        kept = [kept, new(7 << 20)]
    """, "--paused")  # fmt: skip
    assert sizes(trace) == {3 << 20: "preexisting", 7 << 20: "recorded"}
    assert json.loads(process["paused_peaks"]) == {"cuda:0": 8 << 20}


def test_the_peak_of_a_pause_and_a_failure_in_it(tmp_path: Path) -> None:
    trace, process = small(tmp_path, """
        kept = new(2 << 20)
        memtrace.pause()
        big = new(64 << 20)
        del big
        try: new(1 << 40)
        except torch.OutOfMemoryError: pass
        memtrace.resume()
        small = new(1 << 20)
        memtrace.pause()
        memtrace.resume()
    """)  # fmt: skip
    assert json.loads(process["paused_peaks"]) == {"cuda:0": 66 << 20}
    assert [e["size_bytes"] for e in trace.events.to_pylist() if e["action"] == "oom"] == [1 << 40]
    argv = [sys.executable, "-m", "memtrace"]
    peak = subprocess.run([*argv, "peak", trace.path], capture_output=True, text=True, check=True)
    said = "a peak meanwhile is not seen; torch counted up to 66.00 MiB of cuda:0"
    assert said in " ".join(peak.stdout.split())
    again = subprocess.run([*argv, "replay", trace.path], capture_output=True, text=True)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "the recording was paused while the program used cuda:0" in again.stderr


def test_what_follows_a_pause_at_the_beginning_can_be_replayed(tmp_path: Path) -> None:
    trace, _ = small(tmp_path, """
        kept, other = [new(3 << 20) for _ in range(9)], [new(100) for _ in range(9)]
        del kept[::2], other[::2]
        torch.cuda.empty_cache()
        memtrace.resume()
        for size in range(1, 40):
            kept += [new(size << 19), new(size << 3)]
            del kept[size % 7]
    """, "--paused")  # fmt: skip
    found = verify(read_requests(trace, device="cuda:0"))
    assert found.divergence is None
    assert found.run.last_bytes["allocated"] == trace.events.to_pylist()[-1]["allocated_bytes"]
