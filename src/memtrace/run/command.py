"""`memtrace run`: make the trace, start the finaliser, become the program."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not signal.py: see run/__init__.py
import os
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
    if interpreter.is_memtrace(interpreter.program_words(argv)):
        raise MemtraceError("run: memtrace does not record itself: give it the program alone")
    letter = interpreter.unusable_option(argv[1 : len(argv) - len(parsed.program)])
    if letter:
        raise MemtraceError(
            f"run: python -{letter} ignores the environment through which a program is recorded: "
            f"leave out -{letter}"
        )
    _check_recorder()
    trace_dir = output.create_trace(parsed.output, parsed.name, force=parsed.force)
    finaliser_pid = 0
    try:
        finaliser_pid = finaliser.start(
            trace_dir, quiet=parsed.options.quiet, max_disk_bytes=parsed.options.max_disk_bytes
        )
        _become_program(argv, _program_environment(trace_dir, parsed.options))
    except BaseException as error:  # also Ctrl-C: there is no program yet
        finaliser.stop(finaliser_pid)
        output.take_back(trace_dir)
        if isinstance(error, OSError):  # more arguments than the system takes
            raise MemtraceError(f"run: cannot start the program: {error.strerror}") from None
        raise
    return 0  # never: this process is the program now


def _become_program(argv: list[str], environ: dict[str, str]) -> None:
    # Python ignores these for itself; a program starts with what its shell gave.
    for ignored in ("SIGPIPE", "SIGXFSZ", "SIGXFZ"):
        number = getattr(_signal, ignored, None)
        if number is not None:
            _signal.signal(number, _signal.SIG_DFL)
    os.execve(sys.executable, argv, environ)


def _program_environment(trace_dir: str, options: environment.Options) -> dict[str, str]:
    environ = dict(os.environ)
    # In the C locale this Python has set it for itself (PEP 538); the program's is to find what
    # was given, and to decide by itself.
    given = _given("LC_CTYPE", environ.pop("LC_CTYPE", None))
    if given is not None:
        environ["LC_CTYPE"] = given
    environ.update(
        environment.variables(
            trace_dir,
            options,
            main_pid=os.getpid(),
            parent=None,
            python_path=environ.get("PYTHONPATH"),
        )
    )
    return environ


def _given(name: str, now: str | None) -> str | None:
    """The value of a variable with which this process was started; `now`, where that is unknown."""
    try:
        with open("/proc/self/environ", "rb") as file:
            items = file.read().split(b"\0")
    except OSError:
        return now
    values = (os.fsdecode(i.partition(b"=")[2]) for i in items if i.startswith(f"{name}=".encode()))
    return next(values, None)


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
