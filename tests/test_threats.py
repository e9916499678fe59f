"""What THREATS.md promises of the network, and of what a trace gives away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memtrace.schema import SCHEMAS
from memtrace.trace import open_trace
from preload import preloaded

PROGRAM = "import sys, torch; kept = torch.ones(1000); print(len(sys.argv))"
SECRET = "hunter2-4711"
#: Notes the family of every socket that a process asks for.
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
int socket(int family, int type, int protocol) {
  FILE* notes = fopen(getenv("SOCKET_NOTES"), "a");
  fprintf(notes, "%d\\n", family);
  fclose(notes);
  return ((int (*)(int, int, int))dlsym(RTLD_NEXT, "socket"))(family, type, protocol);
}
"""


def memtrace(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "memtrace", *map(str, arguments)],
        env={**os.environ, **variables}, capture_output=True, text=True, check=True,
    )  # fmt: skip


def all_text(trace_dir: Path) -> str:
    """Whatever can be read out of a trace."""
    trace = open_trace(trace_dir)
    tables = [str(getattr(trace, name).to_pylist()) for name in SCHEMAS]
    files = [path.name for path in trace_dir.rglob("*")]
    return "\n".join([*tables, *files])


def test_a_trace_has_no_environment_and_the_arguments_only_if_wanted(tmp_path: Path) -> None:
    told, withheld = tmp_path / "told.memtrace", tmp_path / "withheld.memtrace"
    memtrace("run", "-o", told, "-c", PROGRAM, f"--token={SECRET}", API_KEY="sk-" + SECRET)
    memtrace("run", "--withhold-argv", "-o", withheld, "-c", PROGRAM, f"--token={SECRET}")
    assert f"--token={SECRET}" in all_text(told)
    assert "sk-" + SECRET not in all_text(told)
    assert SECRET not in all_text(withheld)


@pytest.fixture
def socket_notes(tmp_path: Path) -> dict[str, str]:
    """The variables under which every socket is noted, in the file SOCKET_NOTES."""
    return {**preloaded(SHIM, tmp_path), "SOCKET_NOTES": str(tmp_path / "sockets")}


def test_no_socket_is_opened(tmp_path: Path, socket_notes: dict[str, str]) -> None:
    notes = Path(socket_notes["SOCKET_NOTES"])
    opens = "import socket; socket.socket()"
    subprocess.run([sys.executable, "-c", opens], env=os.environ | socket_notes, check=True)
    assert notes.read_text() == "2\n"  # so one would be seen
    notes.unlink()
    trace = tmp_path / "t.memtrace"
    memtrace("run", "-o", trace, "-c", PROGRAM, **socket_notes)
    for command in (
        ["summary"], ["peak"], ["tree"], ["stages"], ["attribute"], ["sql", "SELECT 1"],
        ["report", "-o", tmp_path / "report.html"],
        ["export", "--to", "perfetto", "-o", tmp_path / "out.perfetto-trace"],
    ):  # fmt: skip
        name, *options = command
        memtrace(name, trace, *options, **socket_notes)
    assert not notes.exists()
