"""Names in a trace are the program's: none of them steers the terminal of who reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from memtrace.cli.main import group, main
from trace_builder import TraceBuilder

TITLE_OF_TERMINAL = "\x1b]0;owned\x07"
TURNED = "\u202ecipe"
CONTROL_SEQUENCE = "\x9b31m"
HOSTILE = f"a{TITLE_OF_TERMINAL}{TURNED}{CONTROL_SEQUENCE}\r\x7fz"
SHOWN = "a\\x1b]0;owned\\x07\\u202ecipe\\x9b31m\\x0d\\x7fz"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    builder = TraceBuilder(tmp_path / "hostile.memtrace")
    peaks = json.dumps({HOSTILE: 1 << 20})
    process = builder.process(paused_intervals="[[0, 5]]", paused_peaks=peaks)
    process.stack(1, (HOSTILE, f"/srv/{HOSTILE}.py", 12))
    process.segment("cuda:0", 64 << 20)
    with process.stage(HOSTILE), process.step(root_module=HOSTILE):
        for _ in range(3):
            process.alloc(
                "cuda:0", 16 << 20, operator=HOSTILE, module=HOSTILE, module_class=HOSTILE,
                source=f"{HOSTILE}.py:12 {HOSTILE}", category="weight", category_by="identity",
                label=HOSTILE, stack_id=1, stage=HOSTILE,
            )  # fmt: skip
    process.oom("cuda:0", 1 << 40, free_bytes=1 << 20)
    return builder.write()


@pytest.mark.parametrize(
    "command",
    ["summary", "peak", "peak --by stage", "peak --by label", "at --time 5us", "tree", "stages",
     "leaks", "fragmentation", "oom", "replay", "fit", "sql SELECT+*+FROM+allocations"],
)  # fmt: skip
def test_output_has_no_controls(hostile: Path, command: str) -> None:
    name, *options = (word.replace("+", " ") for word in command.split())
    result = CliRunner().invoke(group, [name, str(hostile), *options])
    assert result.exit_code == 0, result.output
    assert not set(result.output) & set(HOSTILE) & set("\x1b\x07\u202e\x9b\r\x7f")
    if name in ("peak", "tree") and "stage" not in options:
        assert SHOWN in result.output


def test_neither_has_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peak", str(tmp_path / HOSTILE)]) == 1
    told = capsys.readouterr().err
    assert SHOWN.split("\\x0d")[0] in told
    assert "\x1b" not in told
