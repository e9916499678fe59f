"""Formats of stacks: each read back by rules of its own, and all tell the live set at the peak."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import pytest

import memtrace
from memtrace.errors import MemtraceError
from memtrace.outputs import Selection, find_output
from memtrace.trace import Trace
from pprof_reader import pprof_profile
from trace_builder import TraceBuilder

MIB = 1 << 20


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    builder = TraceBuilder(tmp_path / "t.memtrace")
    p = builder.process()
    stack = p.stack(1, ("forward", "/app/model.py", 12), ("main", "/app/a;b\n.py", 3))
    p.alloc("cpu", MIB, stack_id=stack, operator="aten::mm", module="h.0")
    p.alloc("cpu", MIB, stack_id=stack, operator="aten::mm", module="h.0")
    p.alloc("cpu", 2 * MIB, stack_id=stack, operator="aten::add", module="h.0")
    p.alloc("cpu", 5, source="loss.py:7 Loss.forward", operator="aten::mul")
    p.free(p.alloc("cpu", 3))
    p.alloc("cpu", 100)
    p.free(p.alloc("cuda:0", 64, operator="aten::empty"))
    return memtrace.open(builder.write())


def written(trace: Trace, name: str, device: str | None = None) -> bytes:
    out = io.BytesIO()
    find_output(name).load()(trace, Selection(device), out)
    return out.getvalue()


EXPECTED = {
    ("cpu", "main", "forward", "aten::mm"): 2 * MIB,
    ("cpu", "main", "forward", "aten::add"): 2 * MIB,
    ("cpu", "Loss.forward", "aten::mul"): 5,
    ("cpu",): 100,
    ("cuda:0", "aten::empty"): 512,
}


def test_a_file_with_a_space_in_its_name(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "t.memtrace")
    builder.process().alloc("cpu", 5, source="my train 2:3.py:7 main", operator="aten::mul")
    lines = written(memtrace.open(builder.write()), "collapsed").decode()
    assert lines == "cpu;my train 2:3.py:7 main;aten::mul 5\n"


def test_collapsed_lines(trace: Trace) -> None:
    found = dict(line.rsplit(" ", 1) for line in written(trace, "collapsed").decode().splitlines())
    assert {path: int(size) for path, size in found.items()} == {
        "cpu;a:b .py:3 main;model.py:12 forward;aten::mm": 2 * MIB,
        "cpu;a:b .py:3 main;model.py:12 forward;aten::add": 2 * MIB,
        "cpu;loss.py:7 Loss.forward;aten::mul": 5,
        "cpu;(no stack)": 100,
        "cuda:0;aten::empty": 512,
    }


def test_speedscope_profiles(trace: Trace) -> None:
    document = json.loads(written(trace, "speedscope"))
    frames = document["shared"]["frames"]
    found: Counter[tuple[str, ...]] = Counter()
    for profile in document["profiles"]:
        assert (profile["type"], profile["unit"], profile["startValue"]) == ("sampled", "bytes", 0)
        assert profile["endValue"] == sum(profile["weights"])
        device = profile["name"].partition(": held")[0]
        for stack, weight in zip(profile["samples"], profile["weights"], strict=True):
            names = [frames[place]["name"] for place in stack]
            found[(device, *(n for n in names if n != "(no stack)"))] += weight
    assert found == EXPECTED
    (forward,) = [frame for frame in frames if frame["name"] == "forward"]
    assert forward == {"name": "forward", "file": "/app/model.py", "line": 12}


def test_pprof_profile(trace: Trace) -> None:
    profile = pprof_profile()
    profile.ParseFromString(written(trace, "pprof"))
    words = list(profile.string_table)
    assert words[0] == ""
    kinds = [(words[kind.type], words[kind.unit]) for kind in profile.sample_type]
    assert kinds == [("inuse_objects", "count"), ("inuse_space", "bytes")]
    assert words[profile.default_sample_type] == "inuse_space"
    functions = {f.id: (words[f.name], words[f.filename]) for f in profile.function}
    locations = {place.id: (functions[place.line[0].function_id], place.line[0].line)
                 for place in profile.location}  # fmt: skip
    assert (("forward", "/app/model.py"), 12) in locations.values()
    found: Counter[tuple[str, ...]] = Counter()
    blocks = 0
    for sample in profile.sample:
        labels = {words[label.key]: words[label.str] for label in sample.label if label.str}
        names = [locations[place][0][0] for place in reversed(sample.location_id)]
        found[(labels["device"], *(n for n in names if n != "(no stack)"))] += sample.value[1]
        blocks += sample.value[0]
        if names[-1] == "aten::mm":
            assert labels == {
                "category": "other", "device": "cpu", "module": "h.0", "operator": "aten::mm",
            }  # fmt: skip
            assert list(sample.value) == [2, 2 * MIB]
    assert found == EXPECTED
    assert blocks == 6


@pytest.mark.parametrize("name", ["collapsed", "speedscope", "pprof"])
def test_one_device_and_no_window(trace: Trace, name: str) -> None:
    assert b"aten::mm" in written(trace, name, "cpu")
    assert b"aten::mm" not in written(trace, name, "cuda:0")
    with pytest.raises(MemtraceError, match="leave --window out"):
        find_output(name).load()(trace, Selection(None, (0, 1)), io.BytesIO())


@pytest.mark.parametrize("name", ["collapsed", "speedscope", "pprof", "chrome", "csv"])
def test_the_same_trace_gives_the_same_file(trace: Trace, name: str) -> None:
    assert written(trace, name) == written(trace, name)
