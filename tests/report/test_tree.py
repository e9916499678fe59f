"""The tree as it is printed: what is small, what is deep, what is styled."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from memtrace.analyse.memory_tree import ORDERS, MemoryTree, make_tree
from memtrace.report.page import write_page
from memtrace.report.tree import tree_page
from memtrace.trace import open_trace
from trace_builder import TraceBuilder

FRAMES = 60


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def deep(tmp_path: Path) -> MemoryTree:
    """A stack deeper than a terminal is wide, and two operators at its end."""
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process(lost_total=3)
    process.stack(1, *[(f"f{n}", "/srv/m.py", n) for n in range(FRAMES)])
    process.alloc("cpu", 900, stack_id=1, operator="aten::mm")
    process.alloc("cpu", 95, stack_id=1, operator="aten::add")
    for size in (3, 2):
        process.alloc("cpu", size, stack_id=1, operator=f"aten::op{size}")
    return make_tree(open_trace(builder.write()), by=ORDERS["stack"])


def lines(tree: MemoryTree, *, least_permille: int = 10) -> list[str]:
    out = io.StringIO()
    write_page(tree_page(tree, least_permille=least_permille), out)
    return out.getvalue().splitlines()


def test_a_chain_does_not_run_out_of_the_terminal(deep: MemoryTree) -> None:
    shown = lines(deep)
    rows = [line for line in shown if "└" in line or "├" in line]
    names = [re.split(r"  +", line.lstrip("│├└─ "))[0] for line in rows]
    assert names == [
        *(f"m.py:{n} f{n}" for n in reversed(range(FRAMES))), "aten::mm", "aten::add", "2 smaller",
    ]  # fmt: skip
    assert max(len(line) - len(line.lstrip("│├└─ ")) for line in rows) == 6
    assert "  3 records lost while recording: figures are bounds" in shown


def test_what_is_small_is_counted(deep: MemoryTree) -> None:
    assert lines(deep)[-1] == "--min SHARE shows more or less"
    assert "5 B" in next(line for line in lines(deep) if "2 smaller" in line)
    whole = lines(deep, least_permille=0)
    assert not any("smaller" in line or "--min" in line for line in whole)
    # One that is small is told by its name; where all are, the one above says it.
    assert any("aten::op2 " in line for line in lines(deep, least_permille=3))
    assert not any("aten::" in line for line in lines(deep, least_permille=950))


def test_in_a_terminal_names_have_colours_and_branches_stand_back(
    deep: MemoryTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    write_page(tree_page(deep, least_permille=10), out)
    shown = out.getvalue()
    assert "\x1b[2m   ├─ \x1b[0m\x1b[32maten::mm" in shown
    assert "\x1b[33mm.py:59 f59" in shown
    for line in shown.splitlines():
        assert len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 70
