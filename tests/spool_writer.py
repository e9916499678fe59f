"""Writes a spool as a recorder would, from a list of events: for tests of everything behind it.

    spool = SpoolWriter(trace_dir, "host-1-a")
    log = spool.log()
    log.alloc(10, 0x1000, 512, device=0, order=1)
    spool.finish()

Ticks are nanoseconds (Clock::monotonic_ns) unless told otherwise. Layouts are those of
csrc/record/event.h and csrc/record/spool.h, written down here a second time on purpose.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPOOL_MAGIC = 0x4C4F4F50534D544D
CHUNK_MAGIC = 0x4B4E4843
TEXT_CHECK = 0x6D54
CHUNK_BYTES = 64 * 1024
RECORD_BYTES = 64

ACTIONS = {
    "alloc": 1, "free_requested": 2, "free_completed": 3, "segment_alloc": 4, "segment_free": 5,
    "segment_map": 6, "segment_unmap": 7, "oom": 8, "snapshot": 9, "preexisting": 10,
    "external": 11, "operator_span": 32, "mark": 33, "sample": 34, "stage_begin": 35,
    "stage_end": 36, "step_begin": 37, "step_end": 38, "context_begin": 39, "tensor": 40,
    "in_step": 41,
}  # fmt: skip
CONTEXTS = {"node": 1, "engine": 2, "optimizer": 3}
RECORDS_GRAPH = 1 << 31  # in an event's `reserved`, beside its context
MEMORY = {"device": 0, "host": 1, "pinned": 2, "mapped": 3, "shared": 4}
KINDS = {
    "name": 1, "stack": 2, "module": 3, "module_path": 4, "pool": 5, "thread": 6, "tensor": 7,
    "process": 8,
}  # fmt: skip

CPU = None


def _tail(thread: int, pool: int, device: int | None, action: str) -> bytes:
    code = 0 if device is None else 1 + device
    return struct.pack("<IHBB", thread, pool, code, ACTIONS[action])


class LogWriter:
    """One log of a spool: records in the order they are added."""

    def __init__(self, spool: SpoolWriter, thread: int) -> None:
        self.spool = spool
        self.thread = thread
        self.records: list[bytes] = []

    def event(
        self,
        action: str,
        ticks: int,
        address: int,
        size: int = 0,
        *,
        device: int | None = CPU,
        stream: int = 0,
        pool: int = 0,
        order: int = 0,
        call: int = 0,
        stack: int = 0,
        op: str = "",
        top: str = "",
        reserved: int = 0,
        thread: int | None = None,
    ) -> None:
        name = self.spool.name
        self.records.append(
            struct.pack(
                "<QQQQIIIIII",
                ticks,
                address,
                size,
                stream,
                call,
                stack,
                name(op),
                name(top),
                order,
                reserved,
            )
            + _tail(self.thread if thread is None else thread, pool, device, action)
        )

    def alloc(self, ticks: int, address: int, size: int, **more: Any) -> None:
        self.event("alloc", ticks, address, size, **more)

    def free(self, ticks: int, address: int, size: int = 0, **more: Any) -> None:
        """A CPU free: one record."""
        self.event("free_requested", ticks, address, size, **more)

    def span(
        self,
        start_ticks: int,
        end_ticks: int,
        call: int,
        name: str,
        *,
        parent: int = 0,
        stack: int = 0,
        scope: int = 0,
        sequence: int = -1,
        forward_thread: int = 0,
        nodes: int = 0,
        context: int = 0,
    ) -> None:
        self.records.append(
            struct.pack(
                "<QQqQIIIIHHI",
                end_ticks,
                start_ticks,
                sequence,
                forward_thread,
                call,
                parent,
                self.spool.name(name),
                stack,
                scope,
                nodes,
                context,
            )
            + _tail(self.thread, 0, CPU, "operator_span")
        )

    def context(
        self, ticks: int, call: int, kind: str, *, sequence: int = -1, forward_thread: int = 0
    ) -> None:
        """The context that this call is begins; events in it name it in `reserved`."""
        self.records.append(
            struct.pack("<QqQIIQQQ", ticks, sequence, forward_thread, call, CONTEXTS[kind], 0, 0, 0)
            + _tail(self.thread, 0, CPU, "context_begin")
        )

    def note(
        self,
        action: str,
        ticks: int,
        name: str,
        *,
        value: int = 0,
        value2: int = 0,
        text: str = "",
        target: str = "",
        reason: str = "",
        source: str = "",
        device: int | None = CPU,
        thread: int | None = None,
    ) -> None:
        ids = [self.spool.name(word) for word in (name, text, target, reason, source)]
        self.records.append(
            struct.pack("<QQQ5I3I", ticks, value, value2, *ids, 0, 0, 0)
            + _tail(self.thread if thread is None else thread, 0, device, action)
        )

    def tensor(
        self,
        ticks: int,
        address: int,
        name: str,
        kind: str,
        layout: str,
        *,
        size: int = 0,
        offset: int = 0,
        device: int | None = CPU,
    ) -> None:
        ids = [self.spool.name(word) for word in (name, kind, layout)]
        self.records.append(
            struct.pack("<QQQQ4IQ", ticks, address, size, offset, *ids, 0, 0)
            + _tail(self.thread, 0, device, "tensor")
        )

    def mark(self, ticks: int, kind: str, **more: Any) -> None:
        self.note("mark", ticks, kind, **more)

    def sample(self, ticks: int, metric: str, value: int, *, target: str, **more: Any) -> None:
        self.note("sample", ticks, metric, value=value, target=target, source="torch", **more)


@dataclass(frozen=True)
class Writer:
    """Whose spool it is; by default a process of this machine, now and here."""

    start_ticks: int = 1
    pid_namespace: int = os.stat("/proc/self/ns/pid").st_ino
    boot_id: str = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    host: str = os.uname().nodename

    @classmethod
    def this_process(cls) -> Writer:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return cls(start_ticks=int(fields[19]))

    def packed(self) -> bytes:
        texts = (self.boot_id.encode(), self.host.encode())
        return struct.pack("<QQ40s72s", self.start_ticks, self.pid_namespace, *texts)


class SpoolWriter:
    """A spool in the making; finish() writes its files."""

    def __init__(
        self,
        trace_dir: Path,
        key: str = "host-1-start",
        *,
        pid: int = 999_999_999,
        tsc: bool = False,
        start: tuple[int, int] = (0, 0),
        end: tuple[int, int] | None = (1 << 40, 1 << 40),
        exit_status: int | None = 0,
        chunk_bytes: int = CHUNK_BYTES,
        version: int = 1,
        start_unix_ns: int = 1_700_000_000_000_000_000,
        writer: Writer | None = None,
    ) -> None:
        self.path = trace_dir / "spool" / f"process={key}"
        self.chunk_bytes = chunk_bytes
        self._control = (pid, tsc, start, end, exit_status, version, start_unix_ns)
        self._logs: list[LogWriter] = []
        self._names: dict[str, int] = {}
        self._next_ids: dict[str, int] = {}
        self.text = bytearray()
        self.lost = [0] * 16
        self.writer = writer or Writer()

    def log(self, thread: int | None = None) -> LogWriter:
        log = LogWriter(self, thread or len(self._logs) + 1)
        self._logs.append(log)
        return log

    def write_text(self, kind: str, text_id: int, payload: bytes) -> None:
        self.text += struct.pack("<IHHI", len(payload), KINDS[kind], TEXT_CHECK, text_id) + payload

    def next_id(self, kind: str) -> int:
        self._next_ids[kind] = self._next_ids.get(kind, 0) + 1
        return self._next_ids[kind]

    def name(self, text: str) -> int:
        if not text:
            return 0
        if text not in self._names:
            self._names[text] = self.next_id("name")
            self.write_text("name", self._names[text], text.encode())
        return self._names[text]

    def stack(self, frames: Sequence[tuple[str, str, int, int]]) -> int:
        """Frames innermost first: (function, file, line, module id or 0)."""
        payload = b"".join(
            struct.pack("<IIII", self.name(function), self.name(file), line, module)
            for function, file, line, module in frames
        )
        stack = self.next_id("stack")
        self.write_text("stack", stack, payload)
        return stack

    def module(self, class_name: str, *, path: str | None = None, root: int | None = None) -> int:
        """A module; with `path`, its path in `root` (itself when None)."""
        module = self.next_id("module")
        self.write_text("module", module, struct.pack("<IIQ", self.name(class_name), 0, 0x9000))
        if path is not None:
            payload = struct.pack("<I", root or module) + path.encode()
            self.write_text("module_path", module, payload)
        return module

    def pool(self, first: int, second: int) -> int:
        pool = self.next_id("pool")
        self.write_text("pool", pool, struct.pack("<QQ", first, second))
        return pool

    def thread(self, number: int, record_function_thread: int) -> None:
        """What a thread of this number is called by torch."""
        payload = struct.pack("<QQ", 1000 + number, record_function_thread)
        self.write_text("thread", number, payload)

    def tensor(self, **note: Any) -> None:
        self.write_text("tensor", 0, json.dumps(note).encode())

    def process(self, **note: Any) -> None:
        self.write_text("process", 0, json.dumps(note).encode())

    def chunks(self) -> list[bytes]:
        """The chunks of all logs, not padded to their full size."""
        per_chunk = self.chunk_bytes // RECORD_BYTES - 1
        chunks = []
        for number, log in enumerate(self._logs, 1):
            for index, at in enumerate(range(0, len(log.records), per_chunk)):
                records = log.records[at : at + per_chunk]
                ticks = struct.unpack_from("<Q", records[0])[0]
                header = struct.pack("<IIQQQ4Q", CHUNK_MAGIC, number, index, ticks, ticks, *[0] * 4)
                chunks.append(header + b"".join(records))
        return chunks

    def control(self) -> bytes:
        pid, tsc, start, end, exit_status, version, start_unix_ns = self._control
        complete = end is not None
        page = struct.pack(
            "<QIIQIIQQQ16QIiiIQQQ",
            SPOOL_MAGIC, version, self.chunk_bytes, pid, int(tsc), 0x030B0000, *start,
            start_unix_ns, *self.lost, int(complete), int(exit_status is not None),
            exit_status or 0, 0, *(end or (0, 0)), 0,
        )  # fmt: skip
        page += self.writer.packed()
        return page.ljust(4096, b"\0")

    def finish(self, *, last_chunks_in_windows: bool = False) -> Path:
        """Writes the files; returns the directory of the spool."""
        self.path.mkdir(parents=True)
        padded = [chunk.ljust(self.chunk_bytes, b"\0") for chunk in self.chunks()]
        windows: list[bytes] = []
        if last_chunks_in_windows:
            last = {struct.unpack_from("<II", chunk)[1]: chunk for chunk in padded}
            windows = list(last.values())
            padded = [chunk for chunk in padded if chunk not in windows]
        (self.path / "control.bin").write_bytes(self.control())
        (self.path / "records.bin").write_bytes(b"".join(padded))
        (self.path / "windows.bin").write_bytes(b"".join(windows))
        (self.path / "text.log").write_bytes(bytes(self.text))
        return self.path


def rows(trace_dir: Path, dataset: str) -> list[dict[str, Any]]:
    """What the finaliser made of the spools, in the order of the files."""
    import pyarrow.parquet as pq

    return pq.read_table(trace_dir / dataset).to_pylist()
