"""The options that ask what if, the same for every command that replays requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from memtrace.whatif.registry import WHAT_IFS

Command = TypeVar("Command", bound=Callable[..., Any])


def what_if_options(command: Command) -> Command:
    """--NAME of each what-if; what they are given is asked for with `asked`."""
    for what_if in reversed(WHAT_IFS):
        command = click.option(
            f"--{what_if.name}",
            metavar=what_if.metavar,
            multiple=True,
            help=what_if.summary,
        )(command)
    return command


def asked(values: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """What-if's name -> what its option was given; `values`: a command's keyword arguments."""
    found = {what_if.name: values[what_if.name.replace("-", "_")] for what_if in WHAT_IFS}
    return {name: given for name, given in found.items() if given}
