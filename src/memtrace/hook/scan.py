"""Names of what models hold: weights and buffers by identity, never by guessing.

Root modules are found by the native frame walk. A look walks the dictionaries that every nn.Module
keeps, as they lie in it, and asks tensors by torch's own methods, so no method of the program's
classes runs; and it writes what is new or has moved since the last look. What is to be said of host
memory that the allocator's hook has not seen is said by host_memory.py.
"""

from __future__ import annotations

import gc
import struct
import weakref

from memtrace import _core
from memtrace.hook.compiled import CompiledCode, is_wrapped, watch_loads
from memtrace.hook.host_memory import HostMemory
from memtrace.plain_json import to_json
from memtrace.recording import guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType
    from typing import Any, TypeVar

    from memtrace.hook.native import NativeHook
    from memtrace.recording import Recording

    Result = TypeVar("Result")

# What hangs in each other's places many times over has more paths than anyone can read.
_PATHS_LIMIT = 200_000
# Models that are gone are forgotten when so many are known.
_LEAST_SWEEP = 64
# What tells whether a tensor lies where it lay at the last look.
_PLACE = ("address", "bytes", "offset_bytes", "resident_bytes")


class _Root:
    """A model that was seen being called."""

    def __init__(self, module: Any, number: int) -> None:
        self.reference = weakref.ref(module)
        self.number = number
        self.key = number or -id(module)  # 0: of a module whose death cannot be seen
        self.class_name = type(module).__name__
        # What each tensor was when it was last written down, and its storage: another one may lie
        # at the same address by now.
        self.seen: dict[str, tuple[tuple[object, ...], weakref.ref[Any]]] = {}
        self.paths: set[int] = set()


