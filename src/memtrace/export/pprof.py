"""pprof's profile.proto, as `go tool pprof` and its friends read it, gzipped or not.

Two values a sample, inuse_objects and inuse_space, as Go's heap profiles have them. Of each sample
the labels device, category, module and operator: pprof -tagfocus=device=cuda:0.
"""

from __future__ import annotations

from typing import IO

from memtrace.export.held_stacks import Sample, held_stacks
from memtrace.export.wire import integer, message, utf8, varint
from memtrace.outputs import Selection
from memtrace.trace import Trace

# Fields of profile.proto (github.com/google/pprof/blob/main/proto/profile.proto).
_SAMPLE_TYPE, _SAMPLE, _LOCATION, _FUNCTION, _STRING_TABLE = 1, 2, 4, 5, 6
_TIME_NANOS, _PERIOD_TYPE, _COMMENT, _DEFAULT_SAMPLE_TYPE = 9, 11, 13, 14


def write_pprof(trace: Trace, selection: Selection, out: IO[bytes]) -> None:
    """Bytes held at each device's peak, by stack."""
    profile = _Profile()
    body: list[bytes] = [
        message(_SAMPLE_TYPE, *profile.kind("inuse_objects", "count")),
        message(_SAMPLE_TYPE, *profile.kind("inuse_space", "bytes")),
    ]
    time_ns = 0
    for device in held_stacks(trace, selection, "a pprof profile"):
        row = device.process.row
        time_ns = max(time_ns, (row["clock_origin_unix_ns"] or 0) + device.time_ns)
        for sample in device.samples:
            body.append(profile.sample(sample, device.device, device.process.pid))
    body += profile.tables()
    body += [
        integer(_TIME_NANOS, time_ns),
        message(_PERIOD_TYPE, *profile.kind("space", "bytes")),
        integer(_COMMENT, profile.text(f"{trace.path.name}: held at the peak of each device")),
        integer(_DEFAULT_SAMPLE_TYPE, profile.text("inuse_space")),
    ]
    body += profile.strings()
    out.writelines(body)


class _Profile:
    """The tables that samples refer to; numbers of locations and functions begin at 1."""

    def __init__(self) -> None:
        self._strings: dict[str, int] = {"": 0}
        self._functions: dict[tuple[str, str], int] = {}
        self._locations: dict[tuple[int, int], int] = {}

    def text(self, word: str) -> int:
        return self._strings.setdefault(word, len(self._strings))

    def kind(self, name: str, unit: str) -> tuple[bytes, bytes]:
        return integer(1, self.text(name)), integer(2, self.text(unit))

    def sample(self, sample: Sample, device: str, pid: int) -> bytes:
        locations = [self._location(f.function, f.file, f.line) for f in sample.frames[::-1]]
        if "operator" in sample.labels or not locations:
            locations.insert(0, self._location(sample.labels.get("operator", "(no stack)"), "", 0))
        labels = {"device": device, **sample.labels}
        return message(
            _SAMPLE,
            message(1, b"".join(map(varint, locations))),
            message(2, varint(sample.blocks), varint(sample.held_bytes)),
            *(
                message(3, integer(1, self.text(key)), integer(2, self.text(value)))
                for key, value in labels.items()
            ),
            message(3, integer(1, self.text("pid")), integer(3, pid)),
        )

    def _location(self, function: str, file: str, line: int) -> int:
        number = self._functions.setdefault((function, file), len(self._functions) + 1)
        return self._locations.setdefault((number, line), len(self._locations) + 1)

    def tables(self) -> list[bytes]:
        """Every location and function that a sample has named."""
        locations = [
            message(
                _LOCATION,
                integer(1, number),
                message(4, integer(1, function), integer(2, line)),
            )
            for (function, line), number in self._locations.items()
        ]
        functions = [
            message(
                _FUNCTION,
                integer(1, number),
                integer(2, self.text(name)),
                integer(3, self.text(name)),
                integer(4, self.text(file)),
            )
            for (name, file), number in self._functions.items()
        ]
        return locations + functions

    def strings(self) -> list[bytes]:
        """Comes last: everything above adds to it."""
        return [message(_STRING_TABLE, utf8(word)) for word in self._strings]
