"""The pytest plugin, as a project's own pytest would load it."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import simcuda
from program_runs import plain_environment

pytest_plugins = ["pytester"]
PLUGIN = "memtrace.frameworks.pytest_plugin"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for name in set(os.environ) - set(plain_environment()):
        monkeypatch.delenv(name)
    # Where memtrace is installed from is its entry point known.
    if not any(point.value == PLUGIN for point in entry_points(group="pytest11")):
        pytester.makeini(f"[pytest]\naddopts = -p {PLUGIN}\n")
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "no:cacheprovider", *arguments, timeout=200)


LIMITS = """
import pytest, torch

@pytest.fixture
def model():
    return torch.zeros(1 << 22)  # 16 MiB, not the test's own

@pytest.mark.limit_memory("3 MiB")
def test_within(model):
    a = torch.ones(1 << 19)      # 2 MiB
    del a
    torch.ones(1 << 19)

def fill():
    return torch.ones(1 << 20)   # 4 MiB

@pytest.mark.limit_memory("3 MiB", device="cpu")
def test_above():
    small = torch.ones(1 << 10)
    fill()

@pytest.mark.limit_memory("1 MiB", device="cuda")
def test_of_another_device():
    fill()
"""


def test_a_limit_on_what_a_test_holds_at_once(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=LIMITS)
    result = run(project)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "the test held 4.00 MiB of cpu at once; its limit is 3.00 MiB (limit_memory):",
            "*4.00 MiB  test_it.py:14 fill · aten::ones, *",
            "*4.00 KiB  test_it.py:18 test_above · *",
            "trace: *test_above-*.memtrace",
        ]
    )
    # In CI pytest's summary tells the whole message once more.
    (trace,) = {line for line in result.stdout.lines if line.startswith("trace: ")}
    kept = Path(trace.removeprefix("trace: "))
    assert (kept / "allocations").is_dir()
    # Of those that kept within their limits nothing stays.
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


LEAKS = """
import pytest, torch
kept = []

@pytest.mark.limit_leaks("0 B")
def test_keeps():
    kept.append(torch.ones(1000))

@pytest.mark.limit_leaks("1 KiB")
def test_keeps_little():
    kept.append(torch.ones(100))
    torch.ones(1 << 20)

@pytest.mark.limit_leaks("0")
def test_a_cycle_is_no_leak():
    cycle = [torch.ones(1000)]
    cycle.append(cycle)
"""


def test_a_limit_on_what_a_test_leaves_behind(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=LEAKS)
    result = run(project)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "3.91 KiB of cpu are still held after the test; its limit is 0 B (limit_leaks):",
            "*3.91 KiB  test_it.py:6 test_keeps · aten::ones, *",
        ]
    )


def test_the_peak_of_every_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it="""
import torch, pytest
def test_large(): torch.ones(1 << 20)
@pytest.mark.parametrize("n", [10, 20])
def test_small(n): torch.ones(n * 1024)
def test_none(): pass
"""
    )
    result = run(project, "--memtrace", "--memtrace-dir", "kept")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            "*memtrace: peak of tensor memory by test*",
            "     cpu    4.00 MiB  test_it.py::test_large",
            "     cpu   80.00 KiB  test_it.py::test_small[[]20[]]",
            "     cpu   40.00 KiB  test_it.py::test_small[[]10[]]",
        ]
    )
    assert len(list((project.path / "kept").glob("*.memtrace"))) == 4


def test_every_test_has_a_trace_of_its_own(project: pytest.Pytester) -> None:
    names = ["a/b", "a_b", "x" * 300, "y" + "x" * 300]
    project.makepyfile(
        "import pytest, torch\n"
        f"@pytest.mark.parametrize('name', {names})\n"
        "def test_it(name): torch.ones(1)\n"
    )
    run(project, "--memtrace", "--memtrace-dir", "kept").assert_outcomes(passed=4)
    assert len(list((project.path / "kept").glob("*.memtrace"))) == 4


def test_a_test_that_fails_by_itself_fails_as_it_would(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it="""
import pytest, torch
@pytest.mark.limit_memory("1 B")
def test_it():
    torch.ones(10)
    assert 1 == 2
@pytest.mark.limit_memory("1 B")
def test_skips(): pytest.skip("not today")
@pytest.mark.limit_memory("1 B")
@pytest.mark.xfail(strict=True)
def test_expected(): torch.ones(10)
"""
    )
    result = run(project)
    result.assert_outcomes(failed=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(["E       assert 1 == 2"])
    assert "limit is" not in result.stdout.str()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("'much'", "limit_memory much: write a size"),
        ("", "limit_memory: write limit_memory('2 GiB')"),
        ("'1 B', devices='cpu'", "limit_memory: write limit_memory('2 GiB')"),
    ],
)
def test_a_marker_that_is_wrong(project: pytest.Pytester, arguments: str, said: str) -> None:
    project.makepyfile(
        test_it=f"import pytest\n@pytest.mark.limit_memory({arguments})\ndef test_it(): pass\n"
    )
    result = run(project)
    result.assert_outcomes(failed=1)
    assert said in result.stdout.str()


def test_a_test_that_records_by_itself(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it="""
import memtrace, pytest, torch
@pytest.mark.limit_memory("1 MiB")
def test_it(tmp_path):
    with memtrace.record(tmp_path / "t.memtrace"): torch.ones(1)
"""
    )
    result = run(project)
    result.assert_outcomes(failed=1)
    assert "recordings do not nest" in result.stdout.str()


def test_without_its_options_nothing_of_memtrace_is_recorded(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it="""
import sys
def test_it():
    assert "pyarrow" not in sys.modules
    assert not any(name.startswith("memtrace._hook") for name in sys.modules)
"""
    )
    run(project).assert_outcomes(passed=1)


@pytest.mark.cuda_sim
def test_a_limit_on_a_gpu(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in simcuda.environment(simcuda.Machine()).items():
        monkeypatch.setenv(name, value)
    project.makepyfile(
        test_it="""
import pytest, torch
before = torch.empty(1 << 24, device="cuda")

@pytest.mark.limit_memory("3 MiB", device="cuda")
def test_above():
    torch.ones(1 << 20, device="cuda")

@pytest.mark.limit_memory("4 MiB", device="cuda:0")
@pytest.mark.limit_leaks("0 B", device="cuda")
def test_within():
    global before
    before = None
    torch.ones(1 << 20, device="cuda")
"""
    )
    result = run(project)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["the test held 4.00 MiB of cuda:0 at once; its limit is 3.00 MiB (limit_memory):"]
    )


def test_pytest_under_run_where_warnings_are_errors(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(): assert True")
    words = ("-m", "pytest", "-p", "no:cacheprovider", "-W", "error")
    result = project.run(sys.executable, "-m", "memtrace", "run", "--quiet", *words, timeout=200)
    assert result.ret == 0
    result.assert_outcomes(passed=1)
