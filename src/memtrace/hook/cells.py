"""What a notebook's cells are called: IPython compiles each as a file of a temporary name.

Code of any cell may have allocated, that of a function defined long ago too: all that have been
run so far are written down when a recording finds torch, each later one before it is run (a kernel
is often killed: by whoever shuts it down and will not wait, or when memory is out), and at the end
those of a shell that came after torch.
"""

from __future__ import annotations

import sys

from memtrace import _core, recording
from memtrace.plain_json import to_json
from memtrace.recording import guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from memtrace.recording import Recording


def note_cells(recorded: Recording) -> None:
    """Write down, for each file of a cell, the number of its run: "In[3]"; nothing elsewhere."""
    compiler = _compiler()
    if compiler is None:
        return
    _watch(compiler)
    for file in list(sys.modules["linecache"].cache):  # where IPython puts the text of each
        _note(recorded, compiler, file)


def _compiler() -> Any:
    """What compiles the cells of this process; None where there are none."""
    interactive = sys.modules.get("IPython.core.interactiveshell")
    if interactive is None or not interactive.InteractiveShell.initialized():
        return None
    return interactive.InteractiveShell.instance().compile


def _note(recorded: Recording, compiler: Any, file: str) -> None:
    named = compiler.format_code_name(file)
    if named is not None:
        # Without a space: a source line is "FILE:LINE FUNCTION".
        note = {"file": file, "cell": named[1].replace(" ", "")}
        recorded.recorder.text(_core.KIND_source_map, 0, to_json(note).encode(errors="replace"))


def _watch(compiler: Any) -> None:
    """Hear of each cell once it has a name; once per compiler: nothing is noted unless recorded."""
    if isinstance(compiler.cache, _core.ObservedCall):
        return

    def named(file: str, *_: object) -> None:
        recorded = recording.current()
        if recorded is not None:
            guarded(_note, recorded, compiler, file)

    # In its own dictionary: what others have of the class stays as it is.
    compiler.cache = _core.observed(compiler.cache, after=named)
