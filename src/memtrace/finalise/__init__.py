"""From the raw spool of a recording to the datasets of FORMAT.md.

Runs in a process of its own, after the watched program ended (or when a reader finds the spool of
a killed one); of a long recording most is done while the program runs (compactor.py). Everything is
written under a temporary name first: whatever goes wrong, the spool is still there and can be
converted again.

Importing this package is cheap. The process is started together with the program, whose start it
must not slow down: pyarrow is imported when the conversion begins.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memtrace.finalise.convert import FinaliseResult, finalise, recover

__all__ = ["FinaliseResult", "finalise", "recover", "use_little_memory", "use_no_pandas"]


def use_little_memory() -> None:
    """For a process of the finaliser's own: pyarrow, once imported, gives back what it frees.

    By default it keeps much of it, for each thread that allocated. This costs some 5 % of the time.
    And pandas is left alone.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    use_no_pandas()


def use_no_pandas() -> None:
    """For a process that runs no code of the user's: pandas then seems not to be installed.

    pyarrow imports it, where it is, at the first list of words. That takes 0.2 s, a quarter of what
    a short command needs, and nothing here asks for it.
    """
    if _WithoutPandas not in sys.meta_path:
        sys.meta_path.insert(0, _WithoutPandas)


class _WithoutPandas:
    """Finds that it is not installed."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from memtrace.finalise import convert

    return getattr(convert, name)
