"""A torch that no compiled hook fits: one line says so, the program runs as ever.

The torch is made up: a package with a version, so these tests need none.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from memtrace import __version__, _core
from memtrace.hook.torch_build import hook_file_name
from program_runs import Shown, main_process, memtrace, plain_environment

TORCH = """
__version__ = "9.9.9+cpu"
class _C:
    _GLIBCXX_USE_CXX11_ABI = True
class version:
    cuda = None
"""
PROGRAM = "import sys, torch; print('ran', torch.__version__); sys.exit(3)\n"
TO_BUILD = "python -m memtrace build-hook"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The folder for compiled hooks; beside it, the made-up torch and a program."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(TORCH)
    (tmp_path / "program.py").write_text(PROGRAM)
    folder = tmp_path / "cache" / "memtrace" / f"hooks-{__version__}"
    folder.mkdir(parents=True)
    return folder


def run(cache: Path, *words: str, hook: Path | None = None) -> Shown:
    folder = cache.parents[2]
    environ = {**plain_environment(), "XDG_CACHE_HOME": str(folder / "cache")}
    environ.pop("MEMTRACE_HOOK", None)
    if hook is not None:
        environ["MEMTRACE_HOOK"] = str(hook)
    return memtrace(*words, cwd=folder, env=environ)


def refused(cache: Path, hook: Path | None = None) -> str:
    """The line that says why; the program is unharmed, and the summary says it again."""
    shown = run(cache, "run", "-o", "t.memtrace", "program.py", hook=hook)
    assert (shown.status, shown.out) == (3, b"ran 9.9.9+cpu\n")
    line, at_end = shown.err.decode().splitlines()
    assert line.startswith("memtrace: ")
    reason = line.removeprefix("memtrace: ")
    assert at_end == f"memtrace: t.memtrace: the trace has no events: {reason}"
    row = main_process(cache.parents[2] / "t.memtrace")
    assert (row["hook_error"], row["torch_version"]) == (reason, "9.9.9+cpu")
    assert row["exit_status"] == 3
    summary = run(cache, "summary", "t.memtrace")
    assert summary.status == 0
    assert summary.out.decode().count(reason) == 1
    peak = run(cache, "peak", "t.memtrace")
    assert (peak.status, peak.err.decode()) == (1, at_end.replace(" t.memtrace:", "", 1) + "\n")
    return reason


def test_another_version_names_both_and_the_command(cache: Path) -> None:
    (cache / hook_file_name("9.9.8", cxx11_abi=True)).touch()
    line = refused(cache)
    assert line.startswith("this is torch 9.9.9 (C++11 ABI 1, cpython-")
    assert "built for torch " in line
    assert ", 9.9.8 (C++11 ABI 1, cpython-" in line
    assert line.endswith(TO_BUILD)


def test_another_abi_names_both_and_the_command(cache: Path) -> None:
    (cache / hook_file_name("9.9.9", cxx11_abi=False)).touch()
    line = refused(cache)
    assert "torch 9.9.9 (C++11 ABI 0, cpython-" in line
    assert line.endswith(TO_BUILD)


def test_a_file_that_is_no_hook(cache: Path) -> None:
    native = Path(_core.__file__).read_bytes()
    hook = cache / hook_file_name("9.9.9", cxx11_abi=True)
    cut_short = (native[: len(native) // 3], native[:-1], native[:100])
    for content in (b"", b"not a library", *cut_short, native):
        hook.write_bytes(content)
        line = refused(cache)
        assert "does not load into torch 9.9.9+cpu" in line
        assert line.endswith(TO_BUILD)
        for trace in cache.parents[2].glob("*.memtrace"):
            trace.rename(trace.with_suffix(f".{len(content)}"))


def test_a_hook_named_by_the_environment_that_is_not_there(cache: Path) -> None:
    line = refused(cache, hook=cache / "absent.so")
    assert "absent.so" in line


def test_a_torch_that_cannot_be_imported(cache: Path) -> None:
    folder = cache.parents[2]
    (folder / "torch" / "__init__.py").write_text("raise ImportError('libcudnn.so.9: missing')")
    shown = run(cache, "run", "-o", "t.memtrace", "program.py")
    assert (shown.status, shown.out) == (1, b"")
    *traceback, at_end = shown.err.decode().splitlines()
    assert traceback[0] == "Traceback (most recent call last):"
    assert traceback[-1] == "ImportError: libcudnn.so.9: missing"
    assert "memtrace/" not in "".join(traceback)
    reason = "importing torch failed: ImportError: libcudnn.so.9: missing"
    assert at_end == f"memtrace: t.memtrace: the trace has no events: {reason}"
    assert main_process(folder / "t.memtrace")["hook_error"] == reason


def test_a_program_that_goes_on_without_torch(cache: Path) -> None:
    folder = cache.parents[2]
    (folder / "torch" / "__init__.py").write_text("raise OSError('libcudart.so:\\nnot found')")
    (folder / "program.py").write_text(
        "try: import torch\nexcept OSError as error: print(repr(error), error.__context__)\n"
    )
    shown = run(cache, "run", "-o", "t.memtrace", "program.py")
    assert (shown.status, shown.out) == (0, b"OSError('libcudart.so:\\nnot found') None\n")
    (at_end,) = shown.err.decode().splitlines()
    assert at_end.endswith("no events: importing torch failed: OSError: libcudart.so:")


def test_no_torch_at_all(tmp_path: Path) -> None:
    code = "import sys\nprint('ran')\nsys.exit(4)"
    trace = tmp_path / "t.memtrace"
    shown = memtrace("run", "-o", trace, "-c", code, cwd=tmp_path)
    assert (shown.status, shown.out) == (4, b"ran\n")
    assert shown.err.decode() == (
        "memtrace: t.memtrace: the trace has no events: the program never imported torch\n"
    )


def test_without_a_standard_error_nothing_is_said_into_the_programs_first_file(
    cache: Path, tmp_path: Path
) -> None:
    code = (
        "import os; fd = os.open('mine', os.O_RDWR | os.O_CREAT); os.write(fd, b'mine'); "
        "import torch; print(fd)"
    )
    (tmp_path / "program.py").write_text(code)
    environ = {**plain_environment(), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = [sys.executable, "-m", "memtrace", "run", "-o", "t.memtrace", "program.py"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *words],
        stdout=subprocess.PIPE, cwd=tmp_path, env=environ, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"2\n")
    assert (tmp_path / "mine").read_bytes() == b"mine"
