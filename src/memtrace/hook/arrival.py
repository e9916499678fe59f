"""Calls back right after a module has been imported, whoever imports it and however late; or when
its import fails.

The module's __spec__ and __loader__ are Python's own, and no frame of ours shows in the traceback
of an import that fails: what stands around the import is a native callable.
"""

from __future__ import annotations

import sys

from memtrace import _core
from memtrace.recording import guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    # What to call once a module is there, and each time that its import has failed until then.
    Callbacks = tuple[Callable[[ModuleType], None], Callable[[BaseException], None] | None]

_waiting: dict[str, list[Callbacks]] = {}


def on_import(
    name: str,
    arrived: Callable[[ModuleType], None],
    failed: Callable[[BaseException], None] | None = None,
) -> None:
    """Call back with the module: now if it has been imported, else once it has been."""
    module = sys.modules.get(name)
    if module is not None and not _is_being_imported(module):
        guarded(arrived, module)
        return
    waiting = _waiting.setdefault(name, [])
    if (arrived, failed) not in waiting:  # an earlier recording may have asked the same
        waiting.append((arrived, failed))
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def forget_all() -> None:
    """Nobody waits any more: the recording has ended, or this is a forked child."""
    _waiting.clear()
    _leave_meta_path()


def _is_being_imported(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


class _Watch:
    """A finder that finds what the others find, and arms the loader of a module waited for."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _waiting:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            if find is None or isinstance(finder, _Watch):
                continue
            spec: ModuleSpec | None = find(name, path, target)
            if spec is not None:
                guarded(_arm, spec)
                return spec
        return None


def _arm(spec: ModuleSpec) -> None:
    loader = spec.loader
    assert loader is not None

    def before(*_: object) -> None:
        loader.__dict__.pop("exec_module", None)

    def after(*_: object) -> None:
        _arrived(spec.name)

    def failed(error: BaseException) -> None:
        for _, tell in _waiting.get(spec.name, []):
            if tell is not None:
                guarded(tell, error)

    # In the loader's own dictionary, and only until it is called.
    observed = _core.observed(loader.exec_module, before=before, after=after, failed=failed)
    loader.exec_module = observed  # type: ignore[method-assign]


def _arrived(name: str) -> None:
    module = sys.modules.get(name)
    callbacks = _waiting.pop(name, [])
    if not _waiting:
        _leave_meta_path()
    if module is not None:
        for arrived, _ in callbacks:
            guarded(arrived, module)


def _leave_meta_path() -> None:
    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, _Watch)]
