"""ARCHITECTURE.md tells the truth about the tree, and stays short."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "ARCHITECTURE.md").read_text()


def named_paths() -> set[str]:
    table = [line for line in TEXT.splitlines() if line.startswith("|")]
    return {path.rstrip("/") for line in table for path in re.findall(r"`([^`]+)`", line)}


def test_every_path_in_the_table_exists() -> None:
    missing = [path for path in named_paths() if not (ROOT / path).exists()]
    assert not missing


def test_every_folder_and_module_of_the_tree_is_in_the_table() -> None:
    places = [path for path in (ROOT / "csrc").iterdir() if path.is_dir()]
    package = ROOT / "src" / "memtrace"
    places += [path for path in package.iterdir() if path.is_dir() and list(path.glob("*.py"))]
    places += [path for path in package.glob("*.py") if path.name != "__init__.py"]
    unnamed = [str(path.relative_to(ROOT)) for path in places]
    assert sorted(set(unnamed) - named_paths()) == []


def test_files_named_in_the_prose_exist() -> None:
    prose = "\n".join(line for line in TEXT.splitlines() if not line.startswith("|"))
    names = set(re.findall(r"`(?:[\w/]+/)?([\w]+\.(?:cpp|h|py|md))`", prose))
    folders = ("csrc", "src", "tools", "tests")
    in_tree = {path.name for folder in folders for path in (ROOT / folder).rglob("*.*")}
    assert sorted(names - in_tree) == []


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= 120


def test_the_layer_check_passes() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "check_layers.py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
