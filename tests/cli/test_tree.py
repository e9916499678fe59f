"""memtrace tree: the terminal's tree, the pipe's, and the machine's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from memtrace.cli.main import group, main
from memtrace.cli.tree import ShareType
from trace_builder import failing_trace, serving_trace

MIB = 2**20


@pytest.fixture
def serving(tmp_path: Path) -> Path:
    return serving_trace(tmp_path / "serve.memtrace")


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(group, ["tree", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_tree(serving: Path) -> None:
    assert invoke(serving, "--min", "5").splitlines() == [
        "Allocated memory on cuda:0 at its peak: 123.0 MiB (128,979,968 bytes)",
        "  203.000 ms, event 24 of process 100",
        "  19 live blocks, by module → operator → source",
        "",
        "                                   Size    Share  Blocks",
        "cuda:0                        123.0 MiB  100.0 %      19",
        "├─ (outside any module)       96.00 MiB   78.0 %       7",
        "│  ├─ aten::to                96.00 MiB   78.0 %       6",
        "│  │  └─ load.py:12 load      96.00 MiB   78.0 %       6",
        "│  └─ (outside any operator)   5.00 KiB    0.0 %       1",
        "└─ h                          27.00 MiB   22.0 %      12",
        "   ├─ 5                        7.00 MiB    5.7 %       2",
        "   └─ 5 smaller               20.00 MiB   16.3 %      10",
        "",
        "--min SHARE shows more or less",
    ]
    whole = invoke(serving, "--min", "0")
    assert "smaller" not in whole
    assert "shows more" not in whole


def test_titles_say_what_the_tree_is_of(serving: Path) -> None:
    for words, title in (
        (["--time", "100ms"], "Allocated memory on cuda:0 at 100.000 ms: 96.00 MiB"),
        (["--time", "0"], "Allocated memory on cuda:0 at 0 ns: 0 bytes"),
        (["--stage", "load"], "Allocated memory on cuda:0 at the peak of stage load: 96.00 MiB"),
        (["--of", "reserved"], "Reserved memory on cuda:0 at its peak: 184.0 MiB"),
        (["--allocated"], "All memory allocated on cuda:0: 123.0 MiB"),
        (["--allocated", "--of", "requested"], "All memory requested on cuda:0: 123.0 MiB"),
        (["--allocated", "--stage", "load"], "All memory allocated on cuda:0 in stage load: 96.00"),
        (["--temporary", "--within", "100"], "Temporary memory on cuda:0: 21.00 MiB"),
        (["--temporary"], "Temporary memory on cuda:0: 0 bytes"),
        (["--device", "cpu"], "Allocated memory on cpu at its peak: 3.00 MiB"),
    ):
        assert invoke(serving, *words).startswith(title)


def test_what_temporary_means_is_said(serving: Path) -> None:
    assert "  freed before more than 100 others were allocated: the sum of all such" in invoke(
        serving, "--temporary", "--within", "100"
    )
    assert "freed before the next allocation" in invoke(serving, "--temporary", "--within", "0")
    assert "freed within the step" in invoke(serving, "--temporary", "--within", "step")
    told = invoke("--help")
    assert "0: before the next one" in " ".join(told.split())


def test_json_is_exact_and_whole(serving: Path) -> None:
    document = json.loads(invoke(serving, "--json", "--by", "stack"))
    assert document["by"] == ["stack", "operator"]
    assert document["total_bytes"] == document["tree"]["bytes"] == 123 * MIB + 5120

    def check(node: dict[str, object]) -> int:
        children = node["children"]
        assert isinstance(children, list)
        total = node["bytes"]
        assert isinstance(total, int)
        assert not children or sum(map(check, children)) == total
        return total

    assert check(document["tree"]) == document["total_bytes"]
    temporary = json.loads(invoke(serving, "--json", "--temporary", "--within", "100"))
    assert temporary["within"] == "freed before more than 100 others were allocated"
    assert (temporary["seq"], temporary["blocks"]) == (None, 6)


def test_columns_of_ones_own(serving: Path) -> None:
    text = invoke(serving, "--by", "category,label")
    assert "├─ weight" in text
    assert "by category → label" in text


def test_in_letters_that_the_terminal_has(serving: Path) -> None:
    result = CliRunner(charset="ascii").invoke(group, ["tree", str(serving)])
    assert "`- 5 smaller" in result.stdout or "|- " in result.stdout
    assert "├" not in result.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--by", "colour"], "no tree by 'colour': give modules, stack, operator"),
        (["--allocated", "--temporary"], "give one of the two"),
        (["--within", "call"], "--within says what --temporary means"),
        (["--temporary", "--within", "soon"], "write call, step, or a number of allocations"),
        (["--temporary", "--within", "-1"], "write call, step, or a number of allocations"),
        (["--time", "1s", "--stage", "load"], "a time or a stage"),
        (["--time", "1h"], "is not a time"),
        (["--time", "99s"], "not within the recording"),
        (["--allocated", "--of", "active"], "not in active ones"),
        (["--stage", "x"], "has no stage 'x'; it has load, serve"),
        (["--min", "2MiB"], "is not a share"),
        (["--min", "101%"], "is not a share"),
        (["--device", "cuda:7"], "no memory of cuda:7"),
        (["--process", "9"], "no process 9"),
    ],
)
def test_errors_are_one_line(
    words: list[str], told: str, serving: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in ("tree", "flamegraph"):
        if command == "flamegraph" and "--min" in words:
            continue
        before = sorted(Path().glob("*.html"))
        assert main([command, str(serving), *words]) == 1
        out, err = capfd.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert told in line
        assert sorted(Path().glob("*.html")) == before


def test_without_stages(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = failing_trace(tmp_path / "x.memtrace")
    assert main(["tree", str(path), "--stage", "x"]) == 1
    assert "has no stage 'x'; it has none" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "permille"),
    [("1%", 10), ("0.5 %", 5), ("2", 20), ("0", 0), ("100%", 1000), ("12.3", 123)],
)
def test_shares(text: str, permille: int) -> None:
    assert ShareType()(text) == permille
