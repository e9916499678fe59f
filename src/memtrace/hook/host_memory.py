"""Host memory that a scan found: memory that torch was handed, and what it had before recording.

No allocator tells when torch is handed memory (files mapped by safetensors, shared memory, numpy's)
or when such memory goes: a look at the storages does. Memory of torch's own making is known by its
allocator's hook, unless it is older than the recording: the finaliser knows which is which, so the
end of each is told alike.
"""

from __future__ import annotations

import weakref

from memtrace import _core
from memtrace.hook.mappings import Mappings, resident_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from memtrace.recording import Recording

_MEMORY_CODES = {
    "host": _core.MEMORY_host,
    "mapped": _core.MEMORY_mapped,
    "shared": _core.MEMORY_shared,
}


# Labels may come without any look: then the gone are found when so many places are known.
_LEAST_SWEEP = 1000


class _Held:
    """Memory that storages lie in, from the first look that found it until they are all gone."""

    def __init__(self, size_bytes: int, kind: str | None) -> None:
        self.size_bytes = size_bytes
        self.kind = kind
        self.storages: list[weakref.ref[Any]] = []

    def is_held(self, address: int, address_of: Callable[[Any], int]) -> bool:
        living = [(reference, reference()) for reference in self.storages]
        self.storages = [
            reference
            for reference, storage in living
            if storage is not None and address_of(storage) == address
        ]
        return bool(self.storages)


class HostMemory:
    """What the looks of one recording know of host memory. Call it within scan's _unseen()."""

    def __init__(self, recorded: Recording, address_of: Callable[[Any], int]) -> None:
        self._recorder = recorded.recorder
        self._address_of = address_of  # NativeHook.storage_address
        self._held: dict[int, _Held] = {}
        self._mappings: Mappings | None = None
        self._sweep_at = _LEAST_SWEEP

    def renew(self) -> None:
        """The memory map may have changed; it is read again when it is asked for."""
        self._mappings = None

    def begin_look(self) -> None:
        """Likewise, and whatever is gone by now has ended."""
        self.renew()
        for address, held in list(self._held.items()):
            if not held.is_held(address, self._address_of):
                self._end(address, held)
        self._sweep_at = max(2 * len(self._held), _LEAST_SWEEP)

    def note(self, storage: Any) -> tuple[str | None, int | None]:
        """What memory a storage lies in, and how much of it is resident; None: torch's own."""
        if len(self._held) >= self._sweep_at:
            self.begin_look()
        address, size_bytes = self._address_of(storage), storage.nbytes()
        held = self._held.get(address)
        if held is not None and not (
            held.is_held(address, self._address_of) and held.size_bytes >= size_bytes
        ):
            self._end(address, held)
        kept = held.storages if held is not None else []
        if address not in self._held:
            held = self._begin(address, size_bytes, self._kind(storage, address))
            held.storages = kept  # of the same memory, if it only turned out to be larger
        assert held is not None
        if not any(reference() is storage for reference in held.storages):
            held.storages.append(weakref.ref(storage))
        resident = resident_bytes(address, held.size_bytes) if held.kind else None
        return held.kind, resident

    def _kind(self, storage: Any, address: int) -> str | None:
        if storage.resizable() and not storage.is_shared():
            return None  # torch can only resize what it has allocated itself
        if self._mappings is None:
            self._mappings = Mappings()
        kind = self._mappings.kind(address)
        return kind if kind or storage.resizable() else "host"

    def _begin(self, address: int, size_bytes: int, kind: str | None) -> _Held:
        held = self._held[address] = _Held(size_bytes, kind)
        if kind is not None:
            self._recorder.event(
                _core.ACTION_external,
                device=0,
                memory_or_pool=_MEMORY_CODES[kind],
                address=address,
                size_bytes=size_bytes,
            )
        return held

    def _end(self, address: int, held: _Held) -> None:
        del self._held[address]
        self._recorder.event(
            _core.ACTION_free_requested,
            device=0,
            memory_or_pool=_MEMORY_CODES[held.kind or "host"],
            address=address,
            size_bytes=held.size_bytes,  # an allocator's free says none
        )
