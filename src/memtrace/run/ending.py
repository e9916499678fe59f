"""How a process ends, noted in its spool; and the wait for the finaliser in the main process."""

from __future__ import annotations

import os
import sys

from memtrace import _core, recording
from memtrace.plain_json import to_json
from memtrace.recording import all_of, guarded
from memtrace.run import unrecorded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SIGINT_STATUS = 130


def at_exit() -> None:
    """The last atexit handler: all threads are joined, all other handlers have run."""
    recorded = recording.current()
    if recorded is None:
        unrecorded.count_forked()
        return
    uncaught = guarded(_uncaught)
    reason = "exception" if uncaught is not None else "exit"
    if uncaught is KeyboardInterrupt:
        reason = "KeyboardInterrupt"
        # Python now kills itself by SIGINT. Whoever pressed Ctrl-C at a terminal wants the answer
        # before the prompt; a supervisor wants the process gone.
        if recorded.is_main and os.isatty(2):
            guarded(_core.wait_after_interrupt, _SIGINT_STATUS)
    if uncaught is not None:
        guarded(recorded.note, {"exception": getattr(uncaught, "__name__", "?")})
    all_of(lambda: recorded.end(reason))


def _uncaught() -> type[BaseException] | None:
    """The type of the exception that ended the program, if one did."""
    # Set when Python has printed a traceback; also by pytest, a kernel or code.interact(), of what
    # they caught and showed. What ended the program has gone through all frames of the thread.
    traceback = getattr(sys, "last_traceback", None)
    if traceback is not None and traceback.tb_frame.f_back is not None:
        return None
    return getattr(sys, "last_type", None)


def watch_os_exit() -> None:
    """Note an end by os._exit, which runs no handler: every multiprocessing child ends so."""
    replace_in_os("_exit", before=_before_os_exit)


def replace_in_os(
    name: str,
    *,
    before: Callable[..., object] | None = None,
    after: Callable[..., object] | None = None,
    failed: Callable[..., object] | None = None,
) -> None:
    """Observe a function of os, once; also where pickle looks for it, in the module it is from."""
    original = getattr(os, name)
    if isinstance(original, _core.ObservedCall):
        return
    observed = _core.observed(original, before=before, after=after, failed=failed)
    for module in (os, sys.modules.get(original.__module__)):
        if getattr(module, name, None) is original:
            setattr(module, name, observed)


def _before_os_exit(args: tuple[object, ...], kwargs: dict[str, object] | None) -> None:
    given = (*args, *(kwargs or {}).values())
    status = given[0] if len(given) == 1 else None
    if not isinstance(status, int) or not -(1 << 31) <= status < 1 << 31:
        return  # os._exit is about to raise
    recorded = recording.current()
    if recorded is not None:
        recorded.end("os._exit", status=status & 0xFF, quick=True)
    else:
        unrecorded.count_forked()
    _core.announce_process_end(status)


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
        os.path.join(trace_dir, "spool", f"process={key}"),
        exit_status=exit_status,
        complete=complete,
        process_note=to_json(facts),
    )
