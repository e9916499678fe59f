"""What is installed and shipped: complete, nothing too much, and the stub tells the truth."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

import memtrace
from memtrace import _core
from memtrace.hook.build import find_sources, hook_sources

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(memtrace.__file__).parent
PRODUCT = re.compile(r"\.(so|o|a|pyc|pth|bin|parquet)$|__pycache__|\.memtrace/|/build/|egg-info")
Signature = tuple[list[str], list[str], list[str]]  # arguments, keyword-only ones, defaults


# ---- _core.pyi ----------------------------------------------------------------------------------


def signature(function: ast.FunctionDef) -> Signature:
    """As pybind11 writes it: an argument without a name is arg0, arg1 ..."""
    arguments = function.args
    unnamed = [f"arg{place}" for place in range(len(arguments.posonlyargs) - 1)]
    named = [argument.arg for argument in arguments.args]
    defaults = [*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)]
    return (
        ["self", *unnamed] if arguments.posonlyargs else named,
        [argument.arg for argument in arguments.kwonlyargs],
        [ast.unparse(default) for default in defaults],
    )


def native_signature(function: object) -> Signature:
    """Of a bound function, from the first line of its docstring, where pybind11 puts it."""
    line = next(line for line in (function.__doc__ or "").splitlines() if "(" in line)
    (parsed,) = ast.parse(f"def {line.strip()}: ...").body
    assert isinstance(parsed, ast.FunctionDef)
    return signature(parsed)


def stub_names(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    named: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            named[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            named[ast.unparse(node.target)] = node
    return named


def is_property(node: ast.stmt) -> bool:
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    return [ast.unparse(decorator) for decorator in decorators] == ["property"]


def test_the_stub_is_in_step_with_the_module() -> None:
    stub = stub_names(ast.parse((PACKAGE / "_core.pyi").read_text()).body)
    native = {name for name in dir(_core) if not name.startswith("_")}
    assert native == set(stub)
    for name, node in stub.items():
        if isinstance(node, ast.FunctionDef):
            assert native_signature(getattr(_core, name)) == signature(node), name
        elif isinstance(node, ast.ClassDef) and name != "SpoolError":
            members = stub_names(node.body)
            kind = getattr(_core, name)
            known = {m for m in vars(kind) if not m.startswith("_")}
            assert known == {m for m in members if not m.startswith("_")}, name
            for member, defined in members.items():
                assert is_property(defined) == isinstance(getattr(kind, member), property), member
                if isinstance(defined, ast.FunctionDef) and not is_property(defined):
                    given = native_signature(getattr(kind, member))
                    assert given == signature(defined), f"{name}.{member}"


# ---- what is installed --------------------------------------------------------------------------


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_the_sources_of_the_hook_are_complete() -> None:
    """Every header that a source of the hook includes of ours is there."""
    sources = find_sources()
    pending, seen = hook_sources(sources), set()
    assert len(pending) > 5
    while pending:
        file = pending.pop()
        for name in re.findall(r'^#include "([^"]+)"', file.read_text(), re.MULTILINE):
            if name not in seen:
                seen.add(name)
                pending.append(sources / name)
                assert (sources / name).is_file(), f"{name}, included by {file.name}"


def installed_files() -> list[str]:
    try:
        files = metadata.files("memtrace") or []
    except metadata.PackageNotFoundError:
        return []
    located = [file for file in files if Path(str(file.locate())).exists()]
    return [str(file) for file in located if "__pycache__" not in str(file)]


@pytest.mark.skipif(not installed_files(), reason="memtrace is not installed")
def test_the_installed_package_holds_what_it_should() -> None:
    files = installed_files()
    compiled = [file for file in files if PRODUCT.search(file)]
    assert [
        f for f in compiled if not re.match(r"memtrace/(_core|_hooks/_hook-torch)[^/]*\.so", f)
    ] == []
    top = {file.partition("/")[0] for file in files if not file.startswith("..")}
    assert {name for name in top if not name.startswith("memtrace-")} == {"memtrace"}
    for folder in ("record", "hook", "bind"):
        expected = {
            p.name for p in (ROOT / "csrc" / folder).iterdir() if p.suffix in (".h", ".cpp")
        }
        held = {Path(f).name for f in files if f.startswith(f"memtrace/_csrc/{folder}/")}
        assert held == expected, "installed from other sources: install again"
    python = {str(p.relative_to(ROOT / "src")) for p in (ROOT / "src").rglob("*.py")}
    assert python <= set(files)
    assets = {
        f"memtrace/page/assets/{p.name}" for p in (ROOT / "src/memtrace/page/assets").iterdir()
    }
    assert len(assets) > 10
    assert assets <= set(files)
    assert {"memtrace/py.typed", "memtrace/_core.pyi", "memtrace/fit/gpus.csv"} <= set(files)


def test_its_requirements_agree() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stdout.splitlines() if line.startswith("memtrace ")]
    assert ours == []


# ---- what is shipped ----------------------------------------------------------------------------


@pytest.mark.skipif(
    importlib.util.find_spec("scikit_build_core") is None, reason="scikit-build-core is missing"
)
def test_the_source_distribution(tmp_path: Path) -> None:
    code = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    argv = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(argv, cwd=ROOT, capture_output=True, check=True)
    (made,) = tmp_path.iterdir()
    with tarfile.open(made) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert [name for name in names if PRODUCT.search(name)] == []
    needed = {"pyproject.toml", "CMakeLists.txt", "LICENSE", "README.md"}
    for folder in ("cmake", "csrc", "src"):
        for at, _, files in os.walk(ROOT / folder):
            needed |= {os.path.relpath(os.path.join(at, file), ROOT) for file in files}
    needed = {name for name in needed if not PRODUCT.search(name)}
    assert needed <= names
    # Small: no trace, no virtual environment, no data of a test.
    assert made.stat().st_size < 1 << 20


def test_pytest_finds_its_plugin() -> None:
    found = {point.value for point in metadata.entry_points(group="pytest11")}
    assert "memtrace.frameworks.pytest_plugin" in found
