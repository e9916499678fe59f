"""Names of what models hold: weights and buffers by identity, never by guessing.

Root modules are found by the native frame walk. A look walks the dictionaries that every nn.Module
keeps, so no method of the program's own classes runs, and writes what is new or has moved since
the last look. Memory that torch's allocators never gave out (files mapped by safetensors, shared
memory) is recorded as external.
"""

from __future__ import annotations

import struct
import weakref

from memtrace import _core
from memtrace.hook.mappings import Mappings, resident_bytes
from memtrace.plain_json import to_json
from memtrace.recording import guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType
    from typing import Any

    from memtrace.hook.native import NativeHook
    from memtrace.recording import Recording

_MEMORY_CODES = {
    "host": _core.MEMORY_host,
    "mapped": _core.MEMORY_mapped,
    "shared": _core.MEMORY_shared,
}
# Modules that hang in each other's places many times over have more paths than anyone can read.
_PATHS_LIMIT = 200_000


class _Root:
    """A model that was seen being called."""

    def __init__(self, module: Any, number: int) -> None:
        self.reference = weakref.ref(module)
        self.number = number
        self.class_name = type(module).__name__
        # What each tensor was when it was last written down.
        self.seen: dict[str, tuple[object, ...]] = {}
        self.paths: set[int] = set()


class Scan:
    """The looks of one recording at the models of the program."""

    def __init__(self, recorded: Recording, torch: ModuleType, native: NativeHook) -> None:
        self._recorder = recorded.recorder
        self._torch = torch
        self._native = native
        self._roots: list[_Root] = []
        self._externals: dict[int, str] = {}  # address -> kind
        self._mappings: Mappings | None = None

    def begin(self) -> None:
        """Look at each root soon after it was first seen, from then on."""
        self._native.set_root_callback(lambda: guarded(self.look))

    def end(self) -> None:
        """No more looks."""
        self._native.set_root_callback(None)
        self._roots.clear()

    def look(self) -> None:
        """Write down what the known models hold now and is not written yet."""
        for number, module in self._native.take_new_roots():
            if not any(root.reference() is module for root in self._roots):
                self._roots.append(_Root(module, number))
        self._mappings = None  # read again when needed: once per look
        with _Unseen(self._torch):
            for root, modules in self._outer_roots():
                self._look_at(root, modules)
        self._release_externals()

    def _outer_roots(self) -> list[tuple[_Root, list[tuple[str, Any]]]]:
        """The roots that lie in no other known root, with all modules in each by path.

        A part of a model that was called on its own is the model's: it is named there.
        """
        inside: set[int] = set()  # id() of the modules within the roots so far
        walked: list[tuple[_Root, Any, list[tuple[str, Any]]]] = []
        inner: list[_Root] = []
        for root in self._roots:
            module = root.reference()
            if module is None:
                continue
            if id(module) in inside:
                inner.append(root)
                continue
            modules = list(walk_modules(module))
            inside.update(id(part) for path, part in modules if path)
            walked.append((root, module, modules))
        outer = [(root, modules) for root, module, modules in walked if id(module) not in inside]
        inner += [root for root, module, _ in walked if id(module) in inside]
        self._roots = [root for root, _ in outer] + inner  # those first: one walk finds the others
        return outer

    def _look_at(self, root: _Root, modules: list[tuple[str, Any]]) -> None:
        for path, inner in modules:
            number = self._native.module_id(inner)
            if number and number not in root.paths:
                root.paths.add(number)
                payload = struct.pack("<I", root.number) + path.encode(errors="replace")
                self._recorder.text(_core.KIND_module_path, number, payload)
            for kind, table in (("weight", "_parameters"), ("buffer", "_buffers")):
                for name, tensor in list((inner.__dict__.get(table) or {}).items()):
                    if tensor is not None:
                        full_name = f"{path}.{name}" if path else str(name)
                        guarded(self._note_tensor, root, full_name, kind, tensor)

    def _note_tensor(self, root: _Root, name: str, kind: str, tensor: Any) -> None:
        facts = describe_tensor(tensor)
        if facts is None:
            return
        memory = resident = None
        if facts["device"] == "cpu":
            was_handed = not tensor.untyped_storage().resizable()  # not of torch's own making
            memory, resident = self._note_external(facts["address"], facts["bytes"], was_handed)
        # Pages of a mapped file become resident as they are read: the last look counts.
        seen = (facts["address"], facts["bytes"], facts["offset_bytes"], resident)
        if root.seen.get(name) == seen:
            return
        root.seen[name] = seen
        self._recorder.tensor_note(
            to_json(
                {
                    **facts,
                    "name": name,
                    "kind": kind,
                    "ticks": self._recorder.ticks(),
                    "memory": memory,
                    "resident_bytes": resident,
                    "root": root.class_name,
                    "root_id": root.number,
                    "category": None,
                    "label": None,
                }
            )
        )

    def label(self, tensor: Any, name: str | None, category: str | None) -> None:
        """memtrace.label: the user's word on one tensor."""
        with _Unseen(self._torch):
            facts = describe_tensor(tensor)
        if facts is None:
            return
        self._recorder.tensor_note(
            to_json(
                {
                    **facts,
                    "name": name,
                    "kind": "label",
                    "ticks": self._recorder.ticks(),
                    "memory": None,
                    "resident_bytes": None,
                    "root": None,
                    "root_id": 0,
                    "category": category,
                    "label": name,
                }
            )
        )

    def _note_external(
        self, address: int, size_bytes: int, was_handed: bool
    ) -> tuple[str | None, int | None]:
        """Memory that is a file's, shared, or of another allocator that torch was handed it by."""
        if self._mappings is None:
            self._mappings = Mappings()
        kind = self._mappings.kind(address)
        if kind is None and was_handed:
            kind = "host"
        if kind is None:
            return None, None
        if self._externals.get(address) != kind:
            self._externals[address] = kind
            self._recorder.event(
                _core.ACTION_external,
                device=0,
                memory_or_pool=_MEMORY_CODES[kind],
                address=address,
                size_bytes=size_bytes,
            )
        return kind, None if kind == "host" else resident_bytes(address, size_bytes)

    def _release_externals(self) -> None:
        if not self._externals:
            return
        mappings = self._mappings or Mappings()
        for address, kind in list(self._externals.items()):
            if (mappings.kind(address) or "host") != kind:  # unmapped since
                del self._externals[address]
                self._recorder.event(
                    _core.ACTION_free_requested,
                    device=0,
                    memory_or_pool=_MEMORY_CODES[kind],
                    address=address,
                    size_bytes=0,
                )


