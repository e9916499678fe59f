"""Starting the finaliser: the process that outlives the program and turns its spool into tables.

It is started before the program, while this process is small and has one thread. It is not a child
of the program (forked twice: os.wait() in the program never sees it), not in its session (Ctrl-C
does not reach it), and takes no file descriptor of it: it knows of the program's end by a pidfd of
its own, and the program finds it through two FIFOs in the trace (csrc/record/process_end.h).

One program cannot have such a process beside it: one that adopts orphans, as the first process of a
container does. os.wait() in it would see the finaliser, and a loop of it never end. There it is
started at the end of the program, by the program (csrc/record/end_command.h). A reader that comes
to the trace of a program that was killed finishes it, here as anywhere.
"""

from __future__ import annotations

import errno
import os
import sys

from memtrace import _core
from memtrace.errors import MemtraceError
from memtrace.run import environment

END_FIFO = "end.fifo"
DONE_FIFO = "done.fifo"
_NICE = 5
_SIGKILL = 9
_STDERR = 2
# Of the user's environment: what changes how the finaliser runs, or prints beside the answer.
_NOT_FOR_US = (
    "PYTHONPATH", "PYTHONINSPECT", "PYTHONPROFILEIMPORTTIME", "PYTHONWARNINGS", "PYTHONVERBOSE",
    "PYTHONMALLOCSTATS",
)  # fmt: skip


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


def start(trace_dir: str, *, quiet: bool, max_disk_bytes: int = 0) -> int:
    """Start it for this process, which goes on to become the program.

    Returns:
        Its process id, for stop(); 0: this process adopts orphans, see watch_end().

    Raises:
        MemtraceError: the trace's file system or the system's limits do not allow it.
    """
    if _core.adopts_orphans():
        if max_disk_bytes:
            raise MemtraceError(
                "run: --max-disk needs a process beside the program, which the first process of a "
                "container cannot have: start the container with an init (docker run --init)"
            )
        return 0
    keep: list[int] = []  # its descriptors; what it takes is closed here
    try:
        pid_fd = _open_pid_fd(keep)
        end_fd, done_fd = _open_fifos(trace_dir, keep)
        argv = [
            *_command(trace_dir, quiet=quiet),
            *("--pid", str(os.getpid()), "--pid-fd", str(pid_fd)),
            *("--end-fd", str(end_fd), "--done-fd", str(done_fd)),
            *(["--max-disk", str(max_disk_bytes)] if max_disk_bytes else []),
        ]
        return _spawn(argv, keep=keep)
    except OSError as error:
        raise MemtraceError(f"cannot start the finaliser: {error.strerror}") from None
    finally:
        for fd in keep:
            os.close(fd)


def stop(pid: int) -> None:
    """After start(): there will be no program. It waits, and has touched nothing yet."""
    if pid:
        os.kill(pid, _SIGKILL)


def watch_end(trace_dir: str, *, quiet: bool) -> None:
    """In the program: the finaliser hears of its end, or is started there."""
    hint = recover_hint(trace_dir)
    if os.path.exists(end_fifo(trace_dir)):
        _core.watch_process_end(end_fifo(trace_dir), done_fifo(trace_dir), os.fsencode(hint))
    elif _core.adopts_orphans():
        command = [*_command(trace_dir, quiet=quiet), "--pid", str(os.getpid()), "--ended"]
        environ = finaliser_environment()
        _core.run_at_process_end(
            list(map(os.fsencode, command)),
            [os.fsencode(f"{name}={value}") for name, value in environ.items()],
            os.fsencode(hint),
        )


