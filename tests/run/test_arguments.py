"""The command line of `memtrace run`, and python's own that it passes on."""

from __future__ import annotations

import pytest

from memtrace.errors import MemtraceError
from memtrace.run.arguments import parse
from memtrace.run.interpreter import split, unusable_option


def test_everything_after_the_program_is_the_programs() -> None:
    parsed = parse(["-o", "x", "--quiet", "serve.py", "-o", "y", "--force", "--help"])
    assert parsed is not None
    assert parsed.program == ["serve.py", "-o", "y", "--force", "--help"]
    assert (parsed.output, parsed.options.quiet, parsed.force) == ("x", True, False)


@pytest.mark.parametrize(("words", "program", "name"), [
    (["-m", "pkg.mod", "-x"], ["-m", "pkg.mod", "-x"], "pkg.mod"),
    (["-mpkg", "-m"], ["-mpkg", "-m"], "pkg"),
    (["-c", "print()", "-c"], ["-c", "print()", "-c"], "command"),
    (["-", "a"], ["-", "a"], "stdin"),
    (["--", "a.py"], ["--", "a.py"], "a"),
    (["--", "-a.py", "--"], ["--", "-a.py", "--"], "-a"),
    (["-o", "--", "a.py"], ["a.py"], "a"),
    (["dir/serve.v2.py"], ["dir/serve.v2.py"], "serve.v2"),
    (["dir/app/"], ["dir/app/"], "app"),
    (["."], ["."], "program"),
    ([".hidden"], [".hidden"], ".hidden"),
])  # fmt: skip
def test_program_and_name(words: list[str], program: list[str], name: str) -> None:
    parsed = parse(words)
    assert parsed is not None
    assert (parsed.program, parsed.name) == (program, name)


def test_options() -> None:
    words = (
        "--no-operators --no-cpu --withhold-argv --paused --stack-min-bytes=4096 --force -odir a.py"
    )
    parsed = parse(words.split())
    assert parsed is not None
    assert parsed.output == "dir"
    assert parsed.options.to_text() == (
        "argv=0,cpu=0,max_disk_bytes=0,operators=0,paused=1,quiet=0,stack_min_bytes=4096,stacks=1"
    )


def test_the_disk_that_a_trace_may_take() -> None:
    parsed = parse(["--max-disk", "2GiB", "a.py"])
    assert parsed is not None
    assert parsed.options.max_disk_bytes == 2 << 30


@pytest.mark.parametrize("words", [
    [], ["-o"], ["--nope", "a.py"], ["-m"], ["-c"], ["--force=1", "a"], ["-q"], ["--"],
    ["--max-disk", "much", "a"], ["--max-disk", "1MiB", "a"], ["--max-disk"],
    ["--stack-min-bytes", "much", "a"], ["--stack-min-bytes", "99999999999999999999", "a"],
])  # fmt: skip
def test_refusals_are_one_line(words: list[str]) -> None:
    with pytest.raises(MemtraceError) as refusal:
        parse(words)
    assert "\n" not in str(refusal.value)


def test_help_is_asked_for_only_before_the_program() -> None:
    assert parse(["--quiet", "-h"]) is None
    assert parse(["a.py", "-h"]) is not None


@pytest.mark.parametrize(("words", "options", "program"), [
    ("python a.py -u", [], ["a.py", "-u"]),
    ("python -u -W error a.py", ["-u", "-W", "error"], ["a.py"]),
    ("python -Werror -Xdev -m pkg a", ["-Werror", "-Xdev"], ["-m", "pkg", "a"]),
    ("python -um pkg", ["-u"], ["-m", "pkg"]),
    ("python -uX dev -c code b", ["-uX", "dev"], ["-c", "code", "b"]),
    ("python -mpkg -x", [], ["-m", "pkg", "-x"]),
    ("python --check-hash-based-pycs never a.py", ["--check-hash-based-pycs", "never"], ["a.py"]),
    ("python -", [], ["-"]),
    ("python", [], []),
])  # fmt: skip
def test_pythons_own_options(words: str, options: list[str], program: list[str]) -> None:
    assert split(words.split()) == (options, program)


@pytest.mark.parametrize(("options", "letter"), [
    (["-u"], None), (["-I"], "I"), (["-uE"], "E"), (["-S"], "S"), (["-WIgnore"], None), ([], None),
])  # fmt: skip
def test_options_that_keep_a_program_from_being_recorded(
    options: list[str], letter: str | None
) -> None:
    assert unusable_option(options) == letter
