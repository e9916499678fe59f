"""The finaliser process: waits for the program's end, converts its spool, prints the answer.

Started by memtrace.run.finaliser, which explains the descriptors. While the program runs this
process waits, samples the program's memory from outside (memtrace.sample), takes full windows of
records from it (packers.py), and compacts what it records when that becomes large (compactor.py):
else nothing heavy is imported before the end. It
works through whatever goes wrong: the spool stays where it is until its tables are complete, for
`memtrace recover`.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path

from memtrace import _core
from memtrace.finalise import use_little_memory
from memtrace.finalise.compactor import Compactor
from memtrace.finalise.ending import ProcessEnd, exit_of_pid_fd, seal_main
from memtrace.finalise.packers import Packers
from memtrace.run.output import pid_of_key
from memtrace.sample.sampler import Sampler

_POLL_S = 0.5
# The answer waits this long for children that end at the same time as the program, and this long
# the finaliser stays for those that end because the program is gone: multiprocessing's fork server,
# DataLoader workers of a killed program. What lives longer is left for `recover`; but not where a
# limit of disk space goes on to hold, for which records were given up that are in tables alone.
_CHILDREN_S = 0.5
_ORPHANS_S = 10.0


def main() -> int:
    """The exit status is for who waits for the trace; of a run, the program's own counts."""
    arguments = _parse()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _take_all_descriptors()
    use_little_memory()
    trace_dir = Path(arguments.trace)
    shown = arguments.shown or str(trace_dir)
    finished = False
    left: tuple[str, ...] = ()
    compactor = Compactor(trace_dir, main_pid=arguments.pid, max_disk_bytes=arguments.max_disk)
    packers = Packers(trace_dir)
    try:
        if arguments.pid:
            if arguments.ended is None:
                packers.start()
                compactor.start()
            end = _wait_for_end(arguments, Sampling(arguments.trace))
            _wait_for_children(trace_dir, arguments.pid, _CHILDREN_S)
            seal_main(trace_dir, arguments.pid, end)
        left = _convert(trace_dir, packers, compactor, quiet=arguments.quiet)
        if not arguments.quiet:
            _print_summary(trace_dir, shown)  # it says itself what is left
        for reason in left if arguments.quiet else ():
            _say(f"memtrace: {reason}")
        finished = True
    except BaseException as error:
        _say(
            f"memtrace: the trace could not be finished ({type(error).__name__}: {error}); "
            f"to finish it: python -m memtrace recover {shown}"
        )
        if os.environ.get("MEMTRACE_DEBUG"):
            raise
    finally:
        # The program prints nothing more when it has read this byte.
        if arguments.done_fd >= 0:
            os.write(arguments.done_fd, b"d")
    beside_the_program = arguments.pid and arguments.ended is None
    if finished and beside_the_program and any((trace_dir / "spool").glob("process=*")):
        _let_go_of_standard_error()
        with contextlib.suppress(Exception):  # every reader tries again
            packers.start()
            compactor.start()
            orphans_s = _ORPHANS_S if arguments.max_disk is None else math.inf
            _wait_for_children(trace_dir, arguments.pid, orphans_s)
            _convert(trace_dir, packers, compactor, quiet=True)
    packers.stop()
    compactor.abandon()
    _remove_fifos(trace_dir)
    return 0 if finished and not left else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="memtrace.finalise")
    parser.add_argument("--trace", required=True)
    parser.add_argument("--shown", default="")
    parser.add_argument("--pid", type=int, default=0)
    parser.add_argument("--ended", type=int)  # its exit status: it runs us as its last act
    parser.add_argument("--pid-fd", type=int, default=-1)
    parser.add_argument("--end-fd", type=int, default=-1)
    parser.add_argument("--done-fd", type=int, default=-1)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--max-disk", type=int)  # bytes
    return parser.parse_args()


def _take_all_descriptors() -> None:
    # Of each process that is compacted some ten files are open, and a program may have hundreds.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Sampling:
    """The sampler; a failure of it ends it, and nothing else."""

    def __init__(self, trace_dir: str) -> None:
        self._sampler: Sampler | None = Sampler(trace_dir)

    def step(self) -> float | None:
        """Sample what is due; seconds until the next call, None when there need be none."""
        if self._sampler is None:
            return None
        try:
            return self._sampler.step()
        except Exception:
            self._sampler = None
            if os.environ.get("MEMTRACE_DEBUG"):
                raise
        return None


def _wait_for_end(arguments: argparse.Namespace, sampling: Sampling) -> ProcessEnd:
    """Until the program says that it is at its end, or is gone without a word."""
    if arguments.ended is not None:
        return ProcessEnd(exit_status=arguments.ended, announced=True)
    most_s = None if arguments.pid_fd >= 0 else _POLL_S
    poll = select.poll()
    for fd in (arguments.end_fd, arguments.pid_fd):
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    unfinished = b""
    while True:
        waits_s = [limit for limit in (sampling.step(), most_s) if limit is not None]
        ready = {fd for fd, _ in poll.poll(min(waits_s) * 1000 if waits_s else None)}
        if arguments.end_fd in ready:
            unfinished += os.read(arguments.end_fd, 4096)
            *lines, unfinished = unfinished.split(b"\n")
            for line in lines:
                words = line.split()
                if words[:2] == [b"end", str(arguments.pid).encode()]:
                    return ProcessEnd(exit_status=int(words[2]), announced=True)
        elif arguments.pid_fd in ready:
            return exit_of_pid_fd(arguments.pid_fd, arguments.pid)
        elif arguments.pid_fd < 0 and not _is_running(arguments.pid):
            return ProcessEnd()


def _wait_for_children(trace_dir: Path, main_pid: int, limit_s: float) -> None:
    began_s = time.monotonic()
    while (waited_s := time.monotonic() - began_s) < limit_s:
        spools = (trace_dir / "spool").glob("process=*")
        children = (spool for spool in spools if pid_of_key(spool.name) != main_pid)
        if all(_core.writer_life(str(child)) != "running" for child in children):
            return
        time.sleep(max(0.02, min(waited_s / 50, _POLL_S)))


def _is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b") ")[2][:1] not in (b"Z", b"X")


def _convert(
    trace_dir: Path, packers: Packers, compactor: Compactor, *, quiet: bool
) -> tuple[str, ...]:
    """Why spools were left, a line each."""
    from memtrace.finalise import finalise

    progress = not quiet and sys.stderr.isatty()
    packers.stop()
    compactions = compactor.stop()
    result = finalise(trace_dir, progress=progress, compactions=compactions)
    compactor.forget(result.keys)
    return result.refused


def _print_summary(trace_dir: Path, shown: str) -> None:
    try:
        from memtrace.report.at_end import write_end_summary
    except ImportError:
        _say(f"memtrace: recorded {shown}\nNext: python -m memtrace peak {shown}")
        return
    write_end_summary(trace_dir, shown, sys.stderr)


def _let_go_of_standard_error() -> None:
    # Whoever reads it until its end (a pipe, a program that captures) has the whole answer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone
        os.write(2, f"{text}\n".encode(errors="replace"))


def _remove_fifos(trace_dir: Path) -> None:
    spool = trace_dir / "spool"
    for fifo in spool.glob("*.fifo"):
        fifo.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody still records, or a spool was not converted
        spool.rmdir()


if __name__ == "__main__":
    sys.exit(main())
