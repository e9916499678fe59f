"""What a notebook's cells are called: IPython compiles each as a file of a temporary name.

Code of any cell may have allocated, that of a function defined long ago too: all that have been
run so far are written down as a recording ends.
"""

from __future__ import annotations

import sys

from memtrace import _core
from memtrace.plain_json import to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memtrace.recording import Recording


def note_cells(recorded: Recording) -> None:
    """Write down, for each file of a cell, the number of its run: "In[3]"; nothing elsewhere."""
    interactive = sys.modules.get("IPython.core.interactiveshell")
    if interactive is None or not interactive.InteractiveShell.initialized():
        return
    compiler = interactive.InteractiveShell.instance().compile
    for file in list(sys.modules["linecache"].cache):  # where IPython puts the text of each
        named = compiler.format_code_name(file)
        if named is not None:
            # Without a space: a source line is "FILE:LINE FUNCTION".
            note = {"file": file, "cell": named[1].replace(" ", "")}
            recorded.recorder.text(_core.KIND_source_map, 0, to_json(note).encode(errors="replace"))
