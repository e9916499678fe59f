"""The bar: on a terminal, when something lasts, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from memtrace.progress import progress
total = None if sys.argv[2] == "unknown" else 4
with progress("counting", total=total) as advance:
    for _ in range(4):
        time.sleep(float(sys.argv[1]) / 4)
        advance(1)
print("rich" in sys.modules)
"""


def on_a_terminal(seconds: float, total: str = "known") -> tuple[str, str]:
    """What the program prints on stdout, and on a terminal as stderr."""
    primary, secondary = os.openpty()
    words = [sys.executable, "-c", PROGRAM, str(seconds), total]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    try:
        done = subprocess.run(
            words, check=True, stdout=subprocess.PIPE, stderr=secondary, text=True, env=environment
        )
        os.close(secondary)
        shown = b""
        while True:
            try:
                read = os.read(primary, 1 << 16)
            except OSError:  # how a terminal says that its other end is closed
                break
            if not read:
                break
            shown += read
    finally:
        os.close(primary)
    return done.stdout, shown.decode()


@pytest.mark.parametrize("total", ["known", "unknown"])
def test_what_lasts_has_a_bar(total: str) -> None:
    out, shown = on_a_terminal(1.6, total)
    assert "memtrace: counting" in shown
    assert ("%" in shown) == (total == "known")
    assert shown.rstrip().endswith("\x1b[2K")  # and none is left of it
    assert out == "True\n"


def test_what_is_soon_done_has_none() -> None:
    assert on_a_terminal(0.01) == ("False\n", "")


def test_no_bar_in_a_pipe() -> None:
    words = [sys.executable, "-c", PROGRAM, "0.9", "known"]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
