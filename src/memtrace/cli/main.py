"""The entry: finds the command, and turns every user's error into one line and status 1."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from memtrace import __version__
from memtrace.cli.registry import COMMANDS
from memtrace.errors import MemtraceError, readable

_INTERRUPTED = 130


class LazyGroup(click.Group):
    """Imports a command only when it is called: help and completion need none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [spec.name for spec in COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        for spec in COMMANDS:
            if spec.name == cmd_name:
                command = getattr(importlib.import_module(spec.module), spec.attribute)
                assert isinstance(command, click.Command)
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(spec.name, spec.summary) for spec in COMMANDS])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="python -m memtrace run SCRIPT, then: memtrace peak SCRIPT.memtrace",
)
@click.version_option(__version__, message="memtrace %(version)s")
def group() -> None:
    """What is in a PyTorch program's memory, why, and what would make it smaller."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # Names of the program's may hold letters that the terminal has not, or none has.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        # Not group.main(): that ends the process by itself when a pipe breaks.
        with group.make_context("memtrace", arguments) as context:
            status = group.invoke(context)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        return _refuse(error.format_message())
    except MemtraceError as error:
        return _refuse(str(error))
    except UnicodeError as error:
        return _refuse(f"text that is not UTF-8: {error}")
    except (KeyboardInterrupt, click.Abort):
        click.echo("memtrace: interrupted", err=True)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has seen enough.
        _discard_output()
        return 0
    except OSError as error:
        _discard_output()
        what = error.filename or "cannot write the output"
        return _refuse(f"{what}: {(error.strerror or str(error)).lower()}")


def _open_closed_streams() -> None:
    """Python has no stream where a shell closed it (`>&-`): nobody hears what is said there."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # for as long as we live
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115


def _discard_output() -> None:
    """Nothing that is still buffered may be written, and fail again, when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(message: str) -> int:
    click.echo(f"memtrace: {readable(' '.join(message.split()))}", err=True)
    return 1
