"""memtrace: what is in a PyTorch program's memory, why, and what would make it smaller.

Importing this package is cheap and pulls in neither torch nor anything that reads traces: it is
imported by the very programs that are being watched.

PYTEST_DONT_REWRITE: a pytest that is watched finds the package of its plugin imported already, and
would warn that it can rewrite no assertions here; there are none.
"""

from __future__ import annotations

from memtrace.errors import MemtraceError
from memtrace.session import label, pause, paused, record, resume, stage, step

TYPE_CHECKING = False  # `typing` is not imported at run time: see run/site/sitecustomize.py
if TYPE_CHECKING:
    import os
    from typing import Any

    from memtrace.trace import Trace

__version__ = "0.1.0"
__all__ = [
    "MemtraceError",
    "__version__",
    "label",
    "open",
    "pause",
    "paused",
    "record",
    "resume",
    "stage",
    "step",
]


def open(path: str | os.PathLike[str]) -> Trace:  # noqa: A001  # memtrace.open, as gzip.open
    """Open a trace: its tables (pyarrow), the peak of a device, what was live at a time."""
    from memtrace.trace import open_trace

    return open_trace(path)


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext memtrace`: the magics %%memtrace and %memtrace."""
    from memtrace.frameworks.notebook import add_magics

    add_magics(shell)
