"""RELIABILITY.md tells the truth about the tree: its tests exist, and no hazard is left out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "RELIABILITY.md").read_text().splitlines()
    if line.startswith("|") and not line.startswith("| ---")
][1:]


def named_tests() -> set[tuple[str, str]]:
    return {pair for row in ROWS for pair in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[1])}


def test_every_named_test_exists() -> None:
    missing = []
    for path, name in sorted(named_tests()):
        file = ROOT / path
        tree = ast.parse(file.read_text()) if file.exists() else ast.Module([], [])
        if name not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
            missing.append(f"{path}::{name}")
    assert missing == []


def test_every_file_of_hazards_is_in_the_table() -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests/hazards").glob("test_*.py")}
    assert files - {path for path, _ in named_tests()} == set()


def test_every_condition_has_a_test_a_promise_and_a_count_of_losses() -> None:
    assert len(ROWS) > 25
    for condition, tests, promise, lost in ROWS:
        assert "::" in tests, condition
        assert promise, condition
        assert re.match(r"0(;|$)|counted$|all.*: the line says so$", lost), condition
