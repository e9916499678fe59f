"""Arguments and options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from memtrace.errors import MemtraceError
from memtrace.trace import Trace, open_trace

Command = TypeVar("Command", bound=Callable[..., Any])

_TIME = re.compile(r"\s*(\d{1,19}(?:\.\d*)?|\.\d+)\s*(s|ms|us|ns|)\s*", re.ASCII)
_LATEST_NS = 2**63 - 1
_NS_PER_UNIT = {"": 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


class TimeType(click.ParamType[int]):
    """A time since the recording began, in ns: 1.5s, 1500ms, 123456ns or plain seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Exact: the digits are never a float."""
        if isinstance(value, int):
            return value
        match = _TIME.fullmatch(str(value))
        time_ns = -1 if match is None else _in_ns(*match.groups())
        if not 0 <= time_ns <= _LATEST_NS:
            self.fail(
                f"{value!r} is not a time: write 1.5s, 1500ms, 20us, 123456ns or seconds",
                param,
                ctx,
            )
        return time_ns


def _in_ns(number: str, unit: str) -> int:
    whole, _, fraction = number.partition(".")
    scale = _NS_PER_UNIT[unit]
    digits = (fraction + "0" * 9)[:9]
    return int(whole or 0) * scale + int(digits) * scale // 10**9


def trace_argument(command: Command) -> Command:
    """TRACE, by default the newest in the working directory."""
    return click.argument("trace_path", metavar="[TRACE]", required=False)(command)


def device_option(command: Command) -> Command:
    """--device."""
    return click.option("--device", metavar="NAME", help="Such as cuda:0 or cpu.")(command)


def process_option(
    told: str = "A pid or key; by default the one with the largest peak.",
) -> Callable[[Command], Command]:
    """--process; `told`: its help."""
    return click.option("--process", metavar="PID", help=told)


def top_option(command: Command) -> Command:
    """--top."""
    return click.option(
        "--top", type=click.IntRange(min=1), default=20, show_default=True, help="Groups to name."
    )(command)


def json_option(command: Command) -> Command:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, sizes in bytes.")(
        command
    )


def grouping_options(by: str) -> Callable[[Command], Command]:
    """--by (one of GROUPINGS; its default is `by`), --top, --device, --process and --json."""
    from memtrace.analyse.breakdown import GROUPINGS

    by_option = click.option(
        "--by",
        type=click.Choice(list(GROUPINGS)),
        default=by,
        show_default=True,
        metavar="COLUMN",
        help="What to group by: operator, module, source, stack, label, category, ...",
    )

    def add(command: Command) -> Command:
        return by_option(top_option(device_option(process_option()(json_option(command)))))

    return add


def of_option(command: Command) -> Command:
    """--of, one of MEASURES."""
    from memtrace.analyse.counters import MEASURES

    return click.option(
        "--of",
        type=click.Choice(MEASURES),
        default="allocated",
        show_default=True,
        help="Which bytes.",
    )(command)


def open_argument(trace_path: str | None) -> Trace:
    """Opens TRACE, or the newest trace of the working directory, saying which."""
    if trace_path is not None:
        return open_trace(trace_path)
    candidates = [path for path in Path().glob("*.memtrace") if path.is_dir()]
    if not candidates:
        raise MemtraceError(
            "no trace given, and no *.memtrace in this directory: "
            "record one with python -m memtrace run SCRIPT"
        )
    newest = max(candidates, key=lambda path: path.stat().st_mtime_ns)
    click.echo(f"memtrace: {newest}", err=True)
    return open_trace(newest)


def window(text: str) -> tuple[int, int]:
    """Two times with a comma between them, in ns: what --window takes."""
    first, comma, last = text.partition(",")
    if not comma:
        raise MemtraceError(f"--window {text}: write two times, such as 1.5s,2s")
    start, end = (TimeType()(part) for part in (first, last))
    if start > end:
        raise MemtraceError(f"--window {text}: it ends before it begins")
    return start, end
