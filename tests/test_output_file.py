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


@pytest.mark.parametrize("force", [False, True])
def test_a_pipe_is_written_to_and_stays(tmp_path: Path, force: bool) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            write(path, force=force)
            assert os.read(reader, 9) == b"new"
        finally:
            os.close(reader)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "pipe"]


@pytest.mark.parametrize("force", [False, True])
def test_a_device_is_written_to_and_stays(tmp_path: Path, force: bool) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))
        device.write_bytes(b"")
    except OSError:
        pytest.skip("devices cannot be made here")
    write(device, force=force)
    assert device.is_char_device()


def test_what_a_link_leads_to_is_replaced(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(file.name)
    with pytest.raises(MemtraceError, match="link exists: "):
        write(link)  # it leads nowhere, but it is there
    for _ in range(2):
        write(link, force=True)
        assert link.is_symlink()
        assert file.read_bytes() == b"new"
    link.unlink()
    link.symlink_to(link.name)
    with pytest.raises(MemtraceError, match=r"cannot write .*/link: too many levels"):
        write(link, force=True)
    assert link.is_symlink()


@pytest.mark.parametrize("links", [True, False], ids=["", "no links"])
def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", _refused)
    path = tmp_path / "x.pf"
    writing = output_file(path, force=False)
    writing.__enter__().write(b"new")
    path.write_bytes(b"another")
    with pytest.raises(MemtraceError, match="exists: "):
        writing.__exit__(None, None, None)
    assert path.read_bytes() == b"another"
    assert [file.name for file in tmp_path.iterdir()] == ["x.pf"]
    path.unlink()
    write(path)
    assert path.read_bytes() == b"new"


def _refused(*_: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
