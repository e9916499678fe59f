"""`memtrace build-hook`: what is missing is said in one line; what it builds is found and used."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from memtrace.errors import MemtraceError
from memtrace.hook import build as building
from memtrace.hook import torch_build
from memtrace.hook.installed import cache_dir
from memtrace.hook.torch_build import TorchBuild, find_cuda_include_dirs
from program_runs import main_process, memtrace, plain_environment


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch that is only described, sources and headers that are there, a cache of its own."""
    for name in ("record", "hook/one.cpp", "hook/two.cpp", "bind/hook_module.cpp"):
        path = tmp_path / "csrc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if path.suffix else path.mkdir()
    torch = TorchBuild("9.9.9", cxx11_abi=True, root=tmp_path / "torch")
    monkeypatch.setattr(building, "find_torch_build", lambda: torch)
    monkeypatch.setattr(building, "find_sources", lambda: tmp_path / "csrc")
    monkeypatch.setattr(building, "find_cuda_include_dirs", lambda: [tmp_path / "cuda"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path


def compiler(folder: Path, script: str, name: str = "g++") -> Path:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


# Writes its arguments into what it is to make.
MAKES = 'all="$*"; while [ "$1" != -o ]; do shift; done; echo "$all" > "$2"'


def refused() -> str:
    with pytest.raises(MemtraceError) as refusal:
        building.build_hook()
    line = str(refusal.value)
    assert line.startswith("build-hook: ")
    assert "\n" not in line
    return line


def test_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "find_torch_build", lambda: None)
    assert "torch is not installed in this Python" in refused()


def test_a_python_that_is_too_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_build, "_NEWEST_PYTHON", (3, 9))
    assert "hook is for Python 3.10 to 3.9, and this is 3." in refused()


def test_no_compiler(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "no C++ compiler: install g++ 11 or newer" in refused()
    monkeypatch.setenv("CXX", "absent -O1")
    assert "no such compiler: CXX=absent" in refused()
    assert not cache_dir().exists()


def test_no_cuda_headers(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "find_cuda_include_dirs", list)
    assert "pip install nvidia-cuda-runtime nvidia-cuda-crt" in refused()


def test_no_python_headers(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(workplace / name))
    assert "no Python.h in " in refused()


def test_a_compiler_that_fails_leaves_the_old_hook(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = cache_dir() / torch_build.hook_file_name("9.9.9", cxx11_abi=True)
    old.parent.mkdir(parents=True)
    old.write_text("old")
    script = 'echo "In file included from x:" >&2; echo "a.h:3: fatal error: no b.h" >&2; exit 1'
    compiler(workplace, script)
    monkeypatch.setenv("PATH", str(workplace / "bin"), prepend=os.pathsep)
    assert refused() == "build-hook: g++ failed: a.h:3: fatal error: no b.h"
    assert old.read_text() == "old"
    assert os.listdir(old.parent) == [old.name]


def test_a_cache_that_cannot_be_written(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace / "cache").touch()
    assert "set XDG_CACHE_HOME" in refused()


def test_it_replaces_the_hook_at_once(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(workplace, MAKES)
    monkeypatch.setenv("PATH", str(workplace / "bin"), prepend=os.pathsep)
    made = building.build_hook()
    before = made.stat().st_ino
    assert building.build_hook() == made
    assert made.stat().st_ino != before  # a running program keeps the file that it has
    assert made.parent == cache_dir()
    assert os.listdir(made.parent) == [made.name]
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700
    assert "libtorch_cpu.so" in made.read_text()
    for name in ("one.o", "two.o", "hook_module.o"):
        assert name in made.read_text()


def test_the_compiler_of_the_environment_may_have_words(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_by = compiler(workplace, MAKES, name="wrapped")
    monkeypatch.setenv("CXX", f"{made_by} --through")
    assert building.build_hook().read_text().startswith("--through -shared")


def test_the_runtimes_headers_alone_are_not_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(torch_build, "_find_toolkit", list)
    include = tmp_path / "nvidia" / "cu99" / "include"
    (include / "crt").mkdir(parents=True)
    (include / "cuda_runtime_api.h").touch()
    assert find_cuda_include_dirs() == []
    (include / "crt" / "host_defines.h").touch()
    assert find_cuda_include_dirs() == [include]


def test_a_toolkit_is_found_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    include = tmp_path / "toolkit" / "include"
    (include / "crt").mkdir(parents=True)
    for name in ("cuda_runtime_api.h", "crt/host_defines.h"):
        (include / name).touch()
    assert find_cuda_include_dirs() == [include]


@pytest.mark.parametrize("abi", [False, True])
def test_the_abi_is_that_of_c10_itself(
    abi: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyPI's torch 2.6 has the old one, and a libstdc++ inside, whose symbols have both."""
    text = "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
    symbols = [f"_ZNSt11logic_errorC1ERK{text}", f"_ZN3c1011LogAPIUsageERK{text if abi else 'Ss'}"]
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libc10.so").write_text("\0".join(symbols))
    (tmp_path / "version.py").write_text("__version__ = '2.6.0+cu124'\n")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert torch_build.find_torch_build() == TorchBuild("2.6.0", abi, tmp_path)


def test_the_hook_it_builds_is_used(tmp_path: Path) -> None:
    """Compiles the real one, which takes most of a minute."""
    pytest.importorskip("torch", exc_type=ImportError)
    if not find_cuda_include_dirs():
        pytest.skip("no CUDA headers")
    environ = {**plain_environment(), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environ.pop("MEMTRACE_HOOK", None)
    shown = memtrace("build-hook", env=environ)
    assert shown.status == 0, shown.err
    made = Path(shown.out.decode().strip())
    assert tmp_path in made.parents
    program = tmp_path / "program.py"
    program.write_text(
        "import torch\n"
        "x = torch.ones(1000)\n"
        f"print({made.name!r} in open('/proc/self/maps').read())\n"
        f"print({str(made)!r} in open('/proc/self/maps').read())\n"
    )
    trace = tmp_path / "t.memtrace"
    shown = memtrace("run", "-q", "-o", trace, program, env=environ)
    assert (shown.status, shown.out, shown.err) == (0, b"True\nTrue\n", b"")
    assert main_process(trace)["hook_error"] is None
    assert main_process(trace)["events"] > 0


def test_the_command_prints_one_line_on_an_error(tmp_path: Path) -> None:
    environ = {**os.environ, "PATH": "", "CXX": "", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "memtrace", "build-hook"],
        capture_output=True, text=True, env=environ, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("memtrace: build-hook: ")
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []
