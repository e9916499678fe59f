"""A disk that fills up, goes away, or never was writable: the program goes on, losses count."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memtrace
from memtrace.errors import MemtraceError
from preload import preloaded

PROGRAM = Path(__file__).resolve().parent.parent / "programs" / "hazards" / "allocating.py"
ALLOCATIONS = 60_000
# 2 events and an operator's span of 64 bytes each per allocation, at least.
SPOOL_BYTES = 3 * 64 * ALLOCATIONS
DISK_BYTES = 8 << 20
# The finaliser packs into a fifth what it takes from the program: so much is little for it.
PACKED_DISK = "size=2m"
# Within a limit, however large, the program appends its records itself.
ALONE = ("--max-disk", "1GiB")
Row = dict[str, Any]
_NO_SPACE = ("event_no_space", "record_no_space")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={DISK_BYTES},mode=700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=False)


def plain(*words: str, count: int = ALLOCATIONS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), str(count), *words],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def traced(
    trace: Path,
    *words: str,
    count: int = ALLOCATIONS,
    quiet: bool = False,
    beside: bool = True,
) -> subprocess.CompletedProcess[str]:
    """`beside`: the finaliser takes full windows from the program."""
    argv = [sys.executable, "-m", "memtrace", "run", *(["--quiet"] if quiet else [])]
    argv += [*(() if beside else ALONE), "-o", str(trace), str(PROGRAM), str(count), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False)


def same(one: subprocess.CompletedProcess[str], other: subprocess.CompletedProcess[str]) -> None:
    assert (one.returncode, one.stdout) == (other.returncode, other.stdout), other.stderr[-2000:]


def rows(trace: Path) -> tuple[list[Row], memtrace.Trace]:
    opened = memtrace.open(trace)
    return opened.processes.to_pylist(), opened


def lost(process: Row) -> dict[str, int]:
    return {kind: count for kind, count in json.loads(process["lost_events"]).items() if count}


def test_the_program_needs_more_than_the_disk_has(tmp_path: Path) -> None:
    same(plain(), traced(tmp_path / "t.memtrace"))
    ((process,), trace) = rows(tmp_path / "t.memtrace")
    assert process["lost_total"] == 0
    assert process["events"] >= 2 * ALLOCATIONS
    assert 64 * (process["events"] + trace.operators.num_rows) > DISK_BYTES


each_way = pytest.mark.parametrize("beside", [True, False], ids=["packed beside", "alone"])


@each_way
def test_a_disk_that_fills_up(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], beside: bool
) -> None:
    count = ALLOCATIONS
    if beside:
        count = 3 * ALLOCATIONS
        subprocess.run(["mount", "-o", f"remount,{PACKED_DISK}", str(disk)], check=True)
    expected = plain(count=count)
    assert expected.returncode == 7
    done = traced(disk / "t.memtrace", count=count, beside=beside)
    same(expected, done)
    # The tables had no room either: the spool is there still, and the user is told.
    assert "No space left" in done.stderr or "full" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    moved = tmp_path / "moved.memtrace"
    shutil.copytree(disk / "t.memtrace", moved)
    ((process,), trace) = rows(moved)
    assert f"finished the records of process {process['pid']}\n" in capsys.readouterr().err
    losses = lost(process)
    # Told of as well: whole chunks that are missing, and what does not fit together therefore.
    assert losses.keys() >= {"event_no_space", "record_no_space"}
    assert losses.keys() <= {*_NO_SPACE, "missing_chunks", "missed_frees", "lost_spans"}, losses
    assert process["lost_total"] == losses["event_no_space"] + losses["record_no_space"]
    assert (process["exit_status"], process["end_reason"]) == (7, "exit")
    assert process["complete"]
    # Nothing went without being counted: all that was not lost is here.
    complete = traced(tmp_path / "complete.memtrace", count=count, quiet=True)
    same(expected, complete)
    ((whole,), _) = rows(tmp_path / "complete.memtrace")
    assert process["events"] + losses["event_no_space"] == whole["events"]
    assert process["events"] > ALLOCATIONS // 4
    # What was recorded has its operators and lines.
    assert trace.allocations["source"].null_count == 0
    assert set(trace.allocations["top_operator"].unique().to_pylist()) >= {"aten::full"}


def test_forked_children_on_a_full_disk(disk: Path, tmp_path: Path) -> None:
    expected = plain("forks")
    same(expected, traced(disk / "t.memtrace", "forks"))
    moved = tmp_path / "moved.memtrace"
    shutil.copytree(disk / "t.memtrace", moved)
    found, _ = rows(moved)
    assert found[0]["start_method"] == "main"
    # A child that found no room for a spool of its own is counted.
    unrecorded = len(list((disk / "t.memtrace" / "spool" / "unrecorded").glob("*")))
    assert len(found) - 1 + unrecorded == 2 or not disk_has_room_for_a_file(disk)


def disk_has_room_for_a_file(disk: Path) -> bool:
    try:
        (disk / "probe").write_bytes(b"1" * 4096)
    except OSError:
        return False
    return True


def test_space_that_comes_back_is_used_again(disk: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys, torch, memtrace\n"
        "torch.empty(7)\n"
        f"fd = os.open({str(disk / 'ballast')!r}, os.O_CREAT | os.O_WRONLY)\n"
        f"for i in range({DISK_BYTES // 1024}):\n"
        "    try: os.write(fd, bytes(1024))\n"
        "    except OSError: break\n"
        "for i in range(20000): torch.empty(7)\n"
        "os.truncate(fd, 0)\n"
        "for i in range(20000): torch.empty(9)\n"
    )
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(disk / "t.memtrace")]
    done = subprocess.run([*argv, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    moved = tmp_path / "moved.memtrace"
    shutil.copytree(disk / "t.memtrace", moved)
    ((process,), trace) = rows(moved)
    sizes = trace.allocations["size_bytes"].to_pylist()
    assert lost(process)["event_no_space"] > 0
    assert 0 < sizes.count(28) < 20000
    # Windows that wait to be appended when room comes back may still be lost: two per log.
    assert sizes.count(36) >= 20000 - 2 * 1023


@each_way
def test_a_limit_on_the_size_of_files(tmp_path: Path, beside: bool) -> None:
    expected = plain("small_files")
    assert expected.returncode == 7
    done = traced(tmp_path / "t.memtrace", "small_files", beside=beside)
    same(expected, done)  # SIGXFSZ would have ended it
    ((process,), _) = rows(tmp_path / "t.memtrace")
    # It is the program's limit, and not the finaliser's.
    assert beside or lost(process)["event_no_space"] > 0
    assert process["events"] + lost(process).get("event_no_space", 0) >= 2 * ALLOCATIONS
    # The first half came before the limit.
    assert process["events"] >= ALLOCATIONS


#: A quota of 2 MiB a file: what cannot be reserved beyond it is refused, as the kernel refuses it.
QUOTA = """
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>
int fallocate(int fd, int mode, long offset, long size) {
  if (offset + size > (2l << 20)) {
    errno = EDQUOT;
    return -1;
  }
  return (int)syscall(SYS_fallocate, fd, mode, offset, size);
}
ssize_t pwrite(int fd, const void* data, size_t size, long offset) {
  if (offset + (long)size > (2l << 20)) {
    errno = EDQUOT;
    return -1;
  }
  return syscall(SYS_pwrite64, fd, data, size, offset);
}
int fallocate64(int fd, int mode, long offset, long size) {
  return fallocate(fd, mode, offset, size);
}
ssize_t pwrite64(int fd, const void* data, size_t size, long offset) {
  return pwrite(fd, data, size, offset);
}
"""


@each_way
def test_a_quota(tmp_path: Path, beside: bool) -> None:
    expected = plain()
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(tmp_path / "t.memtrace")]
    argv += [] if beside else ALONE
    done = subprocess.run(
        [*argv, str(PROGRAM), str(ALLOCATIONS)], capture_output=True, text=True, timeout=200,
        check=False, env={**os.environ, **preloaded(QUOTA, tmp_path)},
    )  # fmt: skip
    same(expected, done)
    assert done.stderr == ""
    ((process,), _) = rows(tmp_path / "t.memtrace")
    losses = lost(process)
    assert beside or losses.keys() >= set(_NO_SPACE)
    assert process["lost_total"] == sum(losses.get(kind, 0) for kind in _NO_SPACE)
    assert process["events"] + losses.get("event_no_space", 0) >= 2 * ALLOCATIONS
    assert process["events"] > 10_000


def test_the_folder_goes_while_recording(tmp_path: Path) -> None:
    expected = plain()
    done = traced(tmp_path / "t.memtrace", "remove")
    same(expected, done)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("memtrace: "), done.stderr
    with pytest.raises(MemtraceError):
        memtrace.open(tmp_path / "t.memtrace")


def test_output_that_cannot_be_written(disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for trace in (disk / "t.memtrace", tmp_path / "missing" / "deep" / "t.memtrace",
                  Path("/proc/t.memtrace")):  # fmt: skip
        done = traced(trace)
        if trace.parent.parent.exists() or done.returncode != 7:
            assert done.returncode == 1
            assert done.stdout == ""  # the program was not begun
            (line,) = done.stderr.splitlines()
            assert line.startswith("memtrace: ")
            assert str(trace.parent) in line


def test_a_read_only_trace_of_a_killed_process_opens(disk: Path) -> None:
    code = "import os, signal, torch; x = torch.ones(5); os.kill(os.getpid(), signal.SIGKILL)"
    trace = disk / "t.memtrace"
    script = (
        "import os, sys, torch, memtrace, signal\n"
        f"memtrace.record({str(trace)!r}).start()\n"
        f"{code.partition('; ')[2]}\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = sorted(os.listdir(trace))
    opened = memtrace.open(trace)
    assert opened.allocations["size_bytes"].to_pylist() == [20]
    assert sorted(os.listdir(trace)) == before
