"""memtrace report: where the page goes, and what is refused in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.cli.main import main
from trace_builder import TraceBuilder, serving_trace


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return serving_trace(tmp_path / "run.memtrace")


def test_by_default_beside_the_trace_under_its_name(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("run.html: ")
    assert "open it in a browser" in said.out
    assert len(said.out.splitlines()) == 1
    assert "</html>" in Path("run.html").read_text()


def test_an_existing_file_is_kept_unless_forced(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("page.html").write_text("mine")
    assert main(["report", str(trace), "-o", "page.html"]) == 1
    assert "page.html exists" in capsys.readouterr().err
    assert Path("page.html").read_text() == "mine"
    assert main(["report", str(trace), "-o", "page.html", "--force"]) == 0
    assert "</html>" in Path("page.html").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "cuda:7"], "no memory of cuda:7"),
        (["--window", "1s"], "write two times"),
        (["--window", "2s,1s"], "ends before it begins"),
        (["--window", "100s,101s"], "no event lies in that window"),
        (["--large-bytes", "-1"], "--large-bytes"),
        (["-o", ".", "--force"], "is a directory"),
        (["-o", "run.memtrace"], "is a directory"),
        (["-o", ""], "is a directory"),
        (["--process", "7"], "no process 7"),
    ],
)
def test_what_is_wrong_is_one_line(
    trace: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(trace), *options]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1
    assert not Path("run.html").exists()
    assert not list(Path().glob(".*partial"))


def test_compressed_by_name_and_without_events(tmp_path: Path) -> None:
    import gzip

    builder = TraceBuilder(tmp_path / "empty.memtrace")
    builder.process()
    page = tmp_path / "empty.html.gz"
    assert main(["report", str(builder.write()), "-o", str(page)]) == 0
    assert b"allocated nothing while recorded" in gzip.decompress(page.read_bytes())
