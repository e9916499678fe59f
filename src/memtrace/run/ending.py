"""How a process ends, noted in its spool; and the wait for the finaliser in the main process."""

from __future__ import annotations

import os
import sys

from memtrace import _core, recording
from memtrace.plain_json import to_json
from memtrace.recording import guarded

_SIGINT_STATUS = 130


def at_exit() -> None:
    """The last atexit handler: all threads are joined, all other handlers have run."""
    recorded = recording.current()
    if recorded is None:
        return
    uncaught = getattr(sys, "last_type", None)  # set when Python has printed the traceback
    reason = "exception" if uncaught is not None else "exit"
    if uncaught is KeyboardInterrupt:
        reason = "KeyboardInterrupt"
        # Python now kills itself by SIGINT. Whoever pressed Ctrl-C at a terminal wants the answer
        # before the prompt; a supervisor wants the process gone.
        if recorded.is_main and os.isatty(2):
            guarded(_core.wait_after_interrupt, _SIGINT_STATUS)
    if uncaught is not None:
        guarded(recorded.note, {"exception": getattr(uncaught, "__name__", "?")})
    recorded.end(reason)


def watch_os_exit() -> None:
    """Note an end by os._exit, which runs no handler: every multiprocessing child ends so."""
    os._exit = _core.observed(os._exit, before=_before_os_exit)


def _before_os_exit(args: tuple[object, ...], kwargs: dict[str, object] | None) -> None:
    given = args[0] if args else (kwargs or {}).get("status")
    if not isinstance(given, int):
        return  # os._exit is about to raise TypeError
    recorded = recording.current()
    if recorded is not None:
        recorded.end("os._exit", status=given & 0xFF, quick=True)
    _core.announce_process_end(given)


def seal(
    trace_dir: str,
    key: str,
    facts: dict[str, object],
    *,
    exit_status: int | None = None,
    complete: bool = True,
) -> None:
    """Add to the spool of a process that writes no more how it ended."""
    _core.seal_spool(
        os.fsencode(os.path.join(trace_dir, "spool", f"process={key}")),
        exit_status=exit_status,
        complete=complete,
        process_note=to_json(facts),
    )
