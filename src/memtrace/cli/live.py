"""memtrace live"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from memtrace.cli.options import device_option, json_option, process_option
from memtrace.errors import MemtraceError

# The curve of --once.
_POINTS = 60
# A recording that runs on is caught up with, as far as that goes.
_PATIENCE_S = 60.0
# Below the program, where both want the same core.
_NICE = 5


@click.command("live")
@click.argument("trace_path", metavar="[TRACE]", required=False)
@device_option
@process_option("A pid or key; by default the program itself.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.1, max=3600),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
@click.option("--once", is_flag=True, help="Print what there is now, and leave.")
@click.option(
    "--top", type=click.IntRange(min=1), default=10, show_default=True, help="Of --once: groups."
)
@json_option
def command(
    trace_path: str | None,
    device: str | None,
    process: str | None,
    interval_s: float,
    once: bool,
    top: int,
    as_json: bool,
) -> None:
    """Watch a recording while it runs, from another terminal; by default the one that runs.

    Nothing of it is touched: it is read as it is written. Categories are those that identity proves
    already; the rest is proven by lifetimes, when the recording has ended.
    """
    from memtrace.live.recordings import check_recording, choose_recording

    if as_json and not once:
        raise MemtraceError("--json needs --once")
    # Textual draws on standard error.
    if not once and not (sys.stdout.isatty() and sys.stderr.isatty()):
        raise MemtraceError("this is no terminal to draw in: add --once, or --once --json")
    if trace_path is None:
        trace = choose_recording()
        click.echo(f"memtrace: {trace}", err=True)
    else:
        trace = Path(trace_path)
    check_recording(trace)
    if once:
        _print_once(trace, device=device, process=process, top=top, as_json=as_json)
    else:
        _show(trace, device=device, process=process, interval_s=interval_s)


def _show(trace: Path, *, device: str | None, process: str | None, interval_s: float) -> None:
    try:
        import textual  # noqa: F401
    except ImportError as error:
        raise MemtraceError("live needs Textual: pip install 'memtrace[live]'") from error
    from memtrace.live.app import LiveApp

    os.nice(_NICE)
    LiveApp(trace, interval_s=interval_s, device=device, process=process).run()


def _print_once(
    trace: Path, *, device: str | None, process: str | None, top: int, as_json: bool
) -> None:
    from memtrace.live.follow import TraceFollower, chosen
    from memtrace.progress import progress
    from memtrace.report.page import write_json, write_page

    with progress("reading what was recorded"):
        view = TraceFollower(trace).refresh(points=_POINTS, most_s=_PATIENCE_S)
    view = chosen(view, process=process, device=device)
    if as_json:
        from memtrace.report.live_json import live_document

        write_json(live_document(view, device=device), sys.stdout)
    else:
        from memtrace.report.live import live_page

        write_page(live_page(view, device=device, top=top), sys.stdout)
