"""memtrace flamegraph: the file, and nothing of another's lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from memtrace.cli.main import group, main
from trace_builder import serving_trace


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return serving_trace(tmp_path / "serve.memtrace")


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(group, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_page_lies_beside(serving: Path) -> None:
    told = invoke("flamegraph", serving)
    page = Path("serve.flamegraph.html")
    assert told.startswith("serve.flamegraph.html: ")
    assert told.endswith("KiB, 123.0 MiB in 19 blocks; open it in a browser\n")
    text = page.read_text()
    assert "Allocated memory on cuda:0 at its peak" in text
    # It fetches nothing.
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text


def test_what_is_there_stays(serving: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = Path("page.html")
    page.write_text("mine")
    assert main(["flamegraph", str(serving), "-o", "page.html"]) == 1
    assert (
        "page.html exists: choose another name with -o, or give --force" in capfd.readouterr().err
    )
    assert main(["flamegraph", str(serving), "-o", "page.html", "--force", "--device", "x"]) == 1
    assert page.read_text() == "mine"
    capfd.readouterr()
    assert main(["flamegraph", str(serving), "-o", "page.html", "--force"]) == 0
    assert page.read_text().startswith("<!doctype html>")
    assert main(["flamegraph", str(serving), "-o", "no/page.html"]) == 1
    assert "no such file or directory" in capfd.readouterr().err


def test_every_kind_of_tree(serving: Path) -> None:
    for number, words in enumerate(
        (["--by", "stack"], ["--allocated"], ["--temporary", "--within", "9"], ["--inverted"])
    ):
        invoke("flamegraph", serving, "-o", f"{number}.html", *words)
        assert Path(f"{number}.html").stat().st_size > 10_000


def test_export_writes_the_same_page(serving: Path) -> None:
    invoke("export", serving, "--to", "flamegraph")
    invoke("flamegraph", serving, "-o", "other.html")
    assert Path("serve.flamegraph.html").read_bytes() == Path("other.html").read_bytes()


def test_no_window_is_left_out_silently(serving: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(serving), "--to", "flamegraph", "--window", "0,1s"]
    assert main(words) == 1
    assert "a flame graph is of one instant, not of a window" in capfd.readouterr().err
    assert list(Path().glob("*.html")) == []
