"""A long recording: the disk that it takes while it runs, and how long the end of the run takes.

    python benchmarks/record/long_run.py [--steps 20000] [--max-disk 200MiB]
    python benchmarks/record/long_run.py --flood 30000000 --max-disk 64MiB

Training steps of a small model under `memtrace run`, twice: with the finaliser beside it, which
compacts what was recorded, and with one that is killed at the start, so that all is converted at
the end (`memtrace recover`). Or so many allocations by a program that does nothing else, which
outruns the finaliser, once.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from finalise.recorded_spools import finaliser_of, start
from memtrace import _core
from memtrace.trace import open_trace

MIB = 1 << 20
PROGRAMS = Path(__file__).resolve().parents[2] / "tests/programs/compaction"
_SAMPLES = 10


def disk_bytes(folder: Path) -> int:
    """What its files take, also while they come and go."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:
            continue
    return total


def recorded_end(trace: Path) -> bool:
    """The program's own recording is complete: what follows is the end of the run."""
    spools = list((trace / "spool").glob("process=*"))
    try:
        return not spools or bool(_core.SpoolReader(spools[0]).control["complete"])
    except _core.SpoolError:  # it was just taken away
        return True


def cpu_s(pid: int) -> float:
    """That a process has used; 0 when it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def follow(
    process: subprocess.Popen[bytes], trace: Path, look: Callable[[], object] = int
) -> tuple[list[int], float]:
    """The disk's bytes every second while it runs, and how long its end took."""
    taken: list[int] = []
    ended_s = None
    looked_s = 0.0
    while process.poll() is None:
        now_s = time.monotonic()
        if now_s - looked_s > 1:
            looked_s = now_s
            taken.append(disk_bytes(trace))
        if ended_s is None:
            look()
            if recorded_end(trace):
                ended_s = now_s
        time.sleep(0.2)
    return taken, time.monotonic() - (ended_s or time.monotonic())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--flood", type=int, metavar="ALLOCATIONS")
    parser.add_argument("--max-disk", help="of the first recording")
    arguments = parser.parse_args()
    options = ("--max-disk", arguments.max_disk) if arguments.max_disk else ()
    program, times = PROGRAMS / "training.py", str(arguments.steps)
    if arguments.flood:
        program, times = PROGRAMS / "flooding.py", str(arguments.flood)
    with tempfile.TemporaryDirectory(prefix="memtrace-long-") as folder:
        trace = Path(folder) / "compacted.memtrace"
        process = start(trace, program, times, options=options)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        finaliser = finaliser_of(trace)
        used: list[tuple[float, float]] = []
        taken, end_s = follow(
            process, trace, lambda: used.append((cpu_s(finaliser), cpu_s(process.pid)))
        )
        (found,) = open_trace(trace).process_list
        events = found.row["events"]
        shown = [taken[len(taken) * i // _SAMPLES] // MIB for i in range(min(_SAMPLES, len(taken)))]
        print(
            f"compacted: {events:,} events; disk while it ran {shown} MiB, at most "
            f"{max(taken) / MIB:.0f}, then {disk_bytes(trace) / MIB:.0f}; "
            f"its end took {end_s:.1f} s"
        )
        ours, programs = used[-1]
        print(f"  the finaliser used {ours:.1f} s of CPU while the program used {programs:.1f} s")
        print(f"  lost {found.row['lost_total']}, left out {found.row['dropped']}")
        if arguments.flood:
            return
        trace = Path(folder) / "afterwards.memtrace"
        process = start(trace, program, times)
        os.kill(finaliser_of(trace), signal.SIGKILL)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        taken, _ = follow(process, trace)
        begin_s = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "memtrace", "recover", str(trace)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        print(
            f"converted afterwards: disk at most {max(taken) / MIB:.0f} MiB, then "
            f"{disk_bytes(trace) / MIB:.0f}; its end took {time.monotonic() - begin_s:.1f} s"
        )


if __name__ == "__main__":
    main()
