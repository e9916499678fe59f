"""Headers of torches that are not installed: what of a wheel is kept, what CMake makes of it."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def torch_headers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """cmake/torch_headers.py, and a pip that brings a small wheel for whatever it is asked."""
    spec = importlib.util.spec_from_file_location("torch_headers", ROOT / "cmake/torch_headers.py")
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def pip(command: str, *words: str) -> None:
        if command == "install":
            Path(words[1], "nvidia", "cu99", "include").mkdir(parents=True)
            return
        with zipfile.ZipFile(Path(words[1], "torch.whl"), "w") as wheel:
            wheel.writestr("torch/include/c10/one.h", "// of c10")
            wheel.writestr("torch/lib/libtorch_cpu.so", "a large library")
            wheel.writestr("torch/nn/__init__.py", "")

    monkeypatch.setattr(module, "_pip", pip)
    return module


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_list_of_torches(torch_headers: ModuleType, tmp_path: Path) -> None:
    known = torch_headers.known_torches(tmp_path, (3, 12))
    versions = [tuple(map(int, torch.version.split("."))) for torch in known]
    assert versions == sorted(versions)
    abis = {torch.version: [] for torch in known}
    for torch in known:
        abis[torch.version].append(torch.cxx11_abi)
    assert abis.pop("2.6.0") == [False, True]  # PyPI's, and the one of the other index
    assert set(map(tuple, abis.values())) == {(True,)}
    assert {"2.8.0", "2.11.0", "2.13.0", "2.15.0"} <= set(abis)
    of_3_10 = {torch.version for torch in torch_headers.known_torches(tmp_path, (3, 10))}
    assert set(abis) - of_3_10 == {"2.15.0"}


def test_the_page_has_each_torch_and_each_python(torch_headers: ModuleType, tmp_path: Path) -> None:
    """docs/which-torch.md: a row for each torch and ABI of the list, a column for each Python."""
    page = (ROOT / "docs/which-torch.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    project = (ROOT / "pyproject.toml").read_text()
    pythons = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert head == ["torch", "C++11 ABI", *(f"Python {python}" for python in pythons)]
    everything = torch_headers.known_torches(tmp_path, (99,))
    assert [row[:2] for row in rows] == [
        [torch.version, str(int(torch.cxx11_abi))] for torch in everything
    ]
    for column, python in enumerate(pythons, 2):
        known = torch_headers.known_torches(tmp_path, tuple(map(int, python.split("."))))
        there = {(torch.version, torch.cxx11_abi) for torch in known}
        for torch, row in zip(everything, rows, strict=True):
            exists = (torch.version, torch.cxx11_abi) in there
            assert (row[column] != "no such torch") == exists, (python, row)
            assert row[column] in {"ran", "compiled", "not tried", "no such torch"}


def test_what_is_kept_of_a_wheel(torch_headers: ModuleType, tmp_path: Path) -> None:
    torch_headers.fetch(tmp_path, ["2.8.0"])
    libraries = {f"lib/{name}" for name in torch_headers.HOOK_LIBRARIES}
    assert files(tmp_path / "2.8.0") == {"include/c10/one.h", *libraries}
    assert {path.name for path in tmp_path.iterdir()} == {"2.8.0", "cuda"}


def test_a_hook_needs_the_libraries_by_their_names(
    torch_headers: ModuleType, tmp_path: Path
) -> None:
    torch_headers.fetch(tmp_path, ["2.8.0"])
    libraries = [str(tmp_path / "2.8.0" / "lib" / name) for name in torch_headers.HOOK_LIBRARIES]
    made = str(tmp_path / "hook.so")
    link = ["cc", "-shared", "-Wl,--no-as-needed", "-x", "c", "/dev/null", "-x", "none"]
    subprocess.run([*link, *libraries, "-o", made], check=True)
    shown = subprocess.run(["readelf", "-d", made], capture_output=True, text=True, check=True)
    for name in torch_headers.HOOK_LIBRARIES:
        assert f"Shared library: [{name}]" in shown.stdout


def test_what_is_there_is_not_fetched_again(
    torch_headers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_headers.fetch(tmp_path, ["2.8.0"])
    monkeypatch.setattr(torch_headers, "_pip", None)
    torch_headers.fetch(tmp_path, ["2.8.0"])


def test_a_torch_that_is_not_in_the_list(
    torch_headers: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert torch_headers.main(["fetch", str(tmp_path / "headers"), "1.0.0"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("torch_headers: torches.csv has no torch 1.0.0; it has 2.6.0, ")
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "headers").exists()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (["WARNING: old", "ERROR: No matching", "WARNING: new"], "ERROR: No matching"),
        (["ERROR: Exception:", "Traceback", "OSError: disk full"], "OSError: disk full"),
        (["killed"], "killed"),
    ],
)
def test_headers_that_cannot_be_had(
    torch_headers: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    written: list[str],
    said: str,
) -> None:
    (tmp_path / "cuda").mkdir()

    def refuses(*words: str) -> None:
        says = f"import sys; sys.exit({chr(10).join(written)!r})"
        torch_headers._run([sys.executable, "-c", says, words[-1]])

    monkeypatch.setattr(torch_headers, "_pip", refuses)
    assert torch_headers.main(["fetch", str(tmp_path), "2.8.0"]) == 1
    assert capsys.readouterr().err == f"torch_headers: torch==2.8.0: {said}\n"
    assert {path.name for path in tmp_path.iterdir()} == {"cuda"}


def test_cmake_builds_a_hook_for_each(torch_headers: ModuleType, tmp_path: Path) -> None:
    for tool in ("cmake", "ninja", "pybind11"):
        pytest.importorskip(tool)
    import cmake
    import pybind11

    headers, build = tmp_path / "headers", tmp_path / "build"
    torch_headers.fetch(headers, ["2.6.0", "2.13.0"])
    configure = [
        str(Path(cmake.CMAKE_BIN_DIR, "cmake")), "-S", str(ROOT), "-B", str(build), "-GNinja",
        f"-DMEMTRACE_TORCH_HEADERS={headers}", f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", "--log-level=WARNING",
    ]  # fmt: skip
    subprocess.run(configure, capture_output=True, check=True)
    commands = json.loads((build / "compile_commands.json").read_text())
    hooks: dict[str, set[str]] = {}
    for command in commands:
        output = command["output"]
        if "_hook-torch" in output:
            name = output.partition("_hook-torch")[2].partition(".cpython")[0]
            version, abi = name.split("-cxx11abi")
            assert f"-isystem {headers}/{version}/include" in command["command"]
            assert f"-isystem {headers}/cuda/nvidia/cu99/include" in command["command"]
            assert f"-D_GLIBCXX_USE_CXX11_ABI={abi}" in command["command"]
            hooks.setdefault(name, set()).add(command["file"])
    assert set(hooks) == {"2.6.0-cxx11abi0", "2.6.0-cxx11abi1", "2.13.0-cxx11abi1"}
    assert len(set(map(frozenset, hooks.values()))) == 1
