"""A program starts and is recorded whatever surrounds it: folders, modules, limits, locales."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from program_runs import (
    main_process,
    memtrace,
    plain_environment,
    python,
    recorded,
    wait_for_finaliser,
)

# What the finaliser imports, and neither a starting Python nor a program that does nothing.
_SHADOWED = ("argparse", "fcntl", "json", "queue", "select", "signal", "tempfile", "threading")


def shadows(folder: Path) -> Path:
    """A folder with modules of the standard library's names that must not be imported."""
    folder.mkdir()
    for name in _SHADOWED:
        (folder / f"{name}.py").write_text(f"raise RuntimeError('the {name}.py of the user')\n")
    return folder


def test_modules_in_the_working_folder_are_the_programs(tmp_path: Path) -> None:
    folder = shadows(tmp_path / "app")
    (folder / "sub").mkdir()
    (folder / "sub" / "serve.py").write_text("print('served')\n")
    shown = memtrace("run", "-o", "t.memtrace", "sub/serve.py", cwd=folder)
    assert (shown.status, shown.out) == (0, b"served\n")
    assert shown.err.startswith(b"memtrace: t.memtrace: ")
    assert main_process(folder / "t.memtrace")["complete"]
    shown = memtrace("summary", "t.memtrace", cwd=folder)
    assert (shown.status, shown.err) == (0, b"")


def test_modules_of_pythonpath_are_the_programs(tmp_path: Path) -> None:
    trace, folder = tmp_path / "t.memtrace", shadows(tmp_path / "lib")
    (folder / "mine.py").write_text("print('mine')\n")
    env = {**plain_environment(), "PYTHONPATH": str(folder)}
    shown = memtrace("run", "-o", trace, "-c", "import mine", env=env)
    assert (shown.status, shown.out) == (0, b"mine\n")
    assert shown.err.startswith(b"memtrace: ")
    assert len(shown.err.splitlines()) == 1
    assert main_process(trace)["complete"]


def test_recording_a_part_beside_modules_of_the_same_names(tmp_path: Path) -> None:
    folder = shadows(tmp_path / "app")
    for needed_by_subprocess in ("select", "signal", "threading", "fcntl"):
        (folder / f"{needed_by_subprocess}.py").unlink()
    (folder / "program.py").write_text("import memtrace\nwith memtrace.record('t'): pass\n")
    shown = python("program.py", cwd=folder)
    assert (shown.status, shown.err) == (0, b"")
    assert main_process(folder / "t")["complete"]


def test_memtrace_that_only_pythonpath_finds(tmp_path: Path) -> None:
    import memtrace as installed

    package = Path(str(installed.__file__)).parent
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "memtrace").symlink_to(package)
    env = {**plain_environment(), "PYTHONPATH": "lib"}
    code = "import memtrace; print(memtrace.__file__)"
    shown = memtrace("run", "-o", "t.memtrace", "-c", code, cwd=tmp_path, env=env)
    assert (shown.status, shown.out.decode()) == (0, f"{tmp_path}/lib/memtrace/__init__.py\n")
    assert main_process(tmp_path / "t.memtrace")["complete"]


