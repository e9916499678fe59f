"""A trace of anyone's making: what is said in JSON is no number, no text, or has no end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memtrace.analyse.target import total_bytes
from memtrace.cli import main
from memtrace.trace import Dropped, open_trace
from memtrace.trace_json import parsed, parsed_object
from memtrace.whatif.cpu_kernels import cpu_kernels
from trace_builder import TraceBuilder

DEEP = "[" * 100_000 + "]" * 100_000
COMMANDS = ("summary", "peak", "stages", "oom", "leaks", "fit", "replay", "report", "attribute")


def trace_of(path: Path, *, of_mark: str = "{}", of_step: str = "{}", **row: str) -> Path:
    builder = TraceBuilder(path)
    p = builder.process(**row)
    p.mark("settings", text=row.get("allocator_settings"))
    p.mark("memory_fraction", device="cuda:0", text=of_mark)
    with p.step(input_shapes=of_step):
        p.alloc("cuda:0", 512, stream=0)
    p._event("cuda:0", "oom", {"address": None, "size_bytes": 1 << 30, "device_free_bytes": 5})
    p.mark("oom", device="cuda:0", text=of_mark)
    return builder.write()


def devices_of(total: str) -> str:
    return f'[{{"device": "cuda:0", "name": "a\\ud800b", "total_bytes": {total}}}]'


# What a command says that cannot do without.
_LACKS = ("does not tell how much memory", "is damaged: its dataset_rows tells no numbers of rows")


def use(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command has an answer, or a line that says what is missing."""
    for command in COMMANDS:
        more = ["--force", "-o", str(path.with_suffix(".html"))] if command == "report" else []
        if main([command, str(path), *more]) != 0:
            told = capsys.readouterr().err
            assert any(lack in told for lack in _LACKS), told
        assert "not UTF-8" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "total",
    ['"abc"', "[1]", "{}", "true", "-5", "0", "1e30", "1e999", "NaN", "512.0", str(10**30)],
)
def test_a_size_that_no_device_has_is_not_known(
    total: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trace_of(tmp_path / "t.memtrace", devices=devices_of(total))
    (process,) = open_trace(path).process_list
    assert total_bytes(process, "cuda:0") is None
    assert process.device_names == {"cuda:0": r"a\ud800b"}
    use(path, capsys)


def test_a_size_that_one_may_have(tmp_path: Path) -> None:
    path = trace_of(tmp_path / "t.memtrace", devices=devices_of("1073741824"))
    assert total_bytes(open_trace(path).process_list[0], "cuda:0") == 1 << 30


@pytest.mark.parametrize(
    "columns",
    [
        *[
            {name: DEEP}
            for name in (
                "argv", "devices", "cpu_kernels", "allocator_settings", "dropped", "lost_events",
                "paused_intervals", "paused_peaks", "dataset_rows", "of_mark", "of_step",
            )
        ],
        {"dataset_rows": "5"},
        {"of_mark": '{"fraction": NaN}', "devices": devices_of("1073741824")},
        {"of_mark": '{"fraction": -Infinity}', "devices": devices_of("1073741824")},
        {"of_step": '{"\\ud800": ["\\ud800", 1e999]}'},
        {"lost_events": '{"\\ud800": 3}'},
    ],
    ids=lambda columns: ",".join(columns),
)  # fmt: skip
def test_what_is_said_wrongly_is_not_said(
    columns: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(trace_of(tmp_path / "t.memtrace", **columns), capsys)  # type: ignore[arg-type]


@pytest.mark.parametrize("figure", ["1e999", '"5"', "null", "[]"])
def test_what_was_dropped_is_told_in_numbers(figure: str, tmp_path: Path) -> None:
    told = {"allocations": 5, "largest_bytes": 64, "max_disk_bytes": 4096}
    path = trace_of(tmp_path / "t.memtrace", dropped=json.dumps(told))
    assert open_trace(path).process_list[0].dropped == Dropped(5, 64, 4096)
    text = json.dumps(told).replace("64", figure)
    path = trace_of(tmp_path / "other.memtrace", dropped=text)
    assert open_trace(path).process_list[0].dropped is None


@pytest.mark.parametrize("threads", ["true", "-1", str(10**30), '"8"'])
def test_threads_that_no_cpu_has(threads: str, tmp_path: Path) -> None:
    path = trace_of(tmp_path / "t.memtrace", cpu_kernels=f'{{"threads": {threads}}}')
    assert cpu_kernels(open_trace(path).process_list[0]).threads is None


def test_what_is_no_json_says_nothing() -> None:
    for text in (None, "", "{", DEEP, "1" * 5000):
        assert parsed(text) is None
        assert parsed_object(text) == {}
    assert parsed("[1]") == [1]
    assert parsed_object("[1]") == {}
    assert parsed_object('{"a": 1}') == {"a": 1}
