"""Read from another container: other process numbers, another host name, the same files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import memtrace
from program_runs import Shown, main_process, plain_environment

IN_OTHER_PIDS = ("unshare", "--pid", "--fork", "--mount-proc")
ON_OTHER_HOST = ("unshare", "--uts", "sh", "-c", 'hostname laptop; exec "$@"', "sh")
WAITING = """
import sys
from memtrace import recording
for number in range(int(sys.argv[1])):
    recording.current().sample("mark")
if "close" in sys.argv:
    import os
    for fd in range(3, 4096):
        try: os.close(fd)
        except OSError: pass
print("ready", flush=True)
sys.stdin.read()
"""


def _allowed() -> bool:
    tried = subprocess.run(
        [*IN_OTHER_PIDS, *ON_OTHER_HOST, "true"], capture_output=True, check=False
    )
    return tried.returncode == 0


pytestmark = pytest.mark.skipif(not _allowed(), reason="namespaces cannot be made here")


class Program:
    """A recorded program that waits for the end of its standard input."""

    def __init__(self, trace: Path, *words: str) -> None:
        self.trace = trace
        self._process = subprocess.Popen(
            [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(trace),
             "-c", WAITING, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=plain_environment(),
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def end(self) -> None:
        self._process.communicate(timeout=60)

    def kill_with_finaliser(self) -> None:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--trace=" + os.fsencode(self.trace) in words and b"--pid-fd" in words:
                os.kill(int(pid), signal.SIGKILL)
        self._process.kill()
        self.end()


CASES = pytest.mark.parametrize(("words", "namespace"), [
    (["5000"], IN_OTHER_PIDS), (["5000"], ON_OTHER_HOST), (["5000", "close"], IN_OTHER_PIDS),
])  # fmt: skip


@pytest.fixture
def program(words: list[str]) -> Iterator[Program]:
    # Where /tmp is a container's overlay, the kernel does not tell of mappings.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        started = Program(Path(folder) / "t.memtrace", *words)
        try:
            yield started
        finally:
            started.end()


def inside(namespace: tuple[str, ...], *words: str | Path) -> Shown:
    done = subprocess.run(
        [*namespace, sys.executable, "-m", "memtrace", *map(str, words)],
        capture_output=True, timeout=60, check=False, env=plain_environment(),
    )  # fmt: skip
    return Shown(done.returncode, done.stdout, done.stderr)


@CASES
def test_a_running_program_is_left_alone(program: Program, namespace: tuple[str, ...]) -> None:
    shown = inside(namespace, "summary", program.trace)
    assert shown.status == 1
    assert shown.err.count(b"\n") == 1
    assert b"still running" in shown.err
    shown = inside(namespace, "recover", "--force", program.trace)
    assert shown.out == f"{program.trace}: 0 recovered, 1 still running\n".encode()
    shown = inside(namespace, "run", "--force", "-o", program.trace, "-c", "")
    assert shown.status == 1
    assert b"is being recorded by process" in shown.err
    program.end()
    assert main_process(program.trace)["complete"]
    assert len(memtrace.open(program.trace).samples) >= 5000


@CASES
def test_a_killed_program_is_recovered(program: Program, namespace: tuple[str, ...]) -> None:
    program.kill_with_finaliser()
    shown = inside(namespace, "recover", program.trace)
    assert (shown.status, shown.out) == (0, f"{program.trace}: 1 recovered\n".encode())
    assert not (program.trace / "spool").exists()
    assert len(memtrace.open(program.trace).samples) >= 5000
