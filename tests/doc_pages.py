"""Pages of docs/ as programs: what they tell a reader to write and type, and what they show.

    ```python train.py      the block is written to train.py
    ```diff train.py        the block changes train.py: what it takes away must be there once
    ```console              `$ command`, then what it prints

Between two shown lines `...` stands for any lines. A command ends with status 0, unless the next
one is `echo $?`, which shows it. `<!-- runs on: NVIDIA L4, 24 GiB -->`: it needs a GPU.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
#: Sizes that the allocator counts are the same everywhere but for what a version of torch changes.
SIZE_TOLERANCE = 0.1
_FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_GPU = re.compile(r"<!-- runs on: (.+), (\d+) GiB -->")
_UNITS = {"B": 1, "byte": 1, "bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_WORD = re.compile(
    rf"(?P<size>[-+]?{_NUMBER}) (?P<unit>B|bytes?|KiB|MiB|GiB)\b"
    rf"|(?P<time>[-+]?{_NUMBER} (?:ns|us|ms|s|min)\b)"
    rf"|(?P<number>[-+]?{_NUMBER})"
    r"|(?P<text>[^\s\d]+)"
)
_RULE = re.compile(r"[-─━]{3,}")


@dataclass(frozen=True)
class Program:
    """A file that the page tells to write."""

    name: str
    text: str


@dataclass(frozen=True)
class Edit:
    """A change of one of its files."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Command:
    """What is typed, and the lines shown below it; `sampled`: sizes are the system's counts."""

    line: str
    shown: tuple[str, ...]
    sampled: bool


@dataclass(frozen=True)
class Page:
    """One page: its steps in order; `gpu`: the name and GiB of the device it needs."""

    path: Path
    steps: tuple[Program | Edit | Command, ...]
    gpu: tuple[str, int] | None = None


def read_page(path: Path) -> Page:
    """The page in this file."""
    text = path.read_text()
    steps: list[Program | Edit | Command] = []
    for language, word, body in _FENCE.findall(text):
        if language == "console":
            steps += _commands(body, sampled=word == "sampled")
        elif language == "diff" and word:
            steps += _edits(word, body)
        elif language == "python" and word:
            steps.append(Program(word, body))
    gpu = _GPU.search(text)
    return Page(path, tuple(steps), (gpu[1], int(gpu[2])) if gpu else None)


def pages() -> list[Page]:
    """All pages that tell a reader to type something."""
    found = [read_page(path) for path in sorted(DOCS.rglob("*.md"))]
    return [page for page in found if any(isinstance(step, Command) for step in page.steps)]


def _commands(body: str, *, sampled: bool) -> list[Command]:
    parts = re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]
    lines = (part.splitlines() for part in parts)
    return [Command(first, tuple(shown), sampled) for first, *shown in lines]


def _edits(name: str, body: str) -> list[Edit]:
    edits = []
    for hunk in re.split(r"^@@.*\n", body, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] != "+")
        after = "".join(line[1:] for line in lines if line[0] != "-")
        edits.append(Edit(name, before, after))
    return [edit for edit in edits if edit.before]


@dataclass
class Reader:
    """Somebody who does what a page says, in `folder`, and compares what is shown."""

    folder: Path
    environment: dict[str, str]
    status: int = 0
    differences: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> list[str]:
        """Do all of it; what came out otherwise than the page says."""
        for step, after in zip(page.steps, [*page.steps[1:], None], strict=True):
            if isinstance(step, Program):
                (self.folder / step.name).write_text(step.text)
            elif isinstance(step, Edit):
                self._edit(step)
            else:
                asked = isinstance(after, Command) and after.line == "echo $?"
                self._type(step, status_shown=asked, gpu=page.gpu)
        return self.differences

    def _edit(self, edit: Edit) -> None:
        file = self.folder / edit.name
        text = file.read_text()
        if text.count(edit.before) != 1:
            self.differences.append(f"{edit.name} has this not once:\n{edit.before}")
        file.write_text(text.replace(edit.before, edit.after))

    def _type(self, command: Command, *, status_shown: bool, gpu: tuple[str, int] | None) -> None:
        done = subprocess.run(
            ["bash", "-c", f"(exit {self.status})\n{command.line}"], cwd=self.folder, text=True,
            env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=240, check=False,
        )  # fmt: skip
        self.status = done.returncode
        printed = done.stdout.replace(str(self.folder), "/home/you")
        printed = re.sub(r"Simulated GPU \d+", gpu[0], printed) if gpu else printed
        if done.returncode and not status_shown:
            self.differences.append(f"$ {command.line}\nstatus {done.returncode}:\n{printed}")
        elif command.shown and not same_lines(
            command.shown, printed.splitlines(), sampled=command.sampled
        ):
            shown = "\n".join(command.shown)
            self.differences.append(f"$ {command.line}\nshown:\n{shown}\nprinted:\n{printed}")


def reader_environment(folder: Path, plain: dict[str, str]) -> dict[str, str]:
    """`plain` with `python` and `memtrace` of this interpreter on PATH, made in `folder`."""
    folder.mkdir()
    for name, words in (("python", ""), ("memtrace", "-m memtrace ")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words}"$@"\n')
        script.chmod(0o755)
    return {**plain, "PATH": f"{folder}{os.pathsep}{plain.get('PATH', '')}", "COLUMNS": "100"}


def same_lines(shown: Sequence[str], printed: Sequence[str], *, sampled: bool = False) -> bool:
    """Whether this was printed: the same words; numbers may differ, sizes (if not sampled) little.

    `...` is any lines, also none; at the end of a line it is any words.
    """
    shown = [line for line in shown if line.strip()]
    printed = [line for line in printed if line.strip()]
    places = {0}  # how many of `printed` can have been told by now
    for line in shown:
        if line.strip() == "...":
            places = set(range(min(places, default=len(printed) + 1), len(printed) + 1))
        else:
            places = {
                place + 1
                for place in places
                if place < len(printed) and _same_line(line, printed[place], sampled)
            }
    return len(printed) in places


def _same_line(shown: str, printed: str, sampled: bool) -> bool:
    open_end = shown.endswith(" ...")
    ours, theirs = _words(shown.removesuffix(" ...")), _words(printed)
    if open_end:
        theirs = theirs[: len(ours)]
    return len(ours) == len(theirs) and all(
        _same_word(a, b, sampled) for a, b in zip(ours, theirs, strict=True)
    )


def _words(line: str) -> list[str | float]:
    words: list[str | float] = []
    for match in _WORD.finditer(_RULE.sub("---", line)):
        if match["size"]:
            words.append(float(match["size"].replace(",", "")) * _UNITS[match["unit"]])
        else:
            words.append(
                "time" if match["time"] else "number" if match["number"] else match["text"]
            )
    return words


def _same_word(shown: str | float, printed: str | float, sampled: bool) -> bool:
    if isinstance(shown, str) or isinstance(printed, str):
        return shown == printed
    if sampled:
        return True
    return abs(shown - printed) <= SIZE_TOLERANCE * max(abs(shown), abs(printed))
