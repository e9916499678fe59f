"""Opening a trace: what is read, and one clear line for everything that cannot be."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import memtrace
from memtrace.dataset import Part, row_groups_of
from memtrace.dataset_writer import PartWriter
from memtrace.errors import MemtraceError
from memtrace.report.losses import paused_text
from memtrace.schema import SCHEMAS
from memtrace.trace import device_order, open_trace
from trace_builder import ORIGIN_NS, TraceBuilder, serving_trace, write_dataset


@pytest.fixture
def serving(tmp_path: Path) -> Path:
    return serving_trace(tmp_path / "serve.memtrace")


def test_tables_have_the_columns_of_the_format_and_the_process(serving: Path) -> None:
    trace = open_trace(serving)
    for name, schema in SCHEMAS.items():
        table = getattr(trace, name)
        assert table.schema.names == [*schema.names, "process"]
        assert table.drop_columns("process").schema.equals(schema)
    assert trace.events.num_rows == 37
    assert set(trace.events.column("process").to_pylist()) == {"box-100-a100z"}
    assert trace.events.column("seq").to_pylist() == list(range(37))


def test_tables_are_read_once(serving: Path) -> None:
    trace = open_trace(serving)
    assert repr(trace) == f"<memtrace.Trace {str(serving)!r}: 1 process>"
    assert trace.allocations is trace.allocations


def test_processes_in_the_order_they_started(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(7, clock_origin_ns=ORIGIN_NS + 5, rank=1).alloc("cpu", 10)
    builder.process(99, clock_origin_ns=ORIGIN_NS, rank=0).alloc("cuda:0", 10)
    trace = open_trace(builder.write())
    assert [process.pid for process in trace.process_list] == [99, 7]
    assert trace.devices == ["cuda:0", "cpu"]
    assert trace.devices_by_process["box-7-a7z"] == ["cpu"]


def test_devices_between_the_bounds_of_a_row_group_are_found(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    for device in ("cpu", "cuda:1", "cuda:10", "cuda:2"):
        process.alloc(device, 512)
    assert open_trace(builder.write()).devices == ["cuda:1", "cuda:2", "cuda:10", "cpu"]


def test_a_column_that_an_older_trace_lacks_is_null(serving: Path) -> None:
    for file in serving.glob("allocations/*/*.parquet"):
        pq.write_table(pq.ParquetFile(file).read().drop_columns(["phase", "source"]), file)
    trace = open_trace(serving)
    assert trace.allocations.column("phase").null_count == trace.allocations.num_rows
    assert trace.peak(by="source").breakdown.rows[0].kind == "unattributed"


def test_accelerators_come_first() -> None:
    assert sorted(["cpu", "cuda:10", "cuda:2"], key=device_order) == ["cuda:2", "cuda:10", "cpu"]


def refused(path: Path) -> str:
    with pytest.raises(MemtraceError) as error:
        open_trace(path).peak()
    line = str(error.value)
    assert "\n" not in line
    return line


def test_no_such_path(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.memtrace").endswith("no.memtrace: no such trace")


def test_a_file_is_not_a_trace(tmp_path: Path) -> None:
    file = tmp_path / "x.pickle"
    file.write_bytes(b"?")
    assert "a trace is a directory" in refused(file)


def test_another_directory_is_not_a_trace(tmp_path: Path) -> None:
    assert "is not a memtrace trace" in refused(tmp_path)
    (tmp_path / "processes").mkdir()
    for name in SCHEMAS:
        (tmp_path / name).mkdir(exist_ok=True)
    assert "'processes' has no file" in refused(tmp_path)


def test_a_newer_format_names_both_versions(tmp_path: Path) -> None:
    path = serving_trace(tmp_path / "x.memtrace", format_version=7)
    assert refused(path) == (
        "trace was written in format 7; this memtrace 0.1.0 reads up to 1: pip install -U memtrace"
    )


def test_a_newer_format_is_named_before_what_it_lacks(tmp_path: Path) -> None:
    path = serving_trace(tmp_path / "x.memtrace", format_version=7)
    shutil.rmtree(path / "segments")
    assert "format 7" in refused(path)


@pytest.mark.parametrize("name", sorted(SCHEMAS.keys() - {"processes"}))
def test_a_missing_dataset_is_named(serving: Path, name: str) -> None:
    shutil.rmtree(serving / name)
    assert f"lacks {name}" in refused(serving)


def test_a_missing_process_is_named(serving: Path) -> None:
    shutil.rmtree(serving / "events" / "process=box-100-a100z")
    (serving / "events" / "process=other").mkdir()
    assert "lacks events/process=box-100-a100z" in refused(serving)


def several_parts(path: Path, **row: object) -> Path:
    builder = TraceBuilder(path)
    for pid in (7, 8):
        process = builder.process(pid, **row)
        for size in range(1, 9):
            process.alloc("cpu", size)
            process.stack(size, ("f", "/x.py", size))
    return builder.write(parts=3)


@pytest.mark.parametrize(
    ("name", "rows"), [("events", "6 of the 8"), ("allocations", "6 of the 8"), ("stacks", "0 of")]
)
def test_a_missing_part_is_named(tmp_path: Path, name: str, rows: str) -> None:
    path = several_parts(tmp_path / "x.memtrace")
    max((path / name / "process=box-7-a7z").glob("*.parquet")).unlink()
    line = refused(path)
    assert f"has {rows}" in line
    assert f"of {name}/process=box-7-a7z: part of the trace was deleted or not copied" in line


def test_a_missing_row_of_a_process_is_named(tmp_path: Path) -> None:
    path = several_parts(tmp_path / "x.memtrace")
    next((path / "processes" / "process=box-8-a8z").iterdir()).unlink()
    assert "lacks the row of processes/process=box-8-a8z" in refused(path)
    shutil.rmtree(path / "processes" / "process=box-8-a8z")
    assert "lacks the row of processes/process=box-8-a8z" in refused(path)


def test_a_process_that_is_being_finished_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = several_parts(tmp_path / "x.memtrace")
    shutil.rmtree(path / "processes" / "process=box-8-a8z")
    (path / "spool" / "process=box-8-a8z").mkdir(parents=True)
    running = types.SimpleNamespace(
        keys=(), running=("box-8-a8z",), refused=(), cut_off=(), unsure=()
    )
    stub_recover(monkeypatch, lambda *_, **__: running)
    assert len(open_trace(path).process_list) == 1


def test_a_part_too_many_is_named(tmp_path: Path) -> None:
    path = several_parts(tmp_path / "x.memtrace")
    part = max((path / "events" / "process=box-7-a7z").glob("*.parquet"))
    shutil.copy(part, part.with_name("part-00009.parquet"))
    assert "has 10 rows in events/process=box-7-a7z, where 8 were written" in refused(path)


def test_an_older_trace_does_not_say_how_many_rows_it_has(tmp_path: Path) -> None:
    path = several_parts(tmp_path / "x.memtrace", dataset_rows=None)
    assert open_trace(path).peak("cpu").total_bytes == 36


@pytest.mark.parametrize(
    ("intervals", "peaks", "shown"),
    [
        ("[[0, 5000000000], [7000000000, null]]", '{"cuda:0": 2048}', ([(0, 5 * 10**9)], 2048)),
        ('[["0", 5], [1], [1, 2, 3], [true, 4], {}, 7]', '{"cuda:0": "2048"}', ([], None)),
        ('{"0": 1}', "[2048]", ([], None)),
        ("[[0, ", "{", ([], None)),
    ],
)
def test_pauses_that_make_no_sense_are_none(
    tmp_path: Path, intervals: str, peaks: str, shown: tuple[list[tuple[int, int]], int | None]
) -> None:
    path = several_parts(tmp_path / "x.memtrace", paused_intervals=intervals, paused_peaks=peaks)
    process = open_trace(path).process_list[0]
    assert process.paused_intervals[:1] == shown[0]
    assert process.paused_peaks.get("cuda:0") == shown[1]
    assert ("recording was paused" in paused_text(process)) == bool(shown[0])


@pytest.mark.parametrize("name", sorted(SCHEMAS))
@pytest.mark.parametrize("keep", [0, 3, 0.5, -1])
def test_a_truncated_file_is_named(serving: Path, name: str, keep: float) -> None:
    file = next(serving.glob(f"{name}/*/*.parquet"))
    size = file.stat().st_size
    os.truncate(file, int(size * keep) if 0 < keep < 1 else int(keep) if keep >= 0 else size - 1)
    line = refused(serving)
    assert "truncated or damaged" in line
    assert file.name in line


@pytest.mark.parametrize(
    ("dataset", "column", "values"),
    [
        ("events", "seq", pa.array(["one"])),
        ("allocations", "category", pa.array([7])),
        ("names", "shape", pa.array([["2"]])),
        ("events", "device", pa.nulls(1, pa.string())),
        ("segments", "size_bytes", pa.nulls(1, pa.int64())),
    ],
)
def test_a_column_of_another_kind_is_damage(
    serving: Path, dataset: str, column: str, values: pa.Array
) -> None:
    folder = next((serving / dataset).iterdir())
    table = pa.table({column: values})
    pq.write_table(table, folder / "part-00000.parquet", store_schema=False)
    for file in folder.glob("part-*1.parquet"):
        file.unlink()
    with pytest.raises(MemtraceError, match=r"part-00000\.parquet is truncated or damaged"):
        open_trace(serving)


def test_a_column_that_no_trace_lacks(serving: Path) -> None:
    (file, *_) = next((serving / "allocations").iterdir()).iterdir()
    table = pq.read_table(file, partitioning=None)
    pq.write_table(table.drop_columns(["size_bytes"]), file, store_schema=False)
    with pytest.raises(MemtraceError, match="is truncated or damaged"):
        open_trace(serving)


def test_a_negative_size(serving: Path) -> None:
    (file, *_) = next((serving / "allocations").iterdir()).iterdir()
    table = pq.read_table(file, partitioning=None)
    sizes = pa.array([-1] * table.num_rows, pa.int64())
    place = table.column_names.index("size_bytes")
    pq.write_table(table.set_column(place, "size_bytes", sizes), file, store_schema=False)
    with pytest.raises(MemtraceError, match="is truncated or damaged"):
        open_trace(serving)


def test_a_flipped_bit_in_a_page_is_never_another_figure(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.parquet"
    rows = pa.table(
        {name: pa.array(range(1000), pa.int64()) for name in ("allocation_id", "since_seq")}
    )
    with PartWriter(path, "names", rows.schema) as writer:
        writer.write(rows)
    whole = path.read_bytes()
    refused = 0
    end_of_pages = len(whole) - int.from_bytes(whole[-8:-4], "little") - 8
    for at in range(4, end_of_pages, 97):
        flipped = bytearray(whole)
        flipped[at] ^= 4
        path.write_bytes(flipped)
        (group,) = row_groups_of([Part("names", path)])
        try:
            assert group.read(["allocation_id", "since_seq"]).equals(rows)
        except MemtraceError:
            refused += 1
    assert refused > 10


def test_a_damaged_middle_is_one_line_too(serving: Path) -> None:
    file = next(serving.glob("events/*/*.parquet"))
    data = bytearray(file.read_bytes())
    data[4 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4)
    file.write_bytes(data)
    assert "truncated or damaged" in refused(serving)


@contextmanager
def as_another_user() -> Iterator[None]:
    """Root may read everything: it is nobody for a while. Others only lose their own permission."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("closed", ["the trace", "its folder"])
