"""What `memtrace live` costs: of a core, and of the program that it follows.

    python benchmarks/live/following.py [--pairs 8] [--seconds 3] [--work torch.empty training]

A recorded program works all the time. Beside it `memtrace live` runs in a terminal of its own (a
pty of 80x24), or stands still (SIGSTOP): both by turns, a pair at a time, so that what else goes on
in the machine meets both. Printed: the share of one core that live takes, and what that is per
event; then what it costs the program, in its CPU time per round and in its wall time: the median
of the ratios of pairs, and quartiles. The latter means something on a machine that does nothing
else.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WORK = {
    "torch.empty": """
import torch
def work():
    for _ in range(20000):
        torch.empty(1000)
""",
    "training": """
import torch
layers = [m for _ in range(8) for m in (torch.nn.Linear(256, 256), torch.nn.ReLU())]
model = torch.nn.Sequential(*layers)
optimizer = torch.optim.Adam(model.parameters())
data = torch.randn(64, 256)
def work():
    for _ in range(5):
        model(data).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
""",
}
_LOOP = """
import sys, time
torch.set_num_threads(1)
rounds = 0
while True:
    work()
    rounds += 1
    sys.stdout.write(f"{rounds} {time.perf_counter_ns()} {time.process_time_ns()}\\n")
    sys.stdout.flush()
"""
_TICKS = os.sysconf("SC_CLK_TCK")


class Program:
    """Recorded, at full speed; its progress is read by a thread."""

    def __init__(self, folder: Path, work: str) -> None:
        script = folder / "program.py"
        script.write_text(WORK[work] + _LOOP)
        self.trace = folder / "t.memtrace"
        argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(self.trace)]
        self.process = subprocess.Popen([*argv, str(script)], stdout=subprocess.PIPE, text=True)
        self.progress = (0, 0, 0)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            rounds, wall_ns, cpu_ns = map(int, line.split())
            self.progress = (rounds, wall_ns, cpu_ns)

    def cost(self, seconds: float) -> tuple[float, float]:
        """Of a round, from now on: CPU time and wall time, in ns."""
        begin = self.progress
        time.sleep(seconds)
        end = self.progress
        rounds = end[0] - begin[0]
        return (end[2] - begin[2]) / rounds, (end[1] - begin[1]) / rounds


@contextmanager
def live_beside(trace: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`memtrace live` in a pseudo-terminal whose output is read and thrown away."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    argv = [sys.executable, "-m", "memtrace", "live", str(trace)]
    process = subprocess.Popen(
        argv, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm"}
    )
    os.close(slave)

    def drain() -> None:
        try:
            while os.read(master, 65536):
                pass
        except OSError:
            return

    threading.Thread(target=drain, daemon=True).start()
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def events_of(trace: Path) -> int:
    from memtrace.live.follow import TraceFollower

    (process,) = TraceFollower(trace).refresh(points=1, most_s=60).processes
    return process.events


def measure(work: str, pairs: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as name:
        program = Program(Path(name), work)
        try:
            while not program.progress[0]:
                time.sleep(0.1)
            with live_beside(program.trace) as live:
                time.sleep(6)  # it has started, and read what was there
                costs: list[tuple[float, float]] = []
                shares = []
                for pair in range(pairs):
                    cost = {}
                    for following in (True, False) if pair % 2 else (False, True):
                        os.kill(live.pid, signal.SIGCONT if following else signal.SIGSTOP)
                        time.sleep(0.5)
                        begin_s, begin = time.monotonic(), cpu_seconds(live.pid)
                        cost[following] = program.cost(seconds)
                        if following:
                            taken = cpu_seconds(live.pid) - begin
                            shares.append(taken / (time.monotonic() - begin_s))
                    pairs_of = zip(cost[True], cost[False], strict=True)
                    costs.append(tuple(with_it / alone for with_it, alone in pairs_of))
                os.kill(live.pid, signal.SIGCONT)
            before, begin_s = events_of(program.trace), time.monotonic()
            time.sleep(2)
            speed = (events_of(program.trace) - before) / (time.monotonic() - begin_s)
        finally:
            program.process.kill()
            program.process.wait()
            time.sleep(1)
            while (program.trace / "spool" / "end.fifo").exists():  # the finaliser works
                time.sleep(0.5)
    share = statistics.median(shares)
    cpu, wall = (statistics.quantiles(ratios, n=4) for ratios in zip(*costs, strict=True))
    print(
        f"{work:12} {speed:>10,.0f} events/s  live takes {share:5.1%} of a core "
        f"({share / speed * 1e9:,.0f} ns an event)  the program's CPU time x{told(cpu)}, "
        f"wall time x{told(wall)}",
        flush=True,
    )


def told(quartiles: list[float]) -> str:
    return "{1:.3f} ({0:.3f} to {2:.3f})".format(*quartiles)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--work", nargs="+", choices=list(WORK), default=list(WORK))
    arguments = parser.parse_args()
    for work in arguments.work:
        measure(work, arguments.pairs, arguments.seconds)


if __name__ == "__main__":
    main()
