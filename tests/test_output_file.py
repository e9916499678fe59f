"""The file an export goes to: whole, or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from memtrace.errors import MemtraceError
from memtrace.output_file import output_file


def write(path: Path, *, force: bool = False, then: Exception | None = None) -> None:
    with output_file(path, force=force) as out:
        out.write(b"new")
        if then is not None:
            raise then


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "x.pf"
    path.write_bytes(b"old")
    with pytest.raises(MemtraceError, match="exists: choose another name with -o, or give --force"):
        write(path, force=False)
    assert path.read_bytes() == b"old"
    write(path, force=True)
    assert path.read_bytes() == b"new"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.pf"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write(path, force=True, then=ZeroDivisionError())
    assert [file.name for file in tmp_path.iterdir()] == ["x.pf"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_full_disk_is_one_line_and_no_file(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(MemtraceError, match=r"cannot write .*: no space left on the disk"):
        write(tmp_path / f"x{suffix}", then=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MemtraceError, match=r"cannot write .*/no/x: no such file or directory"):
        write(tmp_path / "no" / "x")
    with pytest.raises(MemtraceError, match="is a directory"):
        write(tmp_path, force=True)
