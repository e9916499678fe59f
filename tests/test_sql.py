"""SQL on a trace: a view for every dataset, one line for what DuckDB refuses, three forms."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import pytest

import memtrace
from memtrace.cli.main import main
from memtrace.errors import MemtraceError
from memtrace.schema import SCHEMAS
from memtrace.trace import Trace
from trace_builder import TraceBuilder


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    builder = TraceBuilder(tmp_path / "it's.memtrace")
    for pid in (7, 8):
        p = builder.process(pid=pid)
        p.free(p.alloc("cpu", 100 * pid, category="temporary", operator="aten::mm"))
        p.alloc("cpu", 5, category="weight")
    return builder.write()


@pytest.fixture
def trace(path: Path) -> Trace:
    return memtrace.open(path)


def test_every_dataset_is_a_view_with_its_columns_and_the_process(trace: Trace) -> None:
    for name, schema in SCHEMAS.items():
        found = trace.sql(f"select * from {name}")
        assert found.column_names == [*schema.names, "process"]
        assert found.num_rows == trace.datasets[name].num_rows()
        for field in schema:
            assert found.schema.field(field.name).type == field.type


def test_rows_of_all_processes(trace: Trace) -> None:
    found = trace.sql(
        "select process, sum(size_bytes) as bytes from allocations group by 1 order by 1"
    )
    assert found.to_pylist() == [
        {"process": "box-7-a7z", "bytes": 705},
        {"process": "box-8-a8z", "bytes": 805},
    ]


@pytest.mark.parametrize(
    "name", ["device=cuda", "process=7", "step=100", "a*b", "b[1]", "q?", "c]", "d\\e", "f{g,h}"]
)
def test_any_name_of_a_folder_above(path: Path, trace: Trace, name: str) -> None:
    expected = [trace.sql(f"select * from {each} order by all").to_pylist() for each in SCHEMAS]
    folder = path.parent / name / "deeper"
    shutil.copytree(path, folder / path.name)
    for other in ("axb", "b1", "qq"):  # which such a name fits, as a pattern
        (path.parent / other / "deeper").mkdir(parents=True)
        builder = TraceBuilder(path.parent / other / "deeper" / path.name)
        builder.process(pid=7).alloc("cpu", 3)
        builder.write()
    moved = memtrace.open(folder / path.name)
    assert [
        moved.sql(f"select * from {each} order by all").to_pylist() for each in SCHEMAS
    ] == expected


def test_a_column_that_an_older_trace_lacks_is_null(path: Path) -> None:
    import pyarrow.parquet as pq

    from memtrace.dataset_writer import PartWriter

    for file in path.glob("stacks/*/*.parquet"):
        table = pq.ParquetFile(file).read().drop_columns(["source"])
        file.unlink()
        with PartWriter(file, "stacks", table.schema) as writer:
            writer.write(table)
    found = memtrace.open(path).sql("select source from stacks")
    assert str(found.schema.field("source").type) == "string"


def test_sums_are_plain_numbers(trace: Trace) -> None:
    found = trace.sql("select sum(size_bytes) as a, 0.5 as b, sum(10::hugeint ** 30) as c "
                      "from allocations")  # fmt: skip
    assert [str(kind) for kind in found.schema.types] == ["int64", "double", "double"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("selec 1", "SQL: Parser Error: syntax error"),
        ("select nothing from allocations", "nothing"),
        ("select * from nowhere", "nowhere"),
        ("", "gives no rows"),
        ("select cast('x' as int)", "Conversion Error"),
    ],
)
def test_what_is_refused_is_one_line(
    path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    assert main(["sql", str(path), text]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert "^" not in error


def test_without_duckdb_the_line_names_the_extra(
    trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MemtraceError, match=r"pip install 'memtrace\[sql\]'"):
        trace.sql("select 1")


QUERY = "select device, category, size_bytes, free_seq, 0.5 as half from allocations order by 3"


def test_forms(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", str(path), QUERY, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[-1] == {
        "device": "cpu", "category": "temporary", "size_bytes": 800, "free_seq": 1, "half": 0.5,
    }  # fmt: skip
    assert rows[0]["free_seq"] is None
    assert main(["sql", str(path), QUERY, "--csv"]) == 0
    read = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert read[-1]["size_bytes"] == "800"
    assert read[0]["free_seq"] == ""
    assert main(["sql", QUERY]) == 0  # the newest trace of the directory
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["device", "category", "size_bytes", "free_seq", "half"]
    assert lines[-1].split() == ["cpu", "temporary", "800", "1", "0.5"]


def test_what_json_has_not_is_null(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", str(path), "select 'nan'::double as a, [1, 2] as b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"a": None, "b": [1, 2]}]


def test_columns_that_share_a_name(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'select 1 as "a", 2 as "a", 3 as "a_1", 4 as "a"'
    assert main(["sql", str(path), text, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}]


def test_a_query_that_begins_with_a_comment(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", str(path), "-- one\nselect 1 as a", "--csv"]) == 0
    assert capsys.readouterr().out == "a\n1\n"
    assert main(["sql", "--csv", str(path), "--one\nselect 1 as a"]) == 0
    assert capsys.readouterr().out == "a\n1\n"
    assert main(["sql", str(path), "select 1", "--jsno"]) == 1
    assert "No such option '--jsno'" in capsys.readouterr().err


def test_a_trace_without_a_query(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", str(path)]) == 1
    assert f"which query? memtrace sql {path} " in capsys.readouterr().err


def test_more_words_than_two(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", str(path), "select", "1"]) == 1
    assert "between quotes" in capsys.readouterr().err
