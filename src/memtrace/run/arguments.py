"""The command line of `memtrace run`, up to the program; the rest is the program's, untouched."""

from __future__ import annotations

import os

from memtrace.errors import MemtraceError
from memtrace.run.environment import Options

USAGE = """\
usage: memtrace run [OPTIONS] (SCRIPT | -m MODULE | -c CODE) [ARGS...]

Run a Python program and record its memory; print the answer when it ends.

options:
  -o, --output DIR      write the trace to DIR (default: NAME.memtrace, with the next free number)
  --force               replace DIR when it is a trace already
  --quiet               print no summary at the end
  --no-operators        do not record operators (cheaper)
  --no-cpu              do not record memory of CPU tensors
  --paused              begin paused: record from memtrace.resume() on
  --stack-min-bytes N   take the Python stack only of allocations of N bytes or more
  --max-disk SIZE       keep the trace within SIZE (2GiB) of disk: the newest and the largest
                        allocations stay, and all totals are exact
  --withhold-argv       leave the program's arguments out of the trace
  -h, --help            show this text

MODULE, CODE, SCRIPT and ARGS mean what they mean to python; SCRIPT may be a folder or a zip file
with a __main__.py, or - for the standard input."""


_LEAST_DISK_BYTES = 64 << 20


class RunArguments:
    """What `memtrace run` was asked to do."""

    __slots__ = ("force", "kind", "options", "output", "program", "what")

    def __init__(self) -> None:
        self.output: str | None = None
        self.force = False
        self.options = Options()
        self.program: list[str] = []  # as it was typed: ["-m", "pkg", "arg"], ["--", "-x.py"]
        self.kind = ""  # "-m", "-c", "-" or "script"
        self.what = ""  # the module, the code, the path

    @property
    def name(self) -> str:
        """What the trace is called after."""
        if self.kind == "-m":
            return self.what.replace(os.sep, "_") or "module"
        if self.kind != "script":
            return {"-c": "command", "-": "stdin"}[self.kind]
        last = self.what.rstrip("/").rpartition("/")[2]
        stem = last[: last.rindex(".")] if last.rfind(".") > 0 else last
        return stem if stem.strip(".") else "program"


def parse(words: list[str]) -> RunArguments | None:
    """None: help was asked for.

    Raises:
        MemtraceError: an unknown option, a missing value, no program.
    """
    parsed = RunArguments()
    at = 0

    def take_value(option: str, attached: str | None) -> str:
        nonlocal at
        if attached is not None:
            return attached
        if at >= len(words):
            raise MemtraceError(f"run: {option} needs a value (memtrace run --help)")
        at += 1
        return words[at - 1]

    while at < len(words):
        word = words[at]
        if word == "-" or not word.startswith("-"):
            break
        at += 1
        if word == "--":
            parsed.program = ["--"]
            break
        if word[:2] in ("-m", "-c"):
            parsed.program, parsed.kind = words[at - 1 :], word[:2]
            parsed.what = take_value(word[:2], word[2:] or None)
            return parsed
        option, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        attached = value if equals else None
        if option[:2] == "-o" and not option.startswith("--"):
            option, attached = "-o", option[2:] or None
        if option in ("-h", "--help"):
            return None
        if option in ("-o", "--output"):
            parsed.output = take_value(option, attached)
        elif option == "--max-disk":
            parsed.options.max_disk_bytes = _size(option, take_value(option, attached))
        elif option == "--stack-min-bytes":
            parsed.options.stack_min_bytes = _whole_number(option, take_value(option, attached))
        elif attached is not None or option not in _FLAGS:
            raise MemtraceError(f"run: no such option: {word} (memtrace run --help)")
        else:
            _FLAGS[option](parsed)
    if words[at:]:
        parsed.what = words[at]
        parsed.program += words[at:]
        parsed.kind = "-" if parsed.what == "-" else "script"
    else:
        raise MemtraceError(
            "run: what to run? memtrace run SCRIPT, -m MODULE or -c CODE (memtrace run --help)"
        )
    return parsed


def _whole_number(option: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()) or int(value) >= 2**63:
        raise MemtraceError(f"run: {option} takes a number of bytes, not {value!r}")
    return int(value)


def _size(option: str, value: str) -> int:
    from memtrace.quantities import parse_size

    size = parse_size(value, f"run: {option}")
    if size < _LEAST_DISK_BYTES:
        raise MemtraceError(f"run: {option} {value}: a trace needs at least 64MiB")
    return size


def _set_force(parsed: RunArguments) -> None:
    parsed.force = True


def _set_quiet(parsed: RunArguments) -> None:
    parsed.options.quiet = True


def _set_no_operators(parsed: RunArguments) -> None:
    parsed.options.operators = False


def _set_no_cpu(parsed: RunArguments) -> None:
    parsed.options.cpu = False


def _set_paused(parsed: RunArguments) -> None:
    parsed.options.paused = True


def _set_withhold_argv(parsed: RunArguments) -> None:
    parsed.options.argv = False


_FLAGS = {
    "--force": _set_force,
    "--quiet": _set_quiet,
    "-q": _set_quiet,
    "--no-operators": _set_no_operators,
    "--no-cpu": _set_no_cpu,
    "--paused": _set_paused,
    "--withhold-argv": _set_withhold_argv,
}
