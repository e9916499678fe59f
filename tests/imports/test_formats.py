"""What kind a file is of, told from its content."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from imports.torch_snapshot.golden import pickled
from memtrace.cli.main import main
from memtrace.errors import MemtraceError
from memtrace.finalise import FinaliseResult
from memtrace.imports.formats import FORMATS, format_of
from memtrace.imports.importing import import_file
from memtrace.trace import open_trace

HERE = Path(__file__).parent
DAT = (HERE / "mprof" / "golden" / "functions.dat").read_bytes()
CHROME = b'{"traceEvents": [{"ph": "i", "name": "[memory]", "ts": 1, "pid": 1, "tid": 1, "args": {"Addr": 4096, "Bytes": 64, "Device Type": 0, "Device Id": -1}}]}'  # noqa: E501
CONTENTS = {"mprof": DAT, "chrome": CHROME, "snapshot": pickled("torch-2.6")}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("suffix", [".json", ".dat", ".pickle", ""])
def test_the_content_tells(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(CONTENTS[name])
    assert format_of(path).name == name


@pytest.mark.parametrize("name", ["mprof", "chrome"])
def test_gzip_is_seen_through(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(CONTENTS[name]))
    assert format_of(path).name == name


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\xef\xbb\xbf {", "chrome"), (b"\n[\n", "chrome"), (b"]", "snapshot"), (b"", "snapshot"),
        (b"MEMORY 1 2", "snapshot"), (b"\x1f\x8b damaged", "snapshot"),
    ],
)  # fmt: skip
def test_how_a_file_begins(head: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(head)
    assert format_of(path).name == name


@pytest.mark.parametrize("name", CONTENTS)
def test_every_kind_is_imported_without_a_word(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.bin").write_bytes(CONTENTS[name])
    assert main(["import", "x.bin"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("x.memtrace: imported") or "/x.memtrace: imported" in out
    assert "lacks" in err or "alone" in err
    assert open_trace(Path("x.memtrace")).process_list


def test_a_format_that_is_insisted_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.dat"
    path.write_bytes(DAT)
    before = sorted(tmp_path.iterdir())
    for kind in FORMATS:
        if kind.name != "mprof":
            assert main(["import", str(path), "--format", kind.name]) == 1
            assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("worker0.1700.pt.trace.json.gz", "worker0.1700"), ("x.json", "x"), ("dump.pickle", "dump"),
        ("a.trace.json", "a"), (".trace.json", ".trace"),
    ],
)  # fmt: skip
def test_what_the_trace_is_called(
    name: str, made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = gzip.compress(CHROME) if name.endswith(".gz") else CHROME
    Path(name).write_bytes(data if "json" in name else CONTENTS["snapshot"])
    assert main(["import", name]) == 0
    assert Path(f"{made}.memtrace").is_dir()


def test_what_cannot_be_converted_leaves_no_trace_of_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(CHROME)
    refused = FinaliseResult(("a-1-b",), (), events=1, seconds=0, refused=("cannot convert it",))
    monkeypatch.setattr("memtrace.finalise.convert.finalise", lambda *_, **__: refused)
    with pytest.raises(MemtraceError, match="cannot convert it"):
        import_file(path, str(tmp_path / "x.memtrace"))
    assert not (tmp_path / "x.memtrace").exists()
