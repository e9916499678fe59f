"""Which directory a trace goes to, and what is never replaced or overwritten."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memtrace.errors import MemtraceError
from memtrace.run.output import (
    MARKER,
    create_trace,
    forget_replaced,
    is_trace,
    pid_of_key,
    take_back,
)
from program_runs import memtrace


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_trace_is_private_and_marked() -> None:
    path = Path(create_trace(None, "serve", force=False))
    assert path == Path.cwd() / "serve.memtrace"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((path / MARKER).stat().st_mode) == 0o600
    assert sorted(p.name for p in path.iterdir()) == [MARKER, "spool"]
    assert not list((path / "spool").iterdir())


def test_the_next_free_number_also_when_many_ask_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: create_trace(None, "serve", force=False), range(20)))
    names = {Path(path).name for path in paths}
    assert names == {"serve.memtrace"} | {f"serve.{i}.memtrace" for i in range(2, 21)}


def test_force_does_not_touch_a_default_name() -> None:
    first = create_trace(None, "serve", force=True)
    assert create_trace(None, "serve", force=True) != first


def refused(path: str, *, force: bool) -> str:
    before = sorted(Path().rglob("*"))
    with pytest.raises(MemtraceError) as refusal:
        create_trace(path, "unused", force=force)
    assert sorted(Path().rglob("*")) == before
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_an_existing_trace_needs_force() -> None:
    create_trace("x.memtrace", "unused", force=False)
    (Path("x.memtrace") / "events").mkdir()
    assert "--force" in refused("x.memtrace", force=False)
    create_trace("x.memtrace", "unused", force=True)
    assert not (Path("x.memtrace") / "events").exists()
    forget_replaced("x.memtrace")
    assert os.listdir() == ["x.memtrace"]


def test_what_is_replaced_comes_back_when_nothing_is_recorded() -> None:
    create_trace("x.memtrace", "unused", force=False)
    (Path("x.memtrace") / "events").mkdir()
    take_back(create_trace("x.memtrace", "unused", force=True))
    assert (Path("x.memtrace") / "events").exists()
    assert os.listdir() == ["x.memtrace"]
    take_back(create_trace("y.memtrace", "unused", force=False))
    assert os.listdir() == ["x.memtrace"]


def test_force_replaces_nothing_but_traces() -> None:
    Path("folder").mkdir()
    Path("folder", "precious").write_text("text")
    Path("file").write_text("text")
    create_trace("real.memtrace", "unused", force=False)
    os.symlink("real.memtrace", "link")
    os.symlink("nowhere", "dangling")
    for name in ("folder", "file", "link", "dangling"):
        assert "not a memtrace trace" in refused(name, force=True)


def test_force_deletes_no_file_that_memtrace_did_not_write() -> None:
    create_trace("x", "unused", force=False)
    Path("x", "notes.txt").write_text("mine")
    assert "notes.txt" in refused("x", force=True)


@pytest.mark.parametrize("place", [
    "events/notes.txt", "events/mine/notes.txt", "events/process=a-99999999-b/notes.txt",
    "events/process=a-1-b/mine/part-00000.parquet", "events/part-00000.parquet",
    "spool/notes.txt", "spool/process=a-99999999-b/notes.txt", "spool/mine/text.log",
    "spool/unrecorded/notes.txt", "steps/mine", "events/process=a-1-b/part-00000.thinned",
    ".finalising-a-1-b/events/mine/part-00000.parquet",
])  # fmt: skip
def test_force_deletes_no_file_inside_a_dataset_either(place: str) -> None:
    file = Path(create_trace("x", "unused", force=False), place)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.name == "mine":
        file.symlink_to("/")  # a folder of somebody else
    else:
        file.write_text("mine")
    assert place in refused("x", force=True)


def test_force_replaces_all_that_memtrace_leaves() -> None:
    trace = Path(create_trace("x", "unused", force=False))
    for place in (
        "events/process=a-1-b/part-00000.parquet", "spool/process=a-99999999-b/control.bin",
        "spool/process=a-99999999-b/text.log", "spool/.done-process=a-1-b/records.bin",
        "spool/unrecorded/12", "spool/end.fifo", ".finalising-a-1-b/events/part-00000.parquet",
        ".finalising-a-1-b/allocations/part-00003.thinned",
        ".finalising-a-1-b/attributed/allocations/part-00000.parquet",
    ):  # fmt: skip
        (trace / place).parent.mkdir(parents=True, exist_ok=True)
        (trace / place).touch()
    create_trace("x", "unused", force=True)
    forget_replaced("x")
    assert [path.name for path in trace.iterdir() if path.is_dir()] == ["spool"]


def test_force_does_not_replace_what_is_being_recorded() -> None:
    create_trace("x", "unused", force=False)
    Path("x", "spool", f"process=host-{os.getpid()}-abc").mkdir()
    assert f"process {os.getpid()}" in refused("x", force=True)


def test_places_that_cannot_be_written() -> None:
    assert "No such file" in refused("no/such/folder/x", force=False)
    Path("file").write_text("")
    assert "Not a directory" in refused("file/x", force=False)
    assert "cannot create" in refused("/proc/x", force=False)


def test_a_default_place_that_cannot_be_written_is_answered_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/proc")
    with pytest.raises(
        MemtraceError, match=r"cannot create the trace /proc/serve\.memtrace.*-o DIR"
    ):
        create_trace(None, "serve", force=False)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(MemtraceError, match="the working folder is gone; give an absolute path"):
        create_trace(None, "serve", force=False)
    assert create_trace(str(tmp_path / "x"), "unused", force=False) == str(tmp_path / "x")


def test_marker() -> None:
    Path("fake").mkdir()
    Path("fake", MARKER).write_text("{}")
    assert not is_trace("fake")
    Path("fake", MARKER).write_bytes(b"\xff")
    assert not is_trace("fake")
    assert not is_trace("absent")


@pytest.mark.parametrize(("key", "pid"), [
    ("host-12-abc", 12), ("a-b-7-x", 7), ("process=h-3-z", 3), ("nothing", None), ("a-b", None),
])  # fmt: skip
def test_pid_of_key(key: str, pid: int | None) -> None:
    assert pid_of_key(key) == pid


def test_a_trace_whose_path_is_not_utf8(tmp_path: Path) -> None:
    trace = tmp_path / "a\udcffb.memtrace"
    script = tmp_path / "s\udcff.py"
    script.write_text("import torch; torch.ones(1000)")
    shown = memtrace("run", "-o", trace, script, "c\udcff")
    assert shown.status == 0
    assert rb"a\xffb.memtrace: 2 events" in shown.err
    (events,) = trace.glob("events/*/*.parquet")
    assert events.stat().st_size > 0
