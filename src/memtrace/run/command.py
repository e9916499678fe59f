"""`memtrace run`: make the trace, start the finaliser, become the program."""

from __future__ import annotations

import os
import signal
import sys

from memtrace.errors import MemtraceError
from memtrace.run import arguments, environment, finaliser, interpreter, output


def run_command(words: list[str]) -> int:
    """Never returns when the program was started: this process is the program then.

    Raises:
        MemtraceError: one line that says why the program was not run.
    """
    parsed = arguments.parse(words)
    if parsed is None:
        sys.stdout.write(arguments.USAGE + "\n")
        return 0
    if parsed.kind == "script":
        _check_script(parsed.what)
    argv = interpreter.command(parsed.program)
    letter = interpreter.unusable_option(argv[1 : len(argv) - len(parsed.program)])
    if letter:
        raise MemtraceError(
            f"run: python -{letter} ignores the environment through which a program is recorded: "
            f"leave out -{letter}"
        )
    _check_recorder()
    trace_dir = output.create_trace(parsed.output, parsed.name, force=parsed.force)
    try:
        finaliser.start(trace_dir, quiet=parsed.quiet)
    except MemtraceError:
        output.take_back(trace_dir)
        raise

    environ = dict(os.environ)
    environ.update(
        environment.variables(
            trace_dir,
            parsed.options,
            main_pid=os.getpid(),
            parent=None,
            python_path=environ.get("PYTHONPATH"),
        )
    )
    # Python ignores these for itself; a program starts with what its shell gave.
    for ignored in ("SIGPIPE", "SIGXFSZ", "SIGXFZ"):
        number = getattr(signal, ignored, None)
        if number is not None:
            signal.signal(number, signal.SIG_DFL)
    os.execve(sys.executable, argv, environ)
    return 0  # never: this process is the program now


def _check_script(program: str) -> None:
    if not os.path.exists(program):
        raise MemtraceError(f"run: no such script: {program}")
    if os.path.isdir(program):
        mains = (f"__main__{suffix}" for suffix in (".py", ".pyc"))
        if not any(os.path.exists(os.path.join(program, name)) for name in mains):
            raise MemtraceError(f"run: {program} is a folder without a __main__.py")
    if not os.access(program, os.R_OK):
        raise MemtraceError(f"run: cannot read {program}: permission denied")


def _check_recorder() -> None:
    if not sys.executable:
        raise MemtraceError("run: this interpreter does not know its own path (sys.executable)")
    try:
        import memtrace._core  # noqa: F401
    except ImportError as error:
        raise MemtraceError(
            f"run: memtrace's native module cannot be loaded ({error}): install memtrace again"
        ) from None
