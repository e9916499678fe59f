"""How a recorded Python process begins: called by site/sitecustomize.py, before any user code."""

from __future__ import annotations

import atexit
import os
import sys

from memtrace import recording
from memtrace.recording import Recording, guarded, say
from memtrace.run import children, ending, environment, finaliser, unrecorded
from memtrace.run.interpreter import is_memtrace, program_words
from memtrace.run.output import forget_replaced, pid_of_key


def start_from_environment() -> None:
    """Join the recording that the environment names, unless this process is only a tool."""
    inherited = environment.read()
    if inherited is None or _is_tool(program_words(sys.orig_argv)):
        return
    if inherited.main_pid == os.getpid():
        guarded(forget_replaced, inherited.trace_dir)
    try:
        started = _start(inherited)
    except (OSError, RuntimeError) as error:
        unrecorded.leave_mark(inherited.trace_dir, os.getpid(), str(error))
        if inherited.main_pid == os.getpid():
            say(f"not recording: {error}")
            finaliser.watch_end(inherited.trace_dir, quiet=inherited.options.quiet)
        return
    if started.is_main:
        finaliser.watch_end(inherited.trace_dir, quiet=inherited.options.quiet)
    guarded(children.watch)
    guarded(started.watch_torch)


def _start(inherited: environment.Inherited) -> Recording:
    parent = inherited.parent
    # exec: this very process was recorded before it became this program.
    predecessor = parent if parent and pid_of_key(parent) == os.getpid() else None
    if predecessor:
        guarded(ending.seal, inherited.trace_dir, predecessor, {"end_reason": "exec"})
        start_method = "exec"
    elif inherited.main_pid == os.getpid():
        start_method = "main"
    else:
        start_method = _start_method_of_child()
    with recording.lock():
        started = Recording(
            inherited.trace_dir,
            inherited.options,
            start_method=start_method,
            parent=parent,
            main_pid=inherited.main_pid,
        )
        recording.set_current(started)
    guarded(started.recorder.note_exit_status)
    started.export_environment()
    # Registered before anyone else's, so it runs after all of them.
    atexit.register(ending.at_exit)
    ending.watch_os_exit()
    return started


def _start_method_of_child() -> str:
    words = " ".join(program_words(sys.orig_argv)[:2])
    if "multiprocessing.spawn" in words or "multiprocessing.forkserver" in words:
        return "spawn"
    return "subprocess"


def _is_tool(words: list[str]) -> bool:
    # The resource tracker of multiprocessing is no part of the program, nor is memtrace itself.
    if words[:1] == ["-c"]:
        return "multiprocessing.resource_tracker" in "".join(words[1:2])
    return is_memtrace(words)
