"""Instructions per CUDA event, operators and stacks off, beyond a tracker that does nothing.

    python benchmarks/record/event_instructions.py

Needs g++ and valgrind. Counts are callgrind's, so they do not depend on the machine's load.
"""

from __future__ import annotations

import re
import subprocess
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = [
    "benchmarks/record/event_instructions.cpp",
    "csrc/hook/thread_state.cpp",
    "csrc/record/recorder.cpp",
    "csrc/record/spool_file.cpp",
    "csrc/record/writer_life.cpp",
]


def build(folder: Path) -> Path:
    """Compiles the driver with the flags of a release build."""
    program = folder / "event_instructions"
    flags = ["-std=c++20", "-O3", "-DNDEBUG", f"-I{ROOT / 'csrc'}", "-pthread"]
    include = sysconfig.get_path("include")
    sources = [str(ROOT / source) for source in SOURCES]
    subprocess.run(["g++", *flags, "-isystem", include, *sources, "-o", str(program)], check=True)
    return program


def instructions(program: Path, tracker: str, events: int, folder: Path) -> int:
    """Callgrind's count for the whole run of `events` events."""
    spool = Path(tempfile.mkdtemp(dir=folder))
    argv = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
    argv += [str(program), tracker, str(events), str(spool)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
    assert found, done.stderr
    return int(found.group(1))


def per_event(program: Path, tracker: str, folder: Path) -> float:
    """Instructions per event, the start-up taken out; windows filling up are in."""
    few, many = 20_000, 120_000
    more = instructions(program, tracker, many, folder) - instructions(
        program, tracker, few, folder
    )
    return more / (many - few)


def measure(*trackers: str) -> list[float]:
    """Instructions per event: `nothing`, `floor`, memtrace's `record`, `stacks`, `paused`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = build(folder)
        return [per_event(program, tracker, folder) for tracker in trackers]


def main() -> None:
    trackers = ("nothing", "floor", "record", "stacks", "paused")
    nothing, floor, record, stacks, paused = measure(*trackers)
    print(f"a tracker that does nothing  {nothing:6.1f} instructions per event")
    print(f"the clock and a record       {floor:6.1f}")
    print(f"memtrace's                   {record:6.1f}")
    print(f"beyond nothing               {record - nothing:6.1f}   (goal: at most 60)")
    print(f"with stacks, without a walk  {stacks - nothing:6.1f}")
    print(f"beyond nothing, in a pause   {paused - nothing:6.1f}")


if __name__ == "__main__":
    main()
