"""Writes the spool that a recorder would have written of the same run.

The layout is csrc/record/event.h and spool.h. Ticks are ns. Records come one after the other, in
the order of their ticks, into the first log; or the events of a device all at once, into a log of
their own, in torch's order, which `order` counts.
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
ALLOC, FREE_COMPLETED, PREEXISTING = 1, 3, 10
SPAN, MARK, SAMPLE = 32, 33, 34
STAGE_BEGIN, STAGE_END, STEP_BEGIN, STEP_END, CONTEXT = 35, 36, 37, 38, 39
NODE, ENGINE, OPTIMIZER = 1, 2, 3  # kinds of contexts
RECORDS_GRAPH = 1 << 31  # in an event's context

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
_EVENT = struct.Struct("<QQQQ6IIHBB")
_SPAN = struct.Struct("<QQqQ4IHHIIHBB")
_CONTEXT = struct.Struct("<QqQIB3x24xIHBB")
_PER_CHUNK = _CHUNK_BYTES // EVENT.itemsize - 1
_CHUNKS_AT_A_TIME = 64
_CONTROL_BYTES = 4096
_MOST_POOLS = (1 << 16) - 1
_KINDS = {
    "name": 1, "stack": 2, "module": 3, "module_path": 4, "pool": 5, "thread": 6, "process": 8,
}  # fmt: skip


class Spool:
    """A spool being written. close() makes it whole: until then nobody takes it for one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True)
        self._folder = folder
        self._text: IO[bytes] = (folder / "text.log").open("xb")
        self._records: IO[bytes] = (folder / "records.bin").open("xb")
        self._ids: dict[tuple[str, object], int] = {}
        self._next: dict[str, int] = {}
        self._pending: list[bytes] = []  # of the first log
        self._written = 0  # chunks of it
        self._logs = 1

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

    def thread(self, number: int, os_thread: int) -> None:
        """A thread that records name by a number; contexts name it by the same."""
        self._write_text("thread", number, struct.pack("<QQ", os_thread, number))

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
        thread: int = 0,
        around: int = 0,
    ) -> None:
        """A mark, sample, stage or step."""
        ids = [self.name(word) for word in (name, text, target, reason, source)]
        tail = struct.pack("<IHBB", thread, 0, device, action)
        self._add_record(struct.pack("<QQQ5I3I", ticks, value, around, *ids, 0, 0, 0) + tail)

    def counter(self, ticks: int, name: str, value: int, *, device: int, reason: str) -> None:
        """What torch counted of a CUDA device: "reserved_bytes", or another of its counters."""
        target = f"cuda:{device - 1}"
        self.note(
            SAMPLE, ticks, f"{name}.current", value=value, target=target, source="torch",
            reason=reason, device=device,
        )  # fmt: skip

    def event(
        self,
        action: int,
        ticks: int,
        address: int,
        size_bytes: int,
        *,
        device: int,
        pool: int = 0,
        call: int = 0,
        stack: int = 0,
        op_name: int = 0,
        top_name: int = 0,
        context: int = 0,
        thread: int = 0,
    ) -> None:
        """One allocator event."""
        words = (call, stack, op_name, top_name, 0, context, thread)
        self._add_record(_EVENT.pack(ticks, address, size_bytes, 0, *words, pool, device, action))

    def span(
        self,
        start_ticks: int,
        end_ticks: int,
        *,
        call: int,
        parent_call: int,
        name: int,
        stack: int,
        sequence_number: int,
        forward_thread: int,
        nodes: int,
        context: int,
        thread: int,
        scope: int,
    ) -> None:
        """An operator's call, at its end."""
        times = (end_ticks, start_ticks, sequence_number, forward_thread)
        words = (call, parent_call, name, stack, scope, nodes, context, thread)
        self._add_record(_SPAN.pack(*times, *words, 0, CPU, SPAN))

    def context(
        self,
        ticks: int,
        kind: int,
        *,
        call: int,
        sequence_number: int,
        forward_thread: int,
        thread: int,
    ) -> None:
        """Why memory changes from here on, until the call ends."""
        words = (call, kind, thread)
        self._add_record(
            _CONTEXT.pack(ticks, sequence_number, forward_thread, *words, 0, CPU, CONTEXT)
        )

    def _add_record(self, record: bytes) -> None:
        self._pending.append(record)
        if len(self._pending) == _PER_CHUNK * _CHUNKS_AT_A_TIME:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            records = np.frombuffer(b"".join(self._pending), EVENT)
            self._written = self._chunks(1, self._written, records)
            self._pending.clear()

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

    def close(self, *, start_ticks: int, end_ticks: int, unix_ns: int, pid: int = 0) -> None:
        """Writes what is left, and last the page that says that all of it is there."""
        self._flush()
        for file in (self._text, self._records):
            file.close()
        (self._folder / "windows.bin").write_bytes(b"")
        end_unix_ns = unix_ns + end_ticks - start_ticks if unix_ns else 0
        page = struct.pack(
            "<QIIQIIQQQ16QIiiIQQQ",
            _SPOOL_MAGIC, _SPOOL_VERSION, _CHUNK_BYTES, pid, 0, 0, start_ticks, start_ticks,
            unix_ns, *[0] * 16, 1, 0, 0, 0, end_ticks, end_ticks, end_unix_ns,
        )  # fmt: skip
        (self._folder / "control.bin").write_bytes(page.ljust(_CONTROL_BYTES, b"\0"))
