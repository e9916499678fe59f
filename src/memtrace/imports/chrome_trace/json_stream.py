"""The events of a Chrome trace, one after the other, in as much memory as the largest needs."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from memtrace.errors import MemtraceError

_CHUNK_BYTES = 1 << 20
_MOST_LETTERS = 64 << 20  # of one value
_EVENTS = "traceEvents"
_NUMBERS = "0123456789.eE+-"  # and "", the end of what was read
_SPACE = re.compile(r"[ \t\r\n]*")


class TraceFile:
    """A file that is read once: events(), then header.

    Attributes:
        header: the members beside the events that are no lists, of those that were read so far;
            all when events() has ended.
    """

    def __init__(self, file: IO[bytes], *, chunk_bytes: int = _CHUNK_BYTES) -> None:
        self.header: dict[str, Any] = {}
        self._file = file
        self._chunk_bytes = chunk_bytes
        self._decode_text = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._decode_json = json.JSONDecoder(strict=False).raw_decode
        self._text = ""
        self._at = 0
        self._ended = False

    def events(self) -> Iterator[Any]:
        """Every value of `traceEvents`, or of the list that the file is.

        Raises:
            MemtraceError: one line that says what is wrong with the file.
        """
        opening = self._next()
        if opening == "[":
            yield from self._list()
        elif opening == "{":
            yield from self._object()
        else:
            raise MemtraceError("it is no JSON of trace events")
        if self._peek():
            raise self._damaged("there is more after its end")

    def _object(self) -> Iterator[Any]:
        found = False
        while self._peek() != "}":
            key = self._value()
            if not isinstance(key, str) or self._next() != ":":
                raise self._damaged("no name of a member")
            if key == _EVENTS:
                if self._next() != "[":
                    raise self._damaged(f"{_EVENTS} is no list")
                found = True
                yield from self._list()
            else:
                self.header[key] = self._value()
            if not self._goes_on("}"):
                break
        self._next()
        if not found:
            raise MemtraceError(f"it has no {_EVENTS}: it is no Chrome trace")

    def _list(self) -> Iterator[Any]:
        while self._peek() != "]":
            yield self._value()
            if not self._goes_on("]"):
                break
        self._next()

    def _goes_on(self, closing: str) -> bool:
        """Past a comma; false where the list or object ends."""
        mark = self._peek()
        if mark == ",":
            self._next()
        elif mark != closing:
            raise self._damaged("it ends in the middle" if not mark else f"{mark!r} after a value")
        return mark == ","

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decode_json(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended or len(self._text) - self._at > _MOST_LETTERS:
                    why = "it ends in the middle" if self._ended else error.msg
                    raise self._damaged(why) from None
            except (ValueError, RecursionError) as error:
                raise self._damaged(str(error)) from None
            else:
                # A number might go on.
                if self._ended or self._text[end : end + 1] not in _NUMBERS:
                    self._at = end
                    return value
            self._read_more()

    def _next(self) -> str:
        """The next letter that is no space; "" at the end."""
        letter = self._peek()
        self._at += len(letter)
        return letter

    def _peek(self) -> str:
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._read_more()

    def _read_more(self) -> None:
        """At least as much again as is there, so that a long value is not tried too often."""
        rest = self._text[self._at :]
        try:
            data = self._file.read(max(self._chunk_bytes, len(rest)))
        except OSError as error:
            raise MemtraceError(f"it cannot be read to its end ({error})") from None
        self._ended = not data
        self._text = rest + self._decode_text.decode(data, final=self._ended)
        self._at = 0

    def _damaged(self, why: str) -> MemtraceError:
        near = self._text[self._at : self._at + 30]
        return MemtraceError(f"it is a damaged Chrome trace: {why}, near {near!r}")
