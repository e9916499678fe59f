"""torch.profiler's names of Python functions and modules, as frames."""

from __future__ import annotations

import re
from collections.abc import Sequence

from memtrace.imports.chrome_trace.events import MODULE
from memtrace.imports.stacks import Frame

_FUNCTION = re.compile(r"(?P<file>.*)\((?P<line>\d{1,9})\): (?P<function>.*)", re.DOTALL)
_NUMBER = re.compile(r"_\d+$")
# The profiler cuts off the folder of sys.path that a file lies in. Of torch it is known.
_CUT_OFF, _CUT_OFF_OF_TORCH = ".../", ".../site-packages/"
_CALL_FILE, _CALL = ".../site-packages/torch/nn/modules/module.py", "_wrapped_call_impl"


def class_of(module: str) -> str:
    """Of "Linear_0": Linear."""
    return _NUMBER.sub("", module)


def frames_of(calls: Sequence[tuple[int, str]]) -> tuple[Frame, ...]:
    """Frames, innermost first, of running calls (kind and name), outermost first.

    A module is called by its place in those around it: "Net_0.Linear_1".
    """
    frames = []
    path = ""
    for kind, name in calls:
        if kind == MODULE:
            path = f"{path}.{name}" if path else name
            frames.append(Frame(_CALL, _CALL_FILE, 0, (path, class_of(name))))
        else:
            frames.append(_function(name))
    return tuple(reversed(frames))


def _function(name: str) -> Frame:
    found = _FUNCTION.fullmatch(name)
    if found is None:
        return Frame(name, "?", 0)
    file = found["file"]
    if file.startswith("torch/"):
        file = _CUT_OFF_OF_TORCH + file
    elif not file.startswith(("/", "<")):
        file = _CUT_OFF + file
    return Frame(found["function"], file, int(found["line"]))
