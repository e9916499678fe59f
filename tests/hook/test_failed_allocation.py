"""CPU memory that torch could not get: recorded; the error stays the program's own."""

from __future__ import annotations

from pathlib import Path

import program_runs
from memtrace.analyse.failures import list_ooms
from memtrace.trace import open_trace

PROGRAM = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, size):
        return torch.ones(size, dtype=torch.uint8)

held = torch.ones(1 << 20)
for size in (1 << 46, 1 << 47):
    try:
        Net()(size)
    except RuntimeError as error:
        print(type(error).__name__, error)
try:
    torch.UntypedStorage(1 << 62)
except RuntimeError as error:
    print(error)
print(held.sum().item())
"""


def test_recorded_with_its_size_and_the_error_unchanged(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    trace = tmp_path / "t.memtrace"
    plain = program_runs.python(program)
    shown = program_runs.recorded(trace, program)
    assert (shown.status, shown.out, shown.err) == (0, plain.out, plain.err)
    assert b"can't allocate memory" in plain.out
    first, second, storage = list_ooms(open_trace(trace))
    assert [oom.asked_bytes for oom in (first, second, storage)] == [1 << 46, 1 << 47, 1 << 62]
    assert (first.device, first.allocated_bytes) == ("cpu", 4 << 20)
    assert (first.operator, first.module) == ("aten::ones", "Net")
    assert first.source == "program.py:7 Net.forward"
    assert storage.source == "program.py:16 <module>"
    assert first.device_free_bytes is not None
    assert first.device_free_bytes < 1 << 46
    events = open_trace(trace).events.to_pylist()
    assert {event["address"] for event in events if event["action"] == "oom"} == {None}


def test_an_uncaught_one_ends_the_run_with_its_post_mortem(tmp_path: Path) -> None:
    words = ("-c", "import torch; torch.ones(1 << 46)")
    plain = program_runs.python(*words)
    shown = program_runs.memtrace("run", "-o", tmp_path / "t.memtrace", *words)
    assert shown.status == plain.status == 1
    assert shown.err.startswith(plain.err.rstrip())
    ours = shown.err.decode()[len(plain.err) :]
    assert "cpu out of memory once at " in ours
    assert "256.0 TiB asked for by aten::ones (<string>:1 <module>)" in ours
