"""How an interpreter was started: its own options, and the program after them."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_TAKES_VALUE = "WX"  # of python's one-letter options; -c and -m end them
_UNUSABLE = "EIS"  # no environment, isolated, no site: sitecustomize would not run
_TELLS = "Vh?"


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """`python -u -W error -m pkg arg` -> ["-u", "-W", "error"], ["-m", "pkg", "arg"]."""
    options: list[str] = []
    at = 1
    while at < len(argv):
        word = argv[at]
        if not word.startswith("-") or word == "-":
            break
        at += 1
        if word == "--":
            break
        if word.startswith("--"):
            options.append(word)
            if word == "--check-hash-based-pycs":
                options += argv[at : at + 1]
                at += 1
            continue
        for place, letter in enumerate(word[1:], start=1):
            if letter in "mc":
                kept = word[:place]
                value = [word[place + 1 :]] if word[place + 1 :] else argv[at : at + 1]
                rest = argv[at:] if word[place + 1 :] else argv[at + 1 :]
                return options + ([kept] if kept != "-" else []), [f"-{letter}", *value, *rest]
            if letter in _TAKES_VALUE:
                options.append(word)
                if place == len(word) - 1:
                    options += argv[at : at + 1]
                    at += 1
                break
        else:
            options.append(word)
    return options, argv[at:]


def program_words(argv: list[str]) -> list[str]:
    """What was typed after python and its options."""
    return split(argv)[1]


def is_memtrace(program: list[str]) -> bool:
    """Whether these words run memtrace itself, which no recording looks at."""
    if program[:1] == ["-m"]:
        return "".join(program[1:2]).partition(".")[0] == "memtrace"
    return bool(program) and os.path.basename(program[0]) == "memtrace"


def unusable_option(options: list[str]) -> str | None:
    """The letter of an option that keeps sitecustomize from running; None: there is none."""
    return next((letter for letter in _letters(options) if letter in _UNUSABLE), None)


def runs_nothing(options: list[str]) -> bool:
    """Whether python only tells its version or its options, and ends."""
    told = any(word == "--version" or word.startswith("--help") for word in options)
    return told or any(letter in _TELLS for letter in _letters(options))


def _letters(options: list[str]) -> Iterator[str]:
    for word in options:
        if word.startswith("-") and not word.startswith("--"):
            for letter in word[1:]:
                yield letter
                if letter in _TAKES_VALUE:
                    break


def command(program: list[str]) -> list[str]:
    """The argument vector that runs `program` in an interpreter started like this one."""
    return [sys.executable, *split(sys.orig_argv)[0], *program]
