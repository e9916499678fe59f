"""memtrace diff: the tables, the JSON, the page, and the exit status that CI waits for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memtrace.cli.main import main
from trace_builder import TraceBuilder, failing_trace, serving_trace

KIB = 1024


def training(path: Path, *, width: int, line: int = 10, steps: int = 2, **row: Any) -> Path:
    builder = TraceBuilder(path)
    process = builder.process(**row)
    with process.stage("idle"):
        process.alloc("cuda:0", 100 * KIB, category="weight", source="m.py:3 load")
    for _ in range(steps):
        with process.step(kind="training") as step:
            held = process.alloc(
                "cuda:0", width * KIB, step=step["step"], category="activation",
                source=f"m.py:{line} forward",
            )  # fmt: skip
        process.free(held)
    return builder.write()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    a = training(tmp_path / "a.memtrace", width=100)
    return str(a), str(training(tmp_path / "b.memtrace", width=104, line=12))


def run(capfd: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> tuple[str, str]:
    assert main(["diff", *map(str, arguments)]) == status
    return capfd.readouterr()


def test_the_tables(pair: tuple[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    out, err = run(capfd, *pair)
    assert err == ""
    assert out.splitlines() == [
        "cuda:0: peak of allocated memory 200.0 KiB → 204.0 KiB, +4.00 KiB (+2.0 %)",
        f"  A: {pair[0]}, process 100 at 5.000 us",
        f"  B: {pair[1]}, process 100 at 5.000 us",
        "",
        "                                     A          B     Change",
        "peak                         200.0 KiB  204.0 KiB  +4.00 KiB  +2.0 %",
        "end of stage idle            100.0 KiB  100.0 KiB        0 B",
        "per training step (2 and 2)  100.0 KiB  104.0 KiB  +4.00 KiB  +4.0 %",
        "",
        "At the peak, by category",
        "Category            A          B     Change",
        "activation  100.0 KiB  104.0 KiB  +4.00 KiB  +4.0 %",
        "1 the same  100.0 KiB  100.0 KiB        0 B",
        "",
        "Bytes per training step, by category",
        "Category            A          B     Change",
        "activation  100.0 KiB  104.0 KiB  +4.00 KiB  +4.0 %",
        "",
    ]
    moved, _ = run(capfd, *pair, "--by", "source")
    assert "m.py:12 forward (was m.py:10)  100.0 KiB  104.0 KiB" in moved
    assert "1 matched: lines that moved within their function" in moved
    back, _ = run(capfd, *reversed(pair))
    assert "-4.00 KiB  -3.8 %" in back
    same, _ = run(capfd, pair[0], pair[0])
    assert "200.0 KiB → 200.0 KiB, the same" in same
    assert "every category holds the same" in same


@pytest.mark.parametrize(
    ("allowed", "status"),
    [("2%", 0), ("1.9%", 1), ("4KiB", 0), ("4095B", 1), ("0%", 1), ("1MiB", 0)],
)
def test_the_exit_status(
    allowed: str, status: int, pair: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("--fail-if-peak-grows", allowed)
    out, err = run(capfd, *pair, *words, status=status)
    assert "peak of allocated memory" in out  # the tables, whatever the status
    if status:
        told = "the peak of allocated memory grew on cuda:0 by 4.00 KiB (4,096 bytes), +2.0 %"
        (line,) = err.splitlines()
        assert line == f"memtrace: {told} (200.0 KiB → 204.0 KiB): more than {allowed} allowed"
    else:
        assert err == ""
    assert run(capfd, *reversed(pair), *words)[1] == ""  # less is no failure
    document, _ = run(capfd, *pair, *words, "--json", status=status)
    assert json.loads(document)["devices"][0]["peak"]["delta_bytes"] == 4096


def test_a_device_that_only_b_uses_has_grown(
    pair: tuple[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    builder = TraceBuilder(tmp_path / "c.memtrace")
    process = builder.process()
    process.alloc("cuda:0", 1)
    process.alloc("cuda:1", 10 * KIB)
    c = builder.write()
    words = ("--fail-if-peak-grows", "1%")
    out, err = run(capfd, pair[0], c, *words, status=1)
    assert "cuda:1: only in B (" in out
    assert "grew on cuda:1 by 10.00 KiB (10,240 bytes), new (0 B → 10.00 KiB)" in err
    assert run(capfd, pair[0], c, *words, "--device", "cuda:0")[1] == ""
    # What A would not have recorded may have been there.
    blind = training(tmp_path / "d.memtrace", width=1, cpu_on=False)
    serving = serving_trace(tmp_path / "e.memtrace")
    out, err = run(capfd, blind, serving, "--device", "cpu", *words)
    assert "the other did not record it" in out
    assert "the traces have no device in common" in out


def test_what_cannot_be_compared_is_an_error(
    pair: tuple[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    builder = TraceBuilder(tmp_path / "empty.memtrace")
    builder.process()
    empty = builder.write()
    assert f"{empty}: the trace has no events" in run(capfd, pair[0], empty, status=1)[1]
    # A gate must not be passed where nothing was compared.
    serving = serving_trace(tmp_path / "e.memtrace")
    words = ("--device", "cpu", "--of", "reserved", "--fail-if-peak-grows", "1%")
    out, err = run(capfd, serving, serving, *words, status=1)
    assert (out, err) == ("", "memtrace: no reserved bytes were recorded of cpu\n")


def test_where_the_page_goes_is_looked_at_first(
    pair: tuple[str, str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("compared in vain")

    monkeypatch.setattr("memtrace.cli.diff.make_diff", never)
    Path("page.html").write_text("mine")
    assert "page.html exists" in run(capfd, *pair, "-o", "page.html", status=1)[1]
    assert "name a file" in run(capfd, *pair, "-o", "-", status=1)[1]
    assert not Path("-").exists()


def test_json_has_every_owner(pair: tuple[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capfd, *pair, "--by", "source", "--json", "--top", "1")
    document = json.loads(out)
    (device,) = document["devices"]
    assert (document["a"], document["b"]) == pair
    changes = device["peak"]["changes"]["source"]
    assert [change["key"] for change in changes] == ["m.py:12 forward", "m.py:3 load"]
    assert (changes[0]["was"], changes[0]["status"]) == ("m.py:10 forward", "grown")
    assert [step["a_steps"] for step in device["steps"]] == [2]
    assert [end["name"] for end in device["stage_ends"]] == ["idle"]


def test_top_and_other_programs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a = serving_trace(tmp_path / "a.memtrace")
    b = failing_trace(tmp_path / "b.memtrace")
    out, _ = run(capfd, a, b, "--by", "module", "--top", "2")
    assert "more that changed" in out
    assert "only in A: stage load, stage serve" in out
    assert "only in B: unknown steps" in out
    assert "cpu: only in A (" in out


def test_the_page(pair: tuple[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    out, _ = run(capfd, *pair, "-o", page)
    assert out.endswith(f"{page}: open it in a browser\n")
    assert page.read_text().startswith("<!doctype html>")
    before = page.read_bytes()
    out, err = run(capfd, *pair, "-o", page, status=1)
    assert (out, page.read_bytes()) == ("", before)
    assert "exists: choose another name with -o, or give --force" in err
    # The page is there for whoever looks why it failed; JSON on stdout stays JSON.
    words = ("-o", page, "--force", "--json", "--fail-if-peak-grows", "0%")
    out, _ = run(capfd, *pair, *words, status=1)
    (device,) = json.loads(out)["devices"]
    assert list(device["peak"]["changes"]) == ["category"]  # the page has more
    assert "m.py:12 forward" in page.read_text()
    assert "more than 0% allowed" in page.read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--by", "step"], "'step' is not one of 'category'"),
        (["--fail-if-peak-grows", "much"], "write a share (2%) or a size (100MiB)"),
        (["--device", "cuda:7"], "no memory of cuda:7 in either trace; they have cuda:0"),
        (["--top", "0"], "--top"),
    ],
)
def test_errors_are_one_line(
    words: list[str], told: str, pair: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    out, err = run(capfd, *pair, *words, status=1)
    assert out == ""
    (line,) = err.splitlines()
    assert told in line


def test_either_trace_may_be_none(
    pair: tuple[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    absent = tmp_path / "no.memtrace"
    builder = TraceBuilder(tmp_path / "empty.memtrace")
    builder.process(torch_version=None)
    empty = builder.write()
    for bad, told in ((absent, "no such trace"), (empty, "never imported torch")):
        for words in ((pair[0], bad), (bad, pair[0])):
            out, err = run(capfd, *words, status=1)
            assert out == ""
            (line,) = err.splitlines()
            assert told in line