# -c and not -m, and -S: sys.path begins with the standard library, and neither a folder in which
# the user keeps a json.py nor a sitecustomize.py of the user is in the way. What `site` would have
# added comes after it, then all other places in which the program's Python finds modules.
_BOOTSTRAP = """\
import sys
sys.path[:] = [p for p in sys.path if p]
import os, site
os.chdir("/")
standard = sys.path[:]
site.execsitecustomize = site.execusercustomize = lambda: None
site.main()
added = [p for p in sys.path if p not in standard]
ours, more = sys.argv[1:3]
del sys.argv[1:3]
sys.path[:] = [*standard, ours, *added, *more.split(os.pathsep)]
from memtrace.finalise.__main__ import main
sys.exit(main())
"""


def _command(trace_dir: str, *, quiet: bool) -> list[str]:
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [
        *(sys.executable, "-S", "-c", _BOOTSTRAP, ours, os.pathsep.join(_search_path())),
        *(f"--trace={trace_dir}", f"--shown={_shown(trace_dir)}"),
        *(["--quiet"] if quiet else []),
    ]


def _search_path() -> list[str]:
    paths = [p for p in sys.path if isinstance(p, str) and p not in ("", environment.SITE_DIR)]
    try:
        return [os.path.abspath(p) for p in paths]
    except OSError:  # the working folder is gone
        return [p for p in paths if os.path.isabs(p)]


def finaliser_environment() -> dict[str, str]:
    """The environment in which a finaliser runs: not recorded, nothing of the user's imported."""
    environ = environment.clean(dict(os.environ))
    for name in _NOT_FOR_US:
        environ.pop(name, None)
    return environ


def finalise_now(trace_dir: str) -> list[str]:
    """The command that finalises a trace that nobody records into any more, and then ends."""
    return _command(trace_dir, quiet=True)


def _open_pid_fd(keep: list[int]) -> int:
    try:
        return _above_standard_streams(os.pidfd_open(os.getpid()), keep)
    except (AttributeError, OSError):
        return -1  # an old kernel, or a container that forbids it: the finaliser looks at /proc


def _open_fifos(trace_dir: str, keep: list[int]) -> tuple[int, int]:
    try:
        os.mkfifo(end_fifo(trace_dir), 0o600)
        os.mkfifo(done_fifo(trace_dir), 0o600)
    except OSError:
        return -1, -1  # a file system without FIFOs: the program does not wait for the answer
    # Read and write: open() does not wait for the other side, and the end FIFO has no end of file.
    # The done FIFO's only writer is to be the finaliser, whose death the program must see.
    end_fd, done_fd = (
        _above_standard_streams(os.open(fifo(trace_dir), os.O_RDWR | os.O_CLOEXEC), keep)
        for fifo in (end_fifo, done_fifo)
    )
    return end_fd, done_fd


def _above_standard_streams(fd: int, keep: list[int]) -> int:
    # The program may have been started with a closed stdin, whose number open() then hands out.
    low: list[int] = []
    try:
        while fd <= _STDERR:
            low.append(fd)
            fd = os.dup(fd)
        keep.append(fd)
        return fd
    finally:
        for passed in low:
            os.close(passed)


def _spawn(argv: list[str], *, keep: list[int]) -> int:
    reader, writer = os.pipe()
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        os.close(writer)
        pid = int(os.read(reader, 20) or 0)
        os.close(reader)
        if not pid:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return pid
    try:
        os.setsid()
        pid = os.fork()
        if pid:
            os.write(writer, str(pid).encode())
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
        if fd > _STDERR and fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass  # the listing's own
    for fd in keep:
        os.set_inheritable(fd, True)
    # Not a folder that may go away: Python 3.13.0 then fails in the middle of imports.
    os.chdir("/")
    os.nice(_NICE)
    os.execve(argv[0], argv, finaliser_environment())


def _shown(trace_dir: str) -> str:
    try:
        relative = os.path.relpath(trace_dir)
    except OSError:  # the working folder is gone
        return trace_dir
    if relative.startswith(".."):
        return trace_dir
    # As a word of the next command it must not be taken for an option.
    return os.path.join(".", relative) if relative.startswith("-") else relative
