"""A program whose child records some eight megabytes and ends; waits until that is finished."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from memtrace import recording

CHILD = "import torch\nfor i in range(40_000): torch.empty(i % 99 + 1)"

if __name__ == "__main__":
    subprocess.run([sys.executable, "-c", CHILD], check=True)
    recorded = recording.current()
    assert recorded is not None
    spools = Path(recorded.trace_dir) / "spool"
    deadline_s = time.monotonic() + 60
    while len(list(spools.glob("process=*"))) > 1 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    print([path.name for path in spools.glob("process=*")] == [f"process={recorded.key}"])
