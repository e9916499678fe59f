"""C code that stands before the C library in a program: what a test cannot ask of the system."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def preloaded(source: str, folder: Path) -> dict[str, str]:
    """The variables under which a program is run with `source`, compiled into `folder`."""
    code, library = folder / "preloaded.c", folder / "preloaded.so"
    code.write_text(source)
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, code, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)}
