"""Where code that torch.compile generated comes from, as Inductor knows it.

Generated code allocates without any operator. Inductor remembers for each of its files which line
begins the work of which node of the graph, with the node's Python stack (torch's own memory
snapshots are annotated from the same table). But its cache gives one file to all programs with an
equal graph, with the lines of the program that came first: what is not a line of this program, as
the stack quotes it, is left out.
"""

from __future__ import annotations

import linecache
import re
import sys

from memtrace import _core, recording
from memtrace.hook import arrival
from memtrace.plain_json import to_json
from memtrace.recording import guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from types import ModuleType
    from typing import Any

    from memtrace.recording import Recording

# Under which the module hangs that torch.compile(module) wraps.
_WRAPPED = "_orig_mod"
# Of a stack as Python prints it: file, line, function, and the line's text.
_FRAME = re.compile(r'File "(.+)", line (\d+), in (.+)\n +(.+)\n')


_CODECACHE = "torch._inductor.codecache"


def is_wrapped(around: object, name: str) -> bool:
    """Whether the child of that name is what torch.compile() made the module around it of."""
    eval_frame = sys.modules.get("torch._dynamo.eval_frame")
    return name == _WRAPPED and type(around) is getattr(eval_frame, "OptimizedModule", None)


def watch_loads() -> None:
    """Hear of each generated file that is loaded, now or once Inductor has been imported."""
    arrival.on_import(_CODECACHE, _watch)


def _watch(codecache: ModuleType) -> None:
    cache: Any = getattr(codecache, "PyCodeCache", None)
    load = getattr(cache, "load_by_key_path", None)
    # Once per process: what it tells of goes to the recording of that moment.
    if load is not None and not isinstance(load, _core.ObservedCall):
        cache.load_by_key_path = _core.observed(load, after=_loaded)


def _loaded(*_: object) -> None:
    recorded = recording.current()
    if recorded is not None and recorded.hook is not None:
        guarded(recorded.hook.note_compiled)


class CompiledCode:
    """The generated files of one recording that are written down already."""

    def __init__(self, recorded: Recording) -> None:
        self._recorder = recorded.recorder
        self._noted: set[str] = set()

    def note_new(self) -> None:
        """Write down where the files come from that were generated since."""
        codecache = sys.modules.get(_CODECACHE)
        maps: dict[str, Any] = (
            getattr(getattr(codecache, "PyCodeCache", None), "linemaps", None) or {}
        )
        new = [path for path in list(maps) if path not in self._noted]
        if not new:
            return
        loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        loaded.update(linecache.cache)  # of a notebook's cells
        for path in new:
            self._noted.add(path)
            note = {"file": path, "lines": _lines(maps[path], loaded)}
            self._recorder.text(_core.KIND_source_map, 0, to_json(note).encode(errors="replace"))


def _lines(linemap: list[tuple[Any, ...]], loaded: Container[object]) -> list[object]:
    """[[first line, frames, innermost first: [[file, line, function], ...]], ...]."""
    if len(linemap) != 2:  # nothing in it: torch keeps it as columns
        return []
    return [[first, _frames(stack, loaded)] for first, stack in zip(*linemap, strict=False)]


def _frames(stack: object, loaded: Container[object]) -> list[list[object]]:
    found = _FRAME.findall(stack) if isinstance(stack, str) else []
    for file, line, _, text in found:
        if file not in loaded or linecache.getline(file, int(line)).strip() != text.strip():
            return []
    return [[file, int(line), function] for file, line, function, _ in reversed(found)]