def test_the_finaliser_does_not_run_the_users_sitecustomize(tmp_path: Path) -> None:
    trace, folder = tmp_path / "t.memtrace", tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys; sys.stderr.write('a sitecustomize of the user\\n')"
    )
    env = {**plain_environment(), "PYTHONPATH": str(folder)}
    shown = recorded(trace, "-c", "pass", env=env)
    # In the Python that runs `memtrace run`, and in the program.
    assert shown.err.splitlines() == [b"a sitecustomize of the user"] * 2
    assert main_process(trace)["complete"]


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    trace = tmp_path / "t.memtrace"
    program = [sys.executable, "-m", "memtrace", "run"]
    for words, status, out in (
        (["-c", "print(1)"], 1, b""),
        (["-q", "-o", str(trace), "-c", "print(1)"], 0, b"1\n"),
    ):
        done = subprocess.run(
            ["sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "sh", *program, *words],
            cwd=tmp_path, env=plain_environment(), capture_output=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (status, out)
        assert len(done.stderr.splitlines()) == status
        assert done.stderr.startswith(b"memtrace: cannot create the trace" if status else b"")
    wait_for_finaliser(trace)
    assert main_process(trace)["complete"]


def test_a_working_folder_that_goes_while_a_part_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    code = (
        "import memtrace, os, sys\n"
        "with memtrace.record(sys.argv[1]): os.rmdir('../gone')\n"
        "print('goes on')"
    )
    shown = python("-c", code, tmp_path / "t", cwd=tmp_path / "gone")
    assert (shown.status, shown.out, shown.err) == (0, b"goes on\n", b"")
    assert main_process(tmp_path / "t")["complete"]


def test_more_arguments_than_the_system_takes(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"]}
    program = ["-c", "print('ran')"]
    words = [*program, *["x" * 100_000] * 19]
    room = 2 * 1024 * 1024 - 19 * 100_000
    while True:  # the most that plain python takes
        try:
            last = "y" * (room // 2)
            assert python(*words, last, "z" * (room - room // 2), env=env).out == b"ran\n"
            break
        except OSError:
            room -= 100
    words += [last, "z" * (room - room // 2 - 100)]  # room for "-m memtrace run"
    assert recorded(tmp_path / "first.memtrace", *program).status == 0
    first = sorted((tmp_path / "first.memtrace").rglob("*"))
    for options in (["-o", "t"], ["--force", "-o", "first.memtrace"]):
        shown = memtrace("run", *options, *words, cwd=tmp_path, env=env)
        assert (shown.status, shown.out) == (1, b"")
        assert shown.err == b"memtrace: run: cannot start the program: Argument list too long\n"
        assert os.listdir(tmp_path) == ["first.memtrace"]
        assert sorted((tmp_path / "first.memtrace").rglob("*")) == first


def test_what_force_replaces_is_kept_until_the_program_starts(tmp_path: Path) -> None:
    trace = tmp_path / "t.memtrace"
    assert recorded(trace, "-c", "pass").status == 0
    before = sorted(trace.rglob("*"))
    words = [sys.executable, "-m", "memtrace", "run", "-q", "--force", "-o", str(trace)]
    for limit, status in ((6, 1), (256, 0)):
        done = subprocess.run(
            ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *words, "-c", "pass"],
            env=plain_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert (sorted(trace.rglob("*")) == before) == (status == 1)
        assert "cannot start the finaliser: Too many open" in done.stderr or status == 0
        assert os.listdir(tmp_path) == ["t.memtrace"]


def test_names_that_begin_like_options(tmp_path: Path) -> None:
    (tmp_path / "-dash.py").write_text("import sys; print(sys.argv, sys.orig_argv[1:])")
    words = ["--", "-dash.py", "-a"]
    shown = memtrace("run", "-o", "-x.memtrace", *words, cwd=tmp_path)
    assert (shown.status, shown.out) == (0, python(*words, cwd=tmp_path).out)
    assert shown.err.startswith(b"memtrace: ./-x.memtrace: ")
    assert main_process(tmp_path / "-x.memtrace")["complete"]
    assert json.loads(main_process(tmp_path / "-x.memtrace")["argv"]) == words[1:]


@pytest.mark.parametrize("variables", [
    {"LANG": "C"}, {}, {"LANG": "C", "LC_CTYPE": "C.UTF-8"}, {"LC_ALL": "C"}, {"LC_CTYPE": "C"},
])  # fmt: skip
def test_locale(tmp_path: Path, variables: dict[str, str]) -> None:
    left_out = ("LANG", "LC_ALL", "LC_CTYPE")
    env = {k: v for k, v in plain_environment().items() if k not in left_out} | variables
    code = (
        "import os, sys; print(sys.flags.utf8_mode, sys.getfilesystemencoding(), "
        "sys.stderr.encoding, [os.environ.get(n) for n in ('LANG', 'LC_ALL', 'LC_CTYPE')])"
    )
    assert recorded(tmp_path / "t.memtrace", "-c", code, env=env) == python("-c", code, env=env)


@pytest.mark.parametrize("name", ["PYTHONMALLOCSTATS", "PYTHONVERBOSE"])
def test_what_python_prints_when_it_is_asked_to_is_the_programs(tmp_path: Path, name: str) -> None:
    # The finaliser is a Python as well, and what it prints last is shown.
    (tmp_path / "program.py").write_text(
        f"import os, memtrace\nos.environ['{name}'] = '1'\n"
        "with memtrace.record('t.memtrace'):\n    open('t.memtrace/allocations', 'w').close()\n"
    )
    shown = python("program.py", cwd=tmp_path)
    assert (shown.status, shown.out) == (0, b"")
    (line,) = shown.err.splitlines()
    assert line.startswith(b"memtrace: t")
