"""Children of a recorded process: forks get a spool of their own, the unrecordable are counted.

A child that runs Python joins by itself, through its environment (site/sitecustomize.py). What is
watched here is that it can: a Python started with -I, -E or -S, or with another environment, leaves
a file spool/unrecorded/PID in the trace.
"""

from __future__ import annotations

import _posixsubprocess
import os
import sys
from _collections_abc import Mapping

from memtrace import _core, recording
from memtrace.hook import arrival
from memtrace.recording import Recording, all_of, guarded
from memtrace.run import environment, unrecorded
from memtrace.run.ending import replace_in_os
from memtrace.run.interpreter import runs_nothing, split, unusable_option

_watching = False


def watch() -> None:
    """Each once per process, also where it was cut off; no effect while nothing is recorded."""
    global _watching
    if not _watching:
        _watching = True
        os.register_at_fork(after_in_child=_after_fork)
    # subprocess and multiprocessing start everything through this one; subprocess, if it has been
    # imported, under a name of its own.
    names = getattr(sys.modules.get("subprocess"), "__dict__", {})
    original = _posixsubprocess.fork_exec
    if not isinstance(original, _core.ObservedCall):
        observed = _core.observed(original, after=_after_fork_exec)
        is_named = names.get("_fork_exec") is original
        _posixsubprocess.fork_exec = observed
        if is_named:
            names["_fork_exec"] = observed
    for name in ("posix_spawn", "posix_spawnp"):
        replace_in_os(name, after=_after_posix_spawn)
    # All of os.exec* end in one of these two.
    for name in ("execv", "execve"):
        replace_in_os(name, before=_before_exec, failed=_exec_failed)


def leave_parents() -> Recording | None:
    """In a forked child: what is on goes on in its parent alone; returned is that, if any."""
    parents = recording.parents()
    if parents is not None:
        all_of(
            lambda: recording.set_current(None),
            arrival.forget_all,
            lambda: guarded(parents.abandon_in_child),
        )
    return parents


def _after_fork() -> None:
    parent = leave_parents()
    if parent is None:
        return
    try:
        child = Recording(
            parent.trace_dir,
            parent.options,
            start_method="fork",
            parent=parent.key,
            main_pid=parent.main_pid,
            pauses=parent.pauses.of_fork(),
        )
    except (OSError, RuntimeError) as error:
        unrecorded.leave_mark(parent.trace_dir, os.getpid(), str(error))
        return
    recording.set_current(child)
    guarded(child.recorder.note_exit_status)
    guarded(child.continue_stages, parent)
    guarded(child.export_environment)
    guarded(child.watch_torch)


def _after_fork_exec(pid: int, args: tuple[object, ...], _: object) -> None:
    # fork_exec(argv, executables, close_fds, pass_fds, cwd, environment or None, ...)
    argv, executables, variables = args[0], args[1], args[5]
    environ = None
    if isinstance(variables, (list, tuple)):
        environ = dict(item.partition(b"=")[::2] for item in map(os.fsencode, variables))
    executable = os.fsdecode(next(iter(executables)))  # type: ignore[call-overload]
    _check_child(pid, executable, argv, environ)


def _after_posix_spawn(
    pid: int, args: tuple[object, ...], kwargs: dict[str, object] | None
) -> None:
    names = ("path", "argv", "env")
    path, argv, env = (
        args[i] if i < len(args) else (kwargs or {}).get(name) for i, name in enumerate(names)
    )
    environ = None  # Python 3.13: the parent's
    if isinstance(env, Mapping):
        environ = {os.fsencode(k): os.fsencode(v) for k, v in env.items()}
    _check_child(pid, os.fsdecode(path), argv, environ)  # type: ignore[arg-type]


def _before_exec(args: tuple[object, ...], kwargs: dict[str, object] | None) -> None:
    # The process goes on as another program: a Python that will not record itself counts as well.
    given = dict(zip(("path", "argv", "env"), args, strict=False)) | (kwargs or {})
    path, env = os.fsdecode(given["path"]), given.get("env")  # type: ignore[arg-type]
    if not os.access(path, os.X_OK):
        return  # it is about to raise: execvp tries every folder of PATH
    environ = None
    if isinstance(env, Mapping):
        environ = {os.fsencode(k): os.fsencode(v) for k, v in env.items()}
    _check_child(os.getpid(), path, given["argv"], environ)


def _exec_failed(_: BaseException) -> None:
    recorded = recording.current()
    if recorded is not None:
        unrecorded.forget_mark(recorded.trace_dir, os.getpid())


def _check_child(
    pid: int, executable: str, argv: object, environ: dict[bytes, bytes] | None
) -> None:
    recorded = recording.current()
    if recorded is None or not _is_python(executable):
        return
    words = [os.fsdecode(word) for word in argv]  # type: ignore[attr-defined]
    options, _ = split(words)
    letter = unusable_option(options)
    if runs_nothing(options):
        return
    if letter:
        unrecorded.leave_mark(recorded.trace_dir, pid, f"python -{letter}")
    elif not environment.is_recording(dict(os.environb) if environ is None else environ):
        unrecorded.leave_mark(recorded.trace_dir, pid, "started with another environment")


def _is_python(executable: str) -> bool:
    name = os.path.basename(executable)
    if name == os.path.basename(sys.executable):
        return True
    return name.startswith("python") and not name.removeprefix("python").strip("0123456789.")