class Scan:
    """The looks of one recording at the models of the program."""

    def __init__(self, recorded: Recording, torch: ModuleType, native: NativeHook) -> None:
        self._recorder = recorded.recorder
        self._torch = torch
        self._native = native
        # By key: a program may make and keep a model for each call, and none is looked for in all.
        # Other threads may look meanwhile, so a copy is gone through.
        self._roots: dict[int, _Root] = {}
        self._parts: set[int] = set()  # numbers of the modules that hang in them
        self._sweep_at = _LEAST_SWEEP
        self._host = HostMemory(recorded, native.storage_address)
        self._compiled = CompiledCode(recorded)
        self._cpu_recorded = recorded.options.cpu
        self._every_stack = recorded.options.stacks and not recorded.options.stack_min_bytes

    def begin(self) -> None:
        """Look at each root soon after it was first seen, from then on."""
        self._native.set_root_callback(self.look_at_new)
        self._native.set_unnamed_callback(self.look)
        self._native.set_old_state_callback(self.look_at_old_state)
        self._native.set_look(self.look_again)
        guarded(_watch_swaps, self._torch, self._native)
        guarded(watch_loads)

    def end(self) -> None:
        """No more looks."""
        self._native.set_root_callback(None)
        self._native.set_unnamed_callback(None)
        self._native.set_old_state_callback(None)
        self._native.set_look(None)
        self._roots.clear()
        self._parts.clear()

    def look_last(self) -> None:
        """The look at the end; where stacks cannot show every model, all that are alive."""
        if not self._every_stack:
            known = {id(root.reference()) for root in list(self._roots.values())}
            for module in self._outer_modules():
                if id(module) not in known:
                    root = _Root(module, self._native.module_id(module))
                    self._roots[root.key] = root
        self.look()

    def look(self) -> None:
        """Write down what the known models hold now and is not written yet."""
        self._take_new_roots()
        self.note_compiled()
        _unseen(self._torch, self._look_at_all)

    def note_compiled(self) -> None:
        """Write down where generated code comes from that was loaded since."""
        self._compiled.note_new()

    def _look_at_all(self) -> None:
        self._host.begin_look()
        for root, modules in self._outer_roots():
            self._look_at(root, modules)

    def look_at_new(self) -> None:
        """Likewise, of the models alone that were first seen since; programs make many."""
        _unseen(self._torch, self._look_at_each, self._take_new_roots())

    def look_again(self, module: Any) -> None:
        """Before a call of a model: what it holds may have moved; None: all that are known."""
        if module is None:
            self.look()
            return
        self._take_new_roots()
        root = self._roots.get(self._native.module_id(module))
        if root is not None:
            _unseen(self._torch, self._look_at_each, [root])

    def _look_at_each(self, roots: list[_Root]) -> None:
        self._host.renew()
        for root in roots:
            module = root.reference()
            # A part of a model that was looked at is named there.
            if module is not None and root.number not in self._parts:
                self._look_at(root, list(self._walk(module)))

    def look_at_old_state(self, state: Any) -> None:
        """An optimizer has stepped before the recording: its state's memory is told of."""
        _unseen(self._torch, self._note_memory, list(_tensors_in(state, self._torch.Tensor)))

    def _note_memory(self, tensors: Iterable[Any]) -> None:
        """That there is memory; what it is, others say."""
        self._host.renew()
        for tensor in tensors:
            for _, facts, _ in self._describe(tensor):
                if facts["device"] == "cpu":
                    self._write_note({**facts, "name": None, "kind": None})

    def _take_new_roots(self) -> list[_Root]:
        if len(self._roots) >= self._sweep_at:
            roots = list(self._roots.values())
            self._keep([root for root in roots if root.reference() is not None])
            self._sweep_at = max(2 * len(self._roots), _LEAST_SWEEP)
        taken = [_Root(m, number) for number, m in self._native.take_new_roots()]
        new = {root.key: root for root in taken if root.key not in self._roots}
        self._roots.update(new)
        return list(new.values())

    def _keep(self, roots: list[_Root]) -> None:
        self._roots = {root.key: root for root in roots}
        self._parts = set().union(*(root.paths - {root.number} for root in roots))

    def _outer_roots(self) -> list[tuple[_Root, list[tuple[str, Any]]]]:
        """The roots that lie in no other known root, with all modules in each by path.

        A part of a model that was called on its own is the model's: it is named there.
        """
        inside: set[int] = set()  # id() of the modules within the roots so far
        walked: list[tuple[_Root, Any, list[tuple[str, Any]]]] = []
        inner: list[_Root] = []
        for root in list(self._roots.values()):
            module = root.reference()
            if module is None:
                continue
            if id(module) in inside:
                inner.append(root)
                continue
            modules = list(self._walk(module))
            inside.update(id(part) for _, part in modules if part is not module)
            walked.append((root, module, modules))
        outer = [(root, modules) for root, module, modules in walked if id(module) not in inside]
        inner += [root for root, module, _ in walked if id(module) in inside]
        self._keep([root for root, _ in outer] + inner)  # those first: one walk finds the others
        return outer

    def _look_at(self, root: _Root, modules: list[tuple[str, Any]]) -> None:
        if not root.seen:  # they may be older than the recording, whose backward names later ones
            guarded(self._note_memory, list(self._gradients_in(modules)))
        for path, inner in modules:
            number = self._native.module_id(inner)
            if number and number not in root.paths:
                root.paths.add(number)
                if number != root.number:
                    self._parts.add(number)
                # What torch.compile wraps has no path in the wrapper: it is shown as a root is.
                shown = path or (type(inner).__name__ if number != root.number else "")
                payload = struct.pack("<I", root.number) + shown.encode(errors="replace")
                self._recorder.text(_core.KIND_module_path, number, payload)
            for kind, table in (("weight", "_parameters"), ("buffer", "_buffers")):
                for name, tensor in self._items(inner, table):
                    if tensor is not None:
                        full_name = f"{path}.{name}" if path else str(name)
                        guarded(self._note_tensor, root, full_name, kind, tensor)
                        if kind == "weight":
                            guarded(self._native.hold_parameter, tensor, full_name)

    def _note_tensor(self, root: _Root, name: str, kind: str, tensor: Any) -> None:
        for part, facts, storage in self._describe(tensor):
            full_name = f"{name}.{part}" if part else name
            # Pages of a mapped file become resident as they are read: the last look counts.
            now = tuple(facts[key] for key in _PLACE)
            before = root.seen.get(full_name)
            if before is not None and before[0] == now and before[1]() is storage:
                continue
            root.seen[full_name] = now, weakref.ref(storage)
            said = {"root": root.class_name, "root_id": root.number}
            self._write_note({**facts, "name": full_name, "kind": kind, **said})

    def label(self, tensor: Any, name: str | None, category: str | None) -> None:
        """memtrace.label: the user's word on one tensor."""
        for _, facts, _ in _unseen(self._torch, self._describe_labelled, tensor):
            said = {"name": name, "kind": "label", "category": category, "label": name}
            self._write_note({**facts, **said})

    def _describe_labelled(self, tensor: Any) -> list[tuple[str, dict[str, Any], Any]]:
        self._host.renew()
        return list(self._describe(tensor))

    def _describe(self, tensor: Any) -> Iterator[tuple[str, dict[str, Any], Any]]:
        """The parts of a tensor that lie in recorded memory: name, where it lies, storage."""
        for part, plain in self._native.parts_of(tensor):
            storage = self._torch._C.TensorBase.untyped_storage(plain)
            facts = self._facts(plain, storage)
            if facts is None:
                continue
            memory = resident = None
            if facts["device"] == "cpu":
                memory, resident = self._host.note(storage)
                if memory is None and not self._cpu_recorded:
                    continue
            yield part, {**facts, "memory": memory, "resident_bytes": resident}, storage

    def _facts(self, tensor: Any, storage: Any) -> dict[str, Any] | None:
        """Where a tensor lies; None: nowhere (meta, fake). By the methods of torch's own class."""
        address, size_bytes = self._native.storage_address(storage), storage.nbytes()
        if not address or not size_bytes:
            return None
        base = self._torch._C.TensorBase
        return {
            "address": address,
            "bytes": size_bytes,
            "device": str(base.device.__get__(tensor)),
            "offset_bytes": base.storage_offset(tensor) * base.element_size(tensor),
            "shape": [int(size) for size in base.shape.__get__(tensor)],
            "dtype": str(base.dtype.__get__(tensor)).removeprefix("torch."),
        }

    def _items(self, module: Any, table: str) -> list[tuple[Any, Any]]:
        """What is in a dictionary of an nn.Module's."""
        found = self._native.own_attribute(module, table)
        return list(dict.items(found)) if issubclass(type(found), dict) else []

    def _walk(self, module: Any) -> Iterator[tuple[str, Any]]:
        """A module and all in it, by path; one that hangs in several places comes once for each.

        torch.compile's wrapper adds nothing to the paths: "h.0", not "_orig_mod.h.0".
        """
        # The modules around each one are kept: a model may contain itself.
        waiting: list[tuple[str, Any, tuple[int, ...]]] = [("", module, ())]
        for _ in range(_PATHS_LIMIT):
            if not waiting:
                return
            path, inner, around = waiting.pop()
            yield path, inner
            around = (*around, id(inner))
            for name, child in reversed(self._items(inner, "_modules")):
                if child is not None and id(child) not in around:
                    inner_path = f"{path}.{name}" if path else str(name)
                    inner_path = path if is_wrapped(inner, name) else inner_path
                    waiting.append((inner_path, child, around))

    def _outer_modules(self) -> list[Any]:
        """The modules of this process that hang in no other one."""
        module_class = self._torch.nn.Module
        modules = [thing for thing in gc.get_objects() if issubclass(type(thing), module_class)]
        inside = {id(child) for each in modules for _, child in self._items(each, "_modules")}
        return [module for module in modules if id(module) not in inside]

    def _gradients_in(self, modules: Iterable[tuple[str, Any]]) -> Iterator[Any]:
        base = self._torch._C.TensorBase
        for _, module in modules:
            for _, parameter in self._items(module, "_parameters"):
                if parameter is not None and base.is_leaf.__get__(parameter):
                    gradient = base.grad.__get__(parameter)
                    if gradient is not None:
                        yield gradient

    def _write_note(self, note: dict[str, Any]) -> None:
        missing = {"root": None, "root_id": 0, "category": None, "label": None}
        self._recorder.tensor_note(to_json({**missing, **note, "ticks": self._recorder.ticks()}))


