"""Some of what `tests/fuzz/run.py` runs by the hundred thousand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[1] / "fuzz" / "run.py"


@pytest.mark.parametrize(
    ("only", "inputs"), [("snapshot", 600), ("chrome", 600), ("mprof", 600), ("traces", 150)]
)
def test_damaged_files_give_one_line(only: str, inputs: int) -> None:
    command = [sys.executable, RUN, "--only", only, "--inputs", str(inputs), "--seconds", "25"]
    done = subprocess.run([*command, "--seed", "7000000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    for outcome in ("refused", "read"):  # neither all good nor all bad
        (number,) = re.findall(rf"([\d,]+) {outcome}", last)
        assert int(number.replace(",", "")) >= 5, done.stdout
