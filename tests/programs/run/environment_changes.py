"""Changes its folder and its PYTHONPATH, then starts children."""

from __future__ import annotations

import os
import subprocess
import sys

os.chdir("/")
before = os.environ.pop("PYTHONPATH", None)
print(
    subprocess.run([sys.executable, "-c", "import sys; print(len(sys.path))"], capture_output=True)
)
os.environ["PYTHONPATH"] = "/somewhere"
code = "import sys; print(sys.path[1])"
print(subprocess.run([sys.executable, "-c", code], capture_output=True))
print(os.getcwd())