def _unseen(torch: ModuleType, look: Callable[..., Result], *args: Any) -> Result:
    """Look at any line of the program: its tracers, modes and subclasses see nothing of it.

    A jit.trace that is under way would take the tensors we ask for into its graph. A signal handler
    of the program may raise at any line of this: only `with` and `finally` leave all as it was.
    """
    tracing = torch._C._get_tracing_state()
    try:
        if tracing is not None:
            torch._C._set_tracing_state(None)
        with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
            return look(*args)
    finally:
        if tracing is not None:
            torch._C._set_tracing_state(tracing)


def _watch_swaps(torch: ModuleType, native: NativeHook) -> None:
    """torch.utils.swap_tensors (Module.to of wrapped parameters) refuses what others refer to."""
    swap = torch._C._swap_tensor_impl
    if not hasattr(swap, "__wrapped__"):  # for the life of the process, as cuda.py's
        torch._C._swap_tensor_impl = native.marked(swap, "swap", native.let_go_of)


def _tensors_in(state: Any, tensor_class: type) -> Iterator[Any]:
    """Those of an optimizer's state, which nests dictionaries and lists."""
    waiting = [state]
    for _ in range(_PATHS_LIMIT):
        if not waiting:
            return
        thing = waiting.pop()
        if issubclass(type(thing), tensor_class):
            yield thing
        elif issubclass(type(thing), dict):
            waiting += dict.values(thing)
        elif issubclass(type(thing), (list, tuple)):
            waiting += thing