def test_another_users_trace(serving: Path, monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    folder = serving.parent
    monkeypatch.chdir(folder)  # the folders above it are closed to others as well
    folder.chmod(0o711 if closed == "the trace" else 0)
    serving.chmod(0)
    try:
        with as_another_user():
            assert "permission denied" in refused(Path(serving.name))
    finally:
        folder.chmod(0o700)
        serving.chmod(0o700)


@pytest.mark.parametrize("closed", ["stacks", "events/process=box-100-a100z"])
def test_a_part_of_a_trace_that_may_not_be_read(
    serving: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    monkeypatch.chdir(serving.parent)
    serving.parent.chmod(0o711)
    for entry in (serving, *serving.rglob("*")):  # of another user, who may read it
        entry.chmod(0o755)
    (serving / closed).chmod(0)
    try:
        with as_another_user():
            line = refused(Path(serving.name))
        assert f"{closed}: permission denied" in line
    finally:
        (serving / closed).chmod(0o700)
        serving.parent.chmod(0o700)


def stub_recover(monkeypatch: pytest.MonkeyPatch, recover: Callable[..., object]) -> None:
    """Opening is tested here; finalising has its own tests, and needs the native module."""
    module = types.ModuleType("memtrace.finalise")
    module.recover = recover  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "memtrace.finalise", module)
    monkeypatch.setattr(memtrace, "finalise", module, raising=False)


def test_the_spool_of_a_killed_process_is_finished_first(
    serving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "box-200-b"
    (serving / "spool" / f"process={key}").mkdir(parents=True)

    def recover(trace_dir: Path, **_: object) -> types.SimpleNamespace:
        for name in SCHEMAS:
            rows = pa.Table.to_pylist(open_rows(trace_dir, name))
            write_dataset(trace_dir, name, key, rows)
        shutil.rmtree(trace_dir / "spool")
        return types.SimpleNamespace(keys=(key,), running=(), refused=(), cut_off=(), unsure=())

    stub_recover(monkeypatch, recover)
    trace = open_trace(serving)
    assert len(trace.process_list) == 2
    assert trace.running == ()


def open_rows(trace_dir: Path, name: str) -> pa.Table:
    return pq.ParquetFile(next(trace_dir.glob(f"{name}/process=box-100*/*.parquet"))).read()


def test_a_trace_that_cannot_be_written_to_is_finished_elsewhere(
    serving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (serving / "spool" / "process=box-200-b").mkdir(parents=True)
    places: list[Path] = []

    def recover(trace_dir: Path, into: Path, **_: object) -> types.SimpleNamespace:
        places.append(into)
        for name in SCHEMAS:
            write_dataset(into, name, "box-200-b", open_rows(trace_dir, name).to_pylist())
        return types.SimpleNamespace(
            keys=("box-200-b",), running=(), refused=(), cut_off=(), unsure=()
        )

    stub_recover(monkeypatch, recover)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    before = sorted(serving.rglob("*"))
    trace = open_trace(serving)
    assert len(trace.process_list) == 2
    assert trace.events.num_rows == 2 * 37
    assert sorted(serving.rglob("*")) == before
    assert places[0].exists()
    del trace
    gc.collect()
    assert not places[0].exists()


def test_a_process_that_still_runs_is_stated(
    serving: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (serving / "spool" / "process=some-host-4242-b").mkdir(parents=True)
    result = types.SimpleNamespace(
        keys=(), running=("some-host-4242-b",), refused=("bad",), cut_off=(), unsure=()
    )
    stub_recover(monkeypatch, lambda *_, **__: result)
    assert open_trace(serving).running == ("some-host-4242-b",)
    said = capsys.readouterr().err
    assert "memtrace: process 4242 is still running" in said
    assert "memtrace: bad: this process is left out\n" in said
    for name in SCHEMAS:
        shutil.rmtree(serving / name)
    assert "still running" in refused(serving)
    assert "still running" not in capsys.readouterr().err  # said once: in the error


EVERY_BIT = """
import sys
from pathlib import Path
from memtrace.dataset import Part
from memtrace.errors import MemtraceError
source, damaged = Path(sys.argv[1]), Path(sys.argv[2])
data = bytearray(source.read_bytes())
footer_bytes = int.from_bytes(data[-8:-4], "little")
refused = 0
for at in range(len(data) - 8 - footer_bytes, len(data) - 8):
    for bit in range(8):
        data[at] ^= 1 << bit
        damaged.write_bytes(data)
        data[at] ^= 1 << bit
        try:
            Part("stages", damaged, mapped=False).metadata
        except MemtraceError:
            refused += 1
print(refused)
"""


def test_no_bit_of_a_footer_ends_the_process(serving: Path, tmp_path: Path) -> None:
    """pyarrow itself ends it for statistics of another type than their column's."""
    (part,) = (serving / "stages").rglob("*.parquet")
    done = subprocess.run(
        [sys.executable, "-c", EVERY_BIT, str(part), str(tmp_path / "part.parquet")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000
