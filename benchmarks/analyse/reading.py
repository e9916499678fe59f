"""How long the commands take on a large trace, as a person waits for them: whole processes.

    python benchmarks/analyse/reading.py [--millions 10] [--rounds 5]

The trace is benchmarks/finalise/throughput.py's. Wall and CPU time are medians; the pages of the
trace are in the system's cache.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finalise.throughput import measure, write_spool

COMMANDS = {
    "summary": [],
    "peak": [],
    "peak --by stack": ["--by", "stack"],
    "at": ["--time", "5s"],
    "stages": [],
    "export": ["--to", "perfetto", "--force", "-o", "t.pftrace"],
}


# From a small process: a child's peak of resident memory begins with its parent's.
_LAUNCH = """
import os, sys, time
begun = time.perf_counter()
silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=silent)
_, status, use = os.wait4(pid, 0)
print(time.perf_counter() - begun, use.ru_utime + use.ru_stime, use.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(argv: list[str], folder: Path) -> tuple[float, ...]:
    """Wall and CPU seconds, and the peak of resident memory in MiB."""
    launch = [sys.executable, "-S", "-c", _LAUNCH, *argv]
    done = subprocess.run(launch, stdout=subprocess.PIPE, text=True, cwd=folder, check=True)
    return tuple(map(float, done.stdout.split()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        trace = Path(temporary) / "t.memtrace"
        write_spool(trace, int(options.millions * 1e6))
        print(measure(trace))
        for name, words in COMMANDS.items():
            argv = [sys.executable, "-m", "memtrace", name.split()[0], str(trace), *words]
            rounds = [run(argv, Path(temporary)) for _ in range(options.rounds)]
            wall_s, cpu_s, peak_mib = (statistics.median(part) for part in zip(*rounds))  # noqa: B905
            print(f"{name:16} {wall_s:6.2f} s   {cpu_s:6.2f} s CPU   {peak_mib:6.0f} MiB")


if __name__ == "__main__":
    main()
