"""The stream gives what json.loads gives, however the file is cut; damage is one line."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.errors import MemtraceError
from memtrace.imports.chrome_trace.json_stream import TraceFile

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 62), 1 << 62)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FILES = st.fixed_dictionaries(
    {"traceEvents": st.lists(VALUES, max_size=6)}
) | st.fixed_dictionaries(
    {"schemaVersion": VALUES, "traceEvents": st.lists(VALUES, max_size=6), "name": VALUES}
)


def read(data: bytes, chunk_bytes: int = 1 << 20) -> tuple[list[Any], dict[str, Any]]:
    trace = TraceFile(io.BytesIO(data), chunk_bytes=chunk_bytes)
    return list(trace.events()), trace.header


@settings(deadline=None)
@given(FILES, st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_as_json_reads_it(
    value: dict[str, Any], chunk_bytes: int, indent: int | None, escaped: bool
) -> None:
    data = json.dumps(value, indent=indent, ensure_ascii=escaped).encode(errors="surrogatepass")
    events, header = read(data, chunk_bytes)
    if not escaped:
        value = json.loads(data.decode(errors="replace"))
    assert events == value.pop("traceEvents")
    assert header == value


@settings(deadline=None)
@given(st.lists(VALUES, max_size=6), st.integers(1, 40))
def test_a_list_of_events(values: list[Any], chunk_bytes: int) -> None:
    assert read(json.dumps(values).encode(), chunk_bytes) == (values, {})


GOOD = json.dumps(
    {"a": [1, {"b": "é\\"}], "traceEvents": [{"x": 1.5, "y": ["]", "}"]}, 12, "z"], "c": None}
).encode()


@settings(deadline=None)
@given(st.integers(0, len(GOOD)), st.binary(max_size=3), st.integers(0, 9), st.integers(1, 20))
def test_damage_is_one_line(at: int, other: bytes, cut: int, chunk_bytes: int) -> None:
    with suppress(MemtraceError):
        read(GOOD[:at] + other + GOOD[at + cut :], chunk_bytes)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no JSON"), (b"12", "no JSON"), (b"{}", "no traceEvents"),
        (b'{"traceEvents": 7}', "no list"),
        (b'{"traceEvents": [1, 2', "ends in the middle"), (b'{"traceEvents": [1 2]}', "'2' after"),
        (b'{"traceEvents": []} x', "more after its end"),
        (b'{"traceEvents": [{"a" 1}]}', "damaged"),
        (b"[" * 100_000, "damaged"), (b'[{"a": ' + b"9" * 10_000 + b"}]", "damaged"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(data: bytes, told: str) -> None:
    with pytest.raises(MemtraceError, match=told):
        read(data)


def test_a_comma_after_the_last_event_is_read_past() -> None:
    assert read(b'{"traceEvents": [1, 2,], "a": 3,}') == ([1, 2], {"a": 3})


def test_no_more_is_read_than_is_needed() -> None:
    """Bounded memory: the file is read a chunk at a time."""
    file = io.BytesIO(b"[" + b'{"a": "xxxxxxxxxxxxxxxxxxxxxxxx"},' * 10_000 + b"1]")
    events = TraceFile(file, chunk_bytes=1000).events()
    for _ in range(100):
        next(events)
    assert file.tell() < 10_000
