"""Writes the spool that a recorder would have written of the same run.

The layout is csrc/record/event.h and spool.h. One log for the notes, and one for each device: its
events are in torch's order, and `order` counts them. Ticks are ns.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from memtrace.imports.stacks import Stack

CPU = 0
MEMORY_HOST = 1  # of an event on the CPU, in the place of its pool
PREEXISTING, MARK, SAMPLE, STAGE_BEGIN, STAGE_END = 10, 33, 34, 35, 36

#: csrc/record/event.h, AllocatorEvent and its Tail.
EVENT = np.dtype(
    [
        ("ticks", "<u8"), ("address", "<u8"), ("size_bytes", "<u8"), ("stream", "<u8"),
        ("call", "<u4"), ("stack", "<u4"), ("op_name", "<u4"), ("top_name", "<u4"),
        ("order", "<u4"), ("context", "<u4"),
        ("thread", "<u4"), ("pool", "<u2"), ("device", "u1"), ("action", "u1"),
    ]
)  # fmt: skip
Events = npt.NDArray[np.void]

_SPOOL_MAGIC, _SPOOL_VERSION = 0x4C4F4F50534D544D, 1
_CHUNK_MAGIC, _TEXT_CHECK = 0x4B4E4843, 0x6D54
_CHUNK_BYTES = 64 * 1024
_PER_CHUNK = _CHUNK_BYTES // EVENT.itemsize - 1
_CHUNKS_AT_A_TIME = 64
_CONTROL_BYTES = 4096
_MOST_POOLS = (1 << 16) - 1
_KINDS = {"name": 1, "stack": 2, "module": 3, "module_path": 4, "pool": 5, "process": 8}


class Spool:
    """A spool being written. close() makes it whole: until then nobody takes it for one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True)
        self._folder = folder
        self._text: IO[bytes] = (folder / "text.log").open("xb")
        self._records: IO[bytes] = (folder / "records.bin").open("xb")
        self._ids: dict[tuple[str, object], int] = {}
        self._next: dict[str, int] = {}
        self._notes: list[bytes] = []
        self._logs = 1  # the first is the notes'

    # ---- text ---------------------------------------------------------------------------------

    def name(self, text: str) -> int:
        """The id of a string; 0 is the empty one."""
        if not text:
            return 0
        return self._known("name", text) or self._add(
            "name", text, text.encode("utf-8", "backslashreplace")
        )

    def stack(self, stack: Stack) -> int:
        """The id of a stack that was not written before; 0: it has no frames."""
        if not stack.frames:
            return 0
        frames = b"".join(
            struct.pack(
                "<IIII",
                self.name(frame.function),
                self.name(frame.file),
                frame.line,
                0 if frame.module is None else self._module(*frame.module),
            )
            for frame in stack.frames
        )
        return self._add("stack", stack.frames, frames)

    def pool(self, pool: tuple[int, int]) -> int:
        """The id of a memory pool; 0 is the default one, or stands for one too many."""
        if pool == (0, 0) or self._next.get("pool", 0) == _MOST_POOLS:
            return 0
        return self._known("pool", pool) or self._add("pool", pool, struct.pack("<QQ", *pool))

    def process(self, **note: Any) -> None:
        """What is known of the process."""
        self._write_text("process", 0, json.dumps(note).encode())

    def _module(self, path: str, class_name: str) -> int:
        known = self._known("module", (path, class_name))
        if known:
            return known
        module = self._add(
            "module", (path, class_name), struct.pack("<IIQ", self.name(class_name), 0, 0)
        )
        encoded = path.encode("utf-8", "backslashreplace")
        self._write_text("module_path", module, struct.pack("<I", module) + encoded)
        return module

    def _known(self, kind: str, what: object) -> int:
        return self._ids.get((kind, what), 0)

    def _add(self, kind: str, what: object, payload: bytes) -> int:
        number = self._next[kind] = self._next.get(kind, 0) + 1
        self._ids[kind, what] = number
        self._write_text(kind, number, payload)
        return number

    def _write_text(self, kind: str, number: int, payload: bytes) -> None:
        self._text.write(struct.pack("<IHHI", len(payload), _KINDS[kind], _TEXT_CHECK, number))
        self._text.write(payload)

    # ---- records ------------------------------------------------------------------------------

    def note(
        self,
        action: int,
        ticks: int,
        name: str,
        *,
        value: int = 0,
        text: str = "",
        target: str = "",
        source: str = "",
        reason: str = "",
        device: int = CPU,
    ) -> None:
        """A mark, sample or stage; in the order of ticks."""
        ids = [self.name(word) for word in (name, text, target, reason, source)]
        tail = struct.pack("<IHBB", 0, 0, device, action)
        self._notes.append(struct.pack("<QQQ5I3I", ticks, value, 0, *ids, 0, 0, 0) + tail)

    def events(self, runs: Iterable[Events]) -> None:
        """A log of its own: the events of one device, in order."""
        self._logs += 1
        index = 0
        for run in runs:
            for at in range(0, len(run), _PER_CHUNK * _CHUNKS_AT_A_TIME):
                index = self._chunks(
                    self._logs, index, run[at : at + _PER_CHUNK * _CHUNKS_AT_A_TIME]
                )

    def _chunks(self, log: int, index: int, events: Events) -> int:
        for at in range(0, len(events), _PER_CHUNK):
            records = events[at : at + _PER_CHUNK]
            ticks = int(records["ticks"][0])
            header = struct.pack("<IIQQQ4Q", _CHUNK_MAGIC, log, index, ticks, ticks, *[0] * 4)
            self._records.write((header + records.tobytes()).ljust(_CHUNK_BYTES, b"\0"))
            index += 1
        return index

    def close(self, *, start_ticks: int, end_ticks: int, unix_ns: int) -> None:
        """Writes what is left, and last the page that says that all of it is there."""
        if self._notes:
            self._chunks(1, 0, np.frombuffer(b"".join(self._notes), EVENT))
        for file in (self._text, self._records):
            file.close()
        (self._folder / "windows.bin").write_bytes(b"")
        end_unix_ns = unix_ns + end_ticks - start_ticks if unix_ns else 0
        page = struct.pack(
            "<QIIQIIQQQ16QIiiIQQQ",
            _SPOOL_MAGIC, _SPOOL_VERSION, _CHUNK_BYTES, 0, 0, 0, start_ticks, start_ticks,
            unix_ns, *[0] * 16, 1, 0, 0, 0, end_ticks, end_ticks, end_unix_ns,
        )  # fmt: skip
        (self._folder / "control.bin").write_bytes(page.ljust(_CONTROL_BYTES, b"\0"))
