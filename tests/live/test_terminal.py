"""`memtrace live` in a real terminal (tmux), beside a program that runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from live.stopping_program import settled, stopping_program
from memtrace.live.follow import TraceFollower
from memtrace.report.units import size

_PATIENCE_S = 60.0


class Terminal:
    """A terminal of 80x24 in which one command runs."""

    def __init__(self, socket: Path) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words], capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout

    def shows(self, *texts: str) -> str:
        """Waits until it shows all of them."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:
            screen = self.run("capture-pane", "-p")
            if all(text in screen for text in texts):
                return screen
            assert time.monotonic() < deadline_s, f"{texts} in\n{screen}"
            time.sleep(0.1)


@contextmanager
def terminal(folder: Path, command: str) -> Iterator[Terminal]:
    made = Terminal(folder / "tmux")
    made.run("new-session", "-d", "-x", "80", "-y", "24", command)
    try:
        yield made
    finally:
        made.run("kill-server")


def test_a_person_watches_a_program_and_leaves(tmp_path: Path) -> None:
    trace = tmp_path / "t.memtrace"
    with stopping_program(trace) as program:
        for _ in range(4):
            program.go_on()
        (process,) = settled(TraceFollower(trace)).processes
        (device,) = process.devices
        live = f"{sys.executable} -m memtrace live {trace} --interval 0.2"
        with terminal(tmp_path, f"{live}; echo left with $?; cat") as screen:
            seen = screen.shows(
                str(process.pid),
                f"allocated {size(device.allocated_bytes)}",
                f"peak so far {size(device.peak_bytes)}",
                *(size(holder.now_bytes) for holder in device.top("category")),
                "blocks.0.up",
                "q Quit",
            )
            footer = seen.splitlines()[-1]
            for key in ("q Quit", "d Device", "p Process", "s Now/peak", "space Pause", "? Help"):
                assert key in footer
            program.go_on()
            (process,) = settled(TraceFollower(trace)).processes
            assert process.devices[0].allocated_bytes > device.allocated_bytes
            screen.shows(f"allocated {size(process.devices[0].allocated_bytes)}")
            screen.run("send-keys", "q")
            screen.shows("left with 0")
        # The program did not notice.
        assert program.go_on() is not None
