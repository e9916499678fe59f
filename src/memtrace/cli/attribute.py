"""memtrace attribute"""

from __future__ import annotations

import click

from memtrace.errors import MemtraceError, readable


@click.command("attribute")
@click.argument("trace_path", metavar="TRACE")
def command(trace_path: str) -> None:
    """Write who holds what again, by the rules of this version: categories, stages, owners."""
    from memtrace.attribute.in_place import attribute_again
    from memtrace.progress import progress
    from memtrace.schema import ATTRIBUTION_VERSION
    from memtrace.trace import open_trace

    trace = open_trace(trace_path)
    if trace.running:
        raise MemtraceError(
            f"{trace.path} is still being recorded ({_processes(len(trace.running))} running): "
            "attribute it when they have ended"
        )
    if len(trace.roots) > 1:
        raise MemtraceError(
            f"{trace.path} is not finished: python -m memtrace recover {trace.path}"
        )
    keys = [process.key for process in trace.process_list]
    with progress("attributing", total=len(keys) if len(keys) > 1 else None) as advance:
        for key in keys:
            attribute_again(trace.path, key)
            advance(1)
    told = f"{_processes(len(keys))} attributed, version {ATTRIBUTION_VERSION}"
    click.echo(f"{readable(trace_path)}: {told}")


def _processes(number: int) -> str:
    return f"{number:,} process{'' if number == 1 else 'es'}"
