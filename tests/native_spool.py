"""A spool that the recorder itself writes, filled as hooks fill it: in place, in mapped windows.

It stands where a SpoolWriter does. The table of C functions and the log are those of
csrc/record/recorder_api.h and thread_log.h, written down here a second time on purpose.
"""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

from memtrace import _core
from spool_writer import KINDS, RECORD_BYTES, LogWriter, SpoolWriter

_TAIL_BYTES = 8


class _Window(ctypes.Structure):
    _fields_ = (
        ("chunks", ctypes.c_void_p),
        ("place", ctypes.c_uint64),
        ("reserved", ctypes.c_uint32),
        ("begun", ctypes.c_uint32),
    )


class _ThreadLog(ctypes.Structure):
    _fields_ = (
        ("cursor", ctypes.c_void_p),
        ("end", ctypes.c_void_p),
        ("refill", ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)),
        ("recorder", ctypes.c_void_p),
        ("windows", _Window * 4),
        ("active", ctypes.c_uint32),
        ("full", ctypes.c_uint32),
        ("flush_pending", ctypes.c_bool),
        ("number", ctypes.c_uint32),
    )


class _RecorderApi(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32),
        ("recorder", ctypes.c_void_p),
        ("acquire_log", ctypes.CFUNCTYPE(ctypes.POINTER(_ThreadLog), ctypes.c_void_p)),
        ("release_log", ctypes.c_void_p),
        ("flush", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(_ThreadLog))),
        ("intern", ctypes.c_void_p),
        ("text", ctypes.CFUNCTYPE(
            ctypes.c_bool, ctypes.c_void_p, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_char_p,
            ctypes.c_size_t,
        )),
        ("next_id", ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint16)),
    )  # fmt: skip


class _OwnRecords:
    """The recorder's own log: it places the notes in time itself."""

    def __init__(self, spool: NativeSpool) -> None:
        self._spool = spool

    def append(self, record: bytes) -> None:
        _, value, value2, *ids = struct.unpack_from("<QQQ5I", record)
        thread, _, device, action = struct.unpack_from("<IHBB", record, RECORD_BYTES - _TAIL_BYTES)
        name, text, target, reason, source = (self._spool.words[number] for number in ids)
        self._spool.recorder.note(
            action, name=name, text=text, target=target, source=source, reason=reason, value=value,
            value2=value2, device=device, thread=thread,
        )  # fmt: skip


class _ThreadRecords:
    """A thread's log, as a hook fills it."""

    def __init__(self, api: _RecorderApi) -> None:
        self._api = api
        self._log = api.acquire_log(api.recorder)

    def append(self, record: bytes) -> None:
        log = self._log.contents
        if log.cursor == log.end:
            assert log.refill(ctypes.addressof(log))
        body = len(record) - _TAIL_BYTES
        ctypes.memmove(log.cursor, record, body)
        ctypes.memmove(log.cursor + body, record[body:], _TAIL_BYTES)
        log.cursor += RECORD_BYTES
        if log.flush_pending:
            self._api.flush(self._api.recorder, self._log)


class NativeSpool(SpoolWriter):
    """The first log is the recorder's own, for notes; each further one a thread's."""

    def __init__(
        self, trace_dir: Path, key: str = "host-1-start", *, most_records_bytes: int = 0
    ) -> None:
        super().__init__(trace_dir, key)
        self.path.mkdir(parents=True)
        self.recorder = _core.Recorder(self.path, most_records_bytes=most_records_bytes)
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        table = get(self.recorder.api, b"memtrace.recorder.3")
        self._api = _RecorderApi.from_address(table)
        self.words = {0: ""}

    def log(self, thread: int | None = None) -> LogWriter:
        first = not self._logs
        log = super().log(thread)
        log.records = _OwnRecords(self) if first else _ThreadRecords(self._api)  # type: ignore[assignment]
        return log

    def write_text(self, kind: str, text_id: int, payload: bytes) -> None:
        assert self._api.text(self._api.recorder, KINDS[kind], text_id, payload, len(payload))

    def next_id(self, kind: str) -> int:
        return int(self._api.next_id(self._api.recorder, KINDS[kind]))

    def name(self, text: str) -> int:
        number = self.recorder.intern(text)
        self.words[number] = text
        return number

    def finish(self, *, last_chunks_in_windows: bool = False) -> Path:
        """As at the end of a recording: what is in the windows stays there."""
        self.recorder.set_exit_status(0)
        self.recorder.close()
        return self.path
