"""Starting the finaliser: the process that outlives the program and turns its spool into tables.

It is started before the program, while this process is small and has one thread. It is not a child
of the program (forked twice: os.wait() in the program never sees it), not in its session (Ctrl-C
does not reach it), and takes no file descriptor of it: it knows of the program's end by a pidfd of
its own, and the program finds it through two FIFOs in the trace (csrc/record/process_end.h).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys

from memtrace.errors import MemtraceError
from memtrace.run import environment

END_FIFO = "end.fifo"
DONE_FIFO = "done.fifo"
_NICE = 5


def end_fifo(trace_dir: str) -> str:
    """Where the program says that it has ended."""
    return os.path.join(trace_dir, "spool", END_FIFO)


def done_fifo(trace_dir: str) -> str:
    """Where the finaliser says that the answer is printed."""
    return os.path.join(trace_dir, "spool", DONE_FIFO)


def recover_hint(trace_dir: str) -> str:
    """What is printed when the finaliser is not there any more."""
    return (
        "memtrace: the trace could not be finished; to finish it: "
        f"python -m memtrace recover {_shown(trace_dir)}\n"
    )


def start(trace_dir: str, *, quiet: bool) -> None:
    """Start it for this process, which goes on to become the program.

    Raises:
        MemtraceError: the trace's file system or the system's limits do not allow it.
    """
    try:
        pid_fd = _open_pid_fd()
        end_fd, done_fd = _open_fifos(trace_dir)
        keep = [fd for fd in (pid_fd, end_fd, done_fd) if fd >= 0]
        argv = [
            sys.executable,
            "-c",
            _BOOTSTRAP,
            _package_parent(),
            *("--trace", trace_dir, "--shown", _shown(trace_dir), "--pid", str(os.getpid())),
            *("--pid-fd", str(pid_fd), "--end-fd", str(end_fd), "--done-fd", str(done_fd)),
            *(["--quiet"] if quiet else []),
        ]
        _spawn(argv, keep=keep)
    except OSError as error:
        raise MemtraceError(f"cannot start the finaliser: {error.strerror}") from None


# -c and not -m: sys.path must not begin with a folder in which the user keeps a json.py.
_BOOTSTRAP = (
    "import sys; sys.path[:] = [sys.argv.pop(1)] + [p for p in sys.path if p]; "
    "from memtrace.finalise.__main__ import main; sys.exit(main())"
)


def _package_parent() -> str:
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def finaliser_environment() -> dict[str, str]:
    """The environment in which a finaliser runs: not recorded, and free of its working folder."""
    environ = environment.clean(dict(os.environ))
    python_path = environ.get("PYTHONPATH")
    if python_path:
        paths = [os.path.abspath(p) for p in python_path.split(os.pathsep) if p]
        environ["PYTHONPATH"] = os.pathsep.join(paths)
    for name in ("PYTHONINSPECT", "PYTHONPROFILEIMPORTTIME", "PYTHONWARNINGS"):
        environ.pop(name, None)
    return environ


def finalise_now(trace_dir: str) -> list[str]:
    """The command that finalises a trace that nobody records into any more, and then ends."""
    return [
        sys.executable, "-c", _BOOTSTRAP, _package_parent(),
        "--trace", trace_dir, "--shown", _shown(trace_dir), "--quiet",
    ]  # fmt: skip


def _open_pid_fd() -> int:
    try:
        return _above_standard_streams(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return -1  # an old kernel, or a container that forbids it: the finaliser looks at /proc


def _open_fifos(trace_dir: str) -> tuple[int, int]:
    try:
        os.mkfifo(end_fifo(trace_dir), 0o600)
        os.mkfifo(done_fifo(trace_dir), 0o600)
    except OSError:
        return -1, -1  # a file system without FIFOs: the program does not wait for the answer
    # Read and write: open() does not wait for the other side, and the end FIFO has no end of file.
    # The done FIFO's only writer is to be the finaliser, whose death the program must see.
    end_fd = os.open(end_fifo(trace_dir), os.O_RDWR | os.O_CLOEXEC)
    done_fd = os.open(done_fifo(trace_dir), os.O_RDWR | os.O_CLOEXEC)
    return _above_standard_streams(end_fd), _above_standard_streams(done_fd)


def _above_standard_streams(fd: int) -> int:
    # The program may have been started with a closed stdin, whose number open() then hands out.
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    return moved


def _spawn(argv: list[str], *, keep: list[int]) -> None:
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        for fd in keep:
            os.close(fd)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        _become(argv, keep)
    finally:
        os._exit(127)


def _become(argv: list[str], keep: list[int]) -> None:
    # stderr is for the answer. Of all else that the program was given nothing may be held open: the
    # reader of its standard output waits for the end of file.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in keep:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(fd)
    for fd in keep:
        os.set_inheritable(fd, True)
    environ = finaliser_environment()  # while relative paths still mean what they meant
    # Not a folder that may go away: Python 3.13.0 then fails in the middle of imports.
    os.chdir("/")
    os.nice(_NICE)
    os.execve(argv[0], argv, environ)


def _shown(trace_dir: str) -> str:
    relative = os.path.relpath(trace_dir)
    return relative if not relative.startswith("..") else trace_dir
