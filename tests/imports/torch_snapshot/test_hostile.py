"""Files that are no snapshots, or were made to do harm: one line, and nothing of them runs."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from imports.torch_snapshot import golden
from memtrace.cli import main
from memtrace.imports.importing import import_file
from memtrace.trace import open_trace


class Runs:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def refused(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line; no trace is left."""
    before = sorted(path.parent.iterdir())
    assert main(["import", str(path), "-o", str(path.parent / "made.memtrace")]) == 1
    assert sorted(path.parent.iterdir()) == before
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert line.startswith("memtrace: ")
    return line


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    return b"\x80\x04" + opening * depth + b"N" + closing * depth + b"."


MARKER = "memtrace_was_here"
RUNNING = {
    "system": lambda f: pickle.dumps(Runs(os.system, f"touch {f}")),
    "open": lambda f: pickle.dumps({"segments": [Runs(open, str(f), "w")]}),
    "eval": lambda f: pickle.dumps(Runs(eval, f"open({str(f)!r}, 'w')"), protocol=2),
    "inst": lambda f: b"(S'touch %s'\nios\nsystem\n." % os.fsencode(f),
    "obj": lambda f: b"\x80\x02(cos\nsystem\nX%so." % (struct.pack("<I", len(str(f))) + f.encode()),
    "newobj": lambda f: pickle.dumps(subprocess.Popen.__new__, protocol=4),
    "getattr": lambda f: b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
    "extension": lambda f: b"\x80\x02\x82\x01.",
    "persistent": lambda f: b"Pfile\n.",
    "binary persistent": lambda f: b"\x80\x02K\x01Q.",
    "build": lambda f: b"\x80\x02}}X\x01\x00\x00\x00aK\x01sb.",
    "buffer": lambda f: b"\x80\x05\x97.",
}  # fmt: skip


@pytest.mark.parametrize("name", RUNNING)
def test_no_code_of_the_file_runs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.pickle"
    path.write_bytes(RUNNING[name](str(tmp_path / MARKER)))
    refused(path, capsys)
    assert not (tmp_path / MARKER).exists()


HUGE = 1 << 40
BOMBS = {
    "memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "memo as text": b"(lp9999999999\n.",
    "string": b"\x80\x04\x8d" + struct.pack("<Q", HUGE) + b"x.",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b"x.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", HUGE) + b"x.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", HUGE) + b"}.",
    "number": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x.",
    "number as text": b"L" + b"9" * 1_000_000 + b"L\n.",
    "deep lists": nested(3_000_000, b"]", b"a"),
    "deep tuples": nested(1_000_000, b"", b"\x85"),
    "deep key": b"\x80\x04}" + b"N" + b"\x85" * 1_000_000 + b"N" + b"s.",
    "doubling": b"\x80\x04]\x94"
    + b"".join(b"]\x94(h%ch%ce" % (number, number) for number in range(60))
    + b".",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.pickle"
    path.write_bytes(BOMBS[name])
    start_s = time.monotonic()
    refused(path, capsys)
    assert time.monotonic() - start_s < 60


def test_one_list_in_a_thousand_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = golden.trace(frames=golden.ACTIVATION_FRAMES) * 200
    path = tmp_path / "s.pickle"
    path.write_bytes(pickle.dumps({"segments": [], "device_traces": [events] * 200}))
    assert "the same list is in it again and again" in refused(path, capsys)


OTHERS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "text": (b"hello, world\n", "it is not a pickle"),
    "number": (pickle.dumps(7), "it has no segments"),
    "other dict": (pickle.dumps({"model": [1, 2]}), "it has no segments"),
    "weights": (pickle.dumps([1.5, 2.5]), "segment 0 is no dict"),
    "class": (pickle.dumps(Path), "asks for"),
    "long name": (b"c" + b"long" * 1000 + b"\nname\n.", "asks for"),
    "two lines": (b"\x80\x04\x8c\x03a\nb\x8c\x01c\x93.", "asks for a b.c"),
    "protocol 9": (b"\x80\x09}.", "protocol 9"),
    "truncated": (golden.pickled("torch-2.6")[:900], "damaged"),
    "no trace": (pickle.dumps({"segments": [], "device_traces": [7]}), "is no list"),
    "no address": (
        pickle.dumps({"device_traces": [[{"action": "alloc", "size": 1}]]}), "event 0 of device 0",
    ),
    "negative size": (
        pickle.dumps({"device_traces": [[{"action": "alloc", "addr": 1, "size": -1}]]}),
        "negative",
    ),
    "far future": (
        pickle.dumps({"device_traces": [[
            {"action": "alloc", "addr": 1, "size": 1, "time_us": (1 << 63) - 1}
        ]]}),
        "a time that no clock shows",
    ),
    "several processes": (
        pickle.dumps({"segments": [], "memtrace_devices": ["cuda", "cpu", "cpu"]}),
        "exported from 2 processes",
    ),
    "gzip cut off": (gzip.compress(golden.pickled("torch-2.6"))[:900], "read to its end"),
    "gzip of zeros": (gzip.compress(bytes(1 << 20)), "more than 100 times as long"),
    "gzip of text": (gzip.compress(b"hello, world\n"), "it is not a pickle"),
    "huge block": (
        pickle.dumps({"segments": [{"address": 512, "total_size": 1 << 60, "blocks": []}]}),
        "total_size is",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_snapshot(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, told = OTHERS[name]
    path = tmp_path / "s.pickle"
    path.write_bytes(data)
    line = refused(path, capsys)
    assert told in line
    assert str(path) in line
    assert len(line) < 600


def test_a_directory_and_what_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "is a directory" in refused(folder, capsys)
    assert "no such file" in refused(tmp_path / "nothing.pickle", capsys)


def test_a_trace_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.pickle"
    path.write_bytes(golden.pickled("torch-2.6"))
    trace = import_file(path, str(tmp_path / "made.memtrace")).path
    assert "exists" in refused(path, capsys)
    path.write_bytes(b"no pickle")
    assert main(["import", str(path), "-o", str(trace), "--force"]) == 1
    assert open_trace(trace).events.num_rows == 7, "given back"


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run 1.pickle").write_bytes(golden.pickled("torch-2.6"))
    Path("packed.pickle.gz").write_bytes(gzip.compress(golden.pickled("torch-2.6")))
    assert main(["import", "run 1.pickle"]) == 0
    assert main(["import", "packed.pickle.gz"]) == 0
    assert open_trace("packed.memtrace").events.equals(open_trace("run 1.memtrace").events)
    assert main(["summary", "run 1.memtrace"]) == 0
    out, _ = capsys.readouterr()
    assert "torch's memory snapshot" in out
    assert "reconciles with torch: yes" in out
