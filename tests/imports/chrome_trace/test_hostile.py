"""Damaged and hostile Chrome traces: one clear line, nothing left behind."""

from __future__ import annotations

import gzip
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imports.chrome_trace.small_trace import EVENTS, memory
from memtrace.cli.main import main
from memtrace.errors import MemtraceError
from memtrace.finalise import finalise
from memtrace.imports.formats import format_of
from memtrace.imports.reader import convert
from memtrace.trace import open_trace

STRANGE = [
    None, True, -1, 0, 1 << 63, 1 << 70, -(1 << 62), 1.5, 1e300, float("nan"), float("inf"), "",
    "x", "nn.Module: ", "torch/x.py(99999999999): y", "(1): ", "\ud800", [], {}, [[]], {"a": 1},
]  # fmt: skip


def imported(value: Any, *, finalised: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, trace_dir = Path(folder) / "x.json", Path(folder) / "t.memtrace"
        path.write_text(json.dumps(value))
        (trace_dir / "spool").mkdir(parents=True)
        convert(path, trace_dir / "spool", format_of(path))
        if finalised:
            finalise(trace_dir)
            open_trace(trace_dir).allocations.to_pylist()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_strange_values_are_read_or_refused(data: st.DataObject) -> None:
    events = json.loads(json.dumps(EVENTS))
    for _ in range(data.draw(st.integers(1, 4))):
        event = data.draw(st.sampled_from(events))
        if not isinstance(event, dict):
            continue
        inner = event.get("args")
        holder = inner if isinstance(inner, dict) and inner and data.draw(st.booleans()) else event
        if holder:
            holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(st.sampled_from(STRANGE))
    with suppress(MemtraceError):
        imported(events, finalised=data.draw(st.integers(0, 9)) == 0)


@settings(max_examples=50, deadline=None)
@given(st.permutations(EVENTS))
def test_events_come_in_any_order(events: list[Any]) -> None:
    imported(events, finalised=False)


REFUSED = {
    "no events": (b'{"traceEvents": []}', "profile_memory=True"),
    "other json": (b'{"model": 1}', "no Chrome trace"),
    "cut off": (json.dumps({"traceEvents": EVENTS}).encode()[:700], "ends in the middle"),
    "deep": (b'{"traceEvents": ' + b"[" * 1_000_000, "damaged"),
    "no address": (
        json.dumps([{**memory(1, 4096, 8, 8), "args": {}}]).encode(), "event 0 is a memory event",
    ),
    "numbers": (b"[1, 2]", "event 0 is no object"),
    "gzip cut off": (gzip.compress(json.dumps(EVENTS).encode())[:-9], "cannot be read to its end"),
    "gzip damaged": (
        gzip.compress(json.dumps(EVENTS).encode())[:90] + b"\xff" * 90, "cannot be read to its end",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, told = REFUSED[name]
    path = tmp_path / "x.json"
    path.write_bytes(data)
    assert (
        main(["import", str(path), "-o", str(tmp_path / "t.memtrace"), "--format", "chrome"]) == 1
    )
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert line.startswith(f"memtrace: cannot import {path}: ")
    assert told in line
    assert len(line) < 600
    assert list(tmp_path.iterdir()) == [path]


def test_a_gzip_bomb_is_no_more_than_a_long_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b'["' + b"x" * (300 << 20), 1))
    assert main(["import", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot import" in line


def test_a_trace_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, trace = tmp_path / "x.json", str(tmp_path / "t.memtrace")
    path.write_text(json.dumps(EVENTS))
    assert main(["import", str(path), "-o", trace]) == 0
    assert main(["import", str(path), "-o", trace]) == 1
    assert "--force" in capsys.readouterr().err
    path.write_text("[")
    assert main(["import", str(path), "-o", trace, "--force"]) == 1
    assert open_trace(trace).events.num_rows == 6, "given back"
