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

from memtrace.cli.main import main
from memtrace.errors import MemtraceError
from memtrace.finalise import finalise
from memtrace.imports.formats import format_of
from memtrace.imports.reader import convert
from memtrace.trace import open_trace


def memory(ts: float, address: int, size: int, total: int, **more: Any) -> dict[str, Any]:
    args = {
        "Addr": address, "Bytes": size, "Device Type": 0, "Device Id": -1,
        "Total Allocated": total, "Total Reserved": 0, **more,
    }  # fmt: skip
    return {"ph": "i", "name": "[memory]", "pid": 7, "tid": 7, "ts": ts, "args": args}


def call(name: str, cat: str, ts: float, dur: float, **args: Any) -> dict[str, Any]:
    common = {"ph": "X", "pid": 7, "tid": 7}
    return {**common, "name": name, "cat": cat, "ts": ts, "dur": dur, "args": args}


EVENTS = [
    call("train.py(3): <module>", "python_function", 0, 100),
    call("nn.Module: Net_0", "python_function", 1, 20),
    call("aten::mm", "cpu_op", 2, 10, **{"Sequence number": 4}),
    {"ph": "s", "cat": "fwdbwd", "name": "fwdbwd", "id": 1, "pid": 7, "tid": 7, "ts": 2},
    memory(3, 4096, 64, 164),
    call("autograd::engine::evaluate_function: MmBackward0", "cpu_op", 30, 10),
    call("MmBackward0", "cpu_op", 31, 8, **{"Sequence number": 4, "Fwd thread id": 1}),
    {"ph": "f", "cat": "fwdbwd", "name": "fwdbwd", "id": 1, "pid": 7, "tid": 7, "ts": 31},
    memory(32, 8192, 32, 196),
    memory(33, 1 << 40, 512, 512, **{"Device Type": 1, "Device Id": 0, "Total Reserved": 1 << 21}),
    call("Optimizer.step#SGD.step", "user_annotation", 50, 10),
    memory(55, 4096, -64, 132),
    memory(60, 12288, -100, 32),
]
STRANGE = [
    None, True, -1, 0, 1 << 63, 1 << 70, -(1 << 62), 1.5, 1e300, float("nan"), float("inf"), "",
    "x", "nn.Module: ", "torch/x.py(99999999999): y", "(1): ", "\ud800", [], {}, [[]], {"a": 1},
]  # fmt: skip


def imported(value: Any, *, finalised: bool = True) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path, trace_dir = Path(folder) / "x.json", Path(folder) / "t.memtrace"
        path.write_text(json.dumps(value))
        (trace_dir / "spool").mkdir(parents=True)
        convert(path, trace_dir / "spool", format_of(path))
        if not finalised:
            return []
        finalise(trace_dir)
        rows: list[dict[str, Any]] = open_trace(trace_dir).allocations.to_pylist()
        return rows


def test_the_small_trace_is_a_good_one() -> None:
    rows = imported({"traceEvents": EVENTS})
    found = [(r["size_bytes"], r["origin"], r["operator"], r["forward_operator"]) for r in rows]
    assert sorted(found, key=str) == sorted(
        [
            (100, "preexisting", None, None), (64, "recorded", "aten::mm", None),
            (32, "recorded", "MmBackward0", "aten::mm"),
            (512, "recorded", "MmBackward0", "aten::mm"),
        ],
        key=str,
    )  # fmt: skip


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
    "gzip damaged": (gzip.compress(b"[" + b" " * 10_000)[:30] + b"xxxxxxxx", ""),
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