class _Unseen:
    """A look may come at any line of the program: no tracer, mode or subclass of it sees the look.

    A jit.trace that is under way would take the tensors we ask for into its graph.
    """

    def __init__(self, torch: ModuleType) -> None:
        self._c = torch._C
        self._off: list[Any] = []
        self._tracing: Any = None

    def __enter__(self) -> None:
        self._tracing = self._c._get_tracing_state()
        if self._tracing is not None:
            self._c._set_tracing_state(None)
        self._off = [self._c.DisableTorchFunction(), self._c._DisableTorchDispatch()]
        for off in self._off:
            off.__enter__()

    def __exit__(self, *error: object) -> None:
        for off in reversed(self._off):
            off.__exit__(*error)
        if self._tracing is not None:
            self._c._set_tracing_state(self._tracing)


def walk_modules(module: Any) -> Iterator[tuple[str, Any]]:
    """A module and all in it, by path; one that hangs in several places comes once for each."""
    # The modules around each one are kept: a model may contain itself.
    waiting: list[tuple[str, Any, tuple[int, ...]]] = [("", module, ())]
    for _ in range(_PATHS_LIMIT):
        if not waiting:
            return
        path, inner, around = waiting.pop()
        yield path, inner
        around = (*around, id(inner))
        for name, child in reversed(list((inner.__dict__.get("_modules") or {}).items())):
            if child is not None and id(child) not in around:
                waiting.append((f"{path}.{name}" if path else str(name), child, around))


def describe_tensor(tensor: Any) -> dict[str, Any] | None:
    """Where a tensor lies; None: nowhere (meta, fake, a wrapper around others).

    Call it within _Unseen.
    """
    # A DTensor (FSDP2, tensor parallel) holds this process's shard.
    local = getattr(tensor, "__dict__", {}).get("_local_tensor")
    if local is not None:
        tensor = local
    storage = tensor.untyped_storage()
    address = storage.data_ptr()
    if not address:
        return None
    return {
        "address": address,
        "bytes": storage.nbytes(),
        "device": str(tensor.device),
        "offset_bytes": tensor.storage_offset() * tensor.element_size(),
        "shape": [int(size) for size in tensor.shape],
        "dtype": str(tensor.dtype).removeprefix("torch."),
    }
