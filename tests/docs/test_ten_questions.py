"""docs/ten-questions.md: every answer is found, in the same words, by pandas, Polars and SQL."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

import memtrace
from doc_pages import DOCS
from program_runs import plain_environment

PAGE = (DOCS / "ten-questions.md").read_text()
PROGRAM = """
import memtrace
import torch
from torch import nn

model = nn.Sequential(nn.Embedding(500, 32), nn.Flatten(), nn.Linear(256, 64), nn.Linear(64, 9))
optimizer = torch.optim.AdamW(model.parameters())
model[3].half()
for batch in (4, 16):
    inputs = torch.randint(0, 500, (batch, 8))
    hidden = nn.Sequential(*model[:3])(inputs)
    hidden.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
memtrace.stage("to the end")
torch.ones(1000).sum()
"""


def sections() -> list[str]:
    return re.split(r"^## ", PAGE, flags=re.MULTILINE)


def snippet(section: str, tool: str) -> str:
    if tool == "sql":
        (found,) = re.findall(r"^```sql\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    else:
        pattern = rf"^```python\n# {tool}\n(.*?)^```$"
        (found,) = re.findall(pattern, section, re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    (folder / "program.py").write_text(PROGRAM)
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", "run.memtrace", "program.py"]
    subprocess.run(argv, cwd=folder, check=True, env=plain_environment())
    return folder


@pytest.fixture(scope="module")
def opened(folder: Path) -> dict[str, dict[str, Any]]:
    """What each tool's first snippet leaves behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        found: dict[str, dict[str, Any]] = {"pandas": {}, "polars": {}}
        for tool, names in found.items():
            exec(snippet(sections()[0], tool), names)
    return found


def plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return tuple(plain(each) for each in value) if isinstance(value, (list, tuple)) else value


def rows(answer: Any) -> list[Any]:
    """Whatever shape the tool gives an answer, as plain rows."""
    found: Iterable[Any]
    if hasattr(answer, "rows"):  # Polars
        found = answer.rows()
    elif hasattr(answer, "items") and hasattr(answer, "index") and not hasattr(answer, "columns"):
        found = answer.items()  # a Series of pandas, with its index
    elif hasattr(answer, "itertuples"):
        found = answer.itertuples(index=False, name=None)
    else:
        found = answer
    return [plain(tuple(row)) for row in found]


QUESTIONS = sections()[1:]


def test_there_are_ten() -> None:
    assert [section.split(".")[0] for section in QUESTIONS] == [str(n) for n in range(1, 11)]


@pytest.mark.parametrize("section", QUESTIONS, ids=[s.split(".")[0] for s in QUESTIONS])
def test_three_tools_give_the_same_answer(
    section: str, opened: dict[str, dict[str, Any]], folder: Path
) -> None:
    by_sql = memtrace.open(folder / "run.memtrace").sql(snippet(section, "sql"))
    expected = [plain(tuple(row.values())) for row in by_sql.to_pylist()]
    assert expected
    for tool, names in opened.items():
        scope = dict(names)
        exec(snippet(section, tool), scope)
        assert rows(scope["answer"]) == expected, tool


def test_a_stage_that_lasts_to_the_end_has_a_peak(folder: Path) -> None:
    trace = memtrace.open(folder / "run.memtrace")
    assert trace.stages.filter(pc.field("name") == "to the end")["end_seq"].to_pylist() == [None]
    found = trace.sql(snippet(QUESTIONS[6], "sql")).to_pylist()
    assert "to the end" in [row["name"] for row in found]


def test_the_second_answer_is_what_memtrace_peak_says(
    opened: dict[str, dict[str, Any]], folder: Path
) -> None:
    scope = dict(opened["pandas"])
    exec(snippet(QUESTIONS[1], "pandas"), scope)
    peak = memtrace.open(folder / "run.memtrace").peak("cpu", by="category")
    said = {row.key: row.total_bytes for row in peak.breakdown.rows}
    assert dict(rows(scope["answer"])) == said
