"""What becomes of the events of a Chrome trace, one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imports.chrome_trace.small_trace import EVENTS, call, memory
from memtrace.cli.main import main
from memtrace.imports.importing import import_file
from memtrace.trace import Trace, open_trace

ON_CUDA = {"Device Type": 1, "Device Id": 0, "Total Reserved": 1 << 21}


def imported(folder: Path, events: list[Any], **header: Any) -> Trace:
    path = folder / "x.json"
    path.write_text(json.dumps({**header, "traceEvents": events}))
    return open_trace(import_file(path, str(folder / "t.memtrace"), force=True).path)


def lacks(trace: Trace) -> str:
    return str(trace.process_list[0].row["hook_error"])


def test_allocations(tmp_path: Path) -> None:
    rows = imported(tmp_path, EVENTS).allocations.to_pylist()
    names = ("size_bytes", "origin", "operator", "forward_operator", "phase", "module")
    found = [tuple(row[name] for name in names) for row in rows]
    assert sorted(found, key=str) == sorted(
        [
            (100, "preexisting", None, None, "other", None),
            (64, "recorded", "aten::mm", None, "forward", "Net_0"),
            (32, "recorded", "MmBackward0", "aten::mm", "backward", "Net_0"),
            (512, "recorded", "MmBackward0", "aten::mm", "backward", "Net_0"),
        ],
        key=str,
    )


def test_stacks_are_of_lines_and_modules(tmp_path: Path) -> None:
    torchs = {**EVENTS[1], "name": "torch/nn/modules/linear.py(50): forward", "ts": 1.5, "dur": 15}
    builtin = {**torchs, "name": "<built-in method mm>", "ts": 1.6}
    trace = imported(tmp_path, [*EVENTS, torchs, builtin])
    (row,) = (r for r in trace.allocations.to_pylist() if r["operator"] == "aten::mm")
    frames = [f for f in trace.stacks.to_pylist() if f["stack_id"] == row["stack_id"]]
    assert [(f["function"], f["line"]) for f in frames] == [
        ("forward", 50), ("_wrapped_call_impl", 0), ("<module>", 3),
    ]  # fmt: skip
    assert row["source"] == "train.py:3 <module>", "not a line of torch"


def test_a_block_without_a_name_is_a_stage(tmp_path: Path) -> None:
    trace = imported(tmp_path, [*EVENTS, call("", "user_annotation", 2, 20)])
    assert "(no name)" in [row["name"] for row in trace.stages.to_pylist()]


def test_what_is_reserved_is_a_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = imported(
        tmp_path,
        [
            memory(1, 1 << 40, 512, 1024, **ON_CUDA),
            memory(2, 1 << 41, 1024, 2048, **{**ON_CUDA, "Total Reserved": 1 << 22}),
            memory(3, 1 << 41, -1024, 1024, **{**ON_CUDA, "Total Reserved": 1 << 22}),
        ],
    )
    rows = [
        (r["action"], r["allocated_bytes"], r["reserved_bytes"]) for r in trace.events.to_pylist()
    ]
    assert rows == [
        ("preexisting", 512, 1 << 21), ("alloc", 1024, 1 << 21), ("alloc", 2048, 1 << 22),
        ("free_completed", 1024, 1 << 22),
    ]  # fmt: skip
    assert trace.process_list[0].row["reconciled"] is True
    assert "512 bytes of cuda:0 are from before the profile" in lacks(trace)
    assert main(["replay", str(trace.path)]) == 1
    assert "blocks alone" in capsys.readouterr().err


def test_a_total_that_the_events_do_not_add_up_to_is_told(tmp_path: Path) -> None:
    trace = imported(tmp_path, [memory(1, 4096, 8, 8), memory(2, 8192, 8, 1016)])
    assert "changes 1 times by what no event tells" in lacks(trace)
    assert "up to 1,000 bytes another" in lacks(trace)
    assert "changes" not in lacks(imported(tmp_path, EVENTS))


def test_other_devices_are_left_out_and_counted(tmp_path: Path) -> None:
    trace = imported(
        tmp_path, [memory(1, 4096, 8, 8), memory(2, 4096, 8, 8, **{"Device Type": 13})]
    )
    assert trace.devices == ["cpu"]
    assert "1 events of other kinds of devices were left out" in lacks(trace)


def test_files_of_several_processes(tmp_path: Path) -> None:
    trace = imported(tmp_path, [memory(1, 4096, 8, 8), {**memory(2, 4096, 16, 16), "pid": 8}])
    assert [p.pid for p in trace.process_list] == [7, 8]
    assert trace.peak("cpu", process=8).total_bytes == 16


@pytest.mark.parametrize(
    ("header", "microseconds", "unix_ns"),
    [
        ({"baseTimeNanoseconds": 1_700_000_000_000_000_000}, 5.0, 1_700_000_000_000_003_000),
        ({}, 1_700_000_000_000_000.0, 1_699_999_999_999_998_000),  # before torch 2.4
        ({}, 5.0, None),
    ],
)
def test_the_time_of_day(
    header: dict[str, Any], microseconds: float, unix_ns: int | None, tmp_path: Path
) -> None:
    trace = imported(tmp_path, [memory(microseconds, 4096, 8, 8)], **header)
    assert trace.process_list[0].row["clock_origin_unix_ns"] in (unix_ns, unix_ns or 0)


def test_what_the_header_tells(tmp_path: Path) -> None:
    trace = imported(
        tmp_path,
        [memory(1, 1 << 40, 512, 512, **ON_CUDA)],
        distributedInfo={"backend": "nccl", "rank": 3, "world_size": 8},
        deviceProperties=[{"id": 0, "name": "NVIDIA L4", "totalGlobalMem": 24 << 30}],
        host_name="box",
    )
    (process,) = trace.process_list
    assert (process.rank, process.row["world_size"], process.row["host"]) == (3, 8, "box")
    assert process.device_names == {"cuda:0": "NVIDIA L4"}


def test_calls_that_reach_into_each_other_do_no_harm(tmp_path: Path) -> None:
    odd = [{**event, "dur": 35} if event["name"] == "aten::mm" else event for event in EVENTS]
    rows = imported(tmp_path, odd).allocations.to_pylist()
    assert len(rows) == 4
