"""`--max-disk`: rows go, the smallest of the oldest; totals, peaks and who held them stay."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from finalise.recorded_spools import all_rows, copied, leave_spool
from memtrace.dataset_writer import PartWriter
from memtrace.errors import MemtraceError
from memtrace.export.chrome import write_chrome
from memtrace.finalise import finalise, process_files
from memtrace.finalise.compaction import Compaction
from memtrace.finalise.thinning import Thinner
from memtrace.outputs import OUTPUTS, OutputSpec, Selection
from memtrace.replay.requests import read_requests
from memtrace.schema import SCHEMAS
from memtrace.trace import open_trace
from program_runs import memtrace as run_memtrace

TRAINING = Path(__file__).parents[1] / "programs" / "compaction" / "training.py"
_LIMIT_BYTES = 4 << 20  # of a trace that else takes some 8 MiB, and meanwhile as much again


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return leave_spool(tmp_path_factory.mktemp("spool") / "t.memtrace", TRAINING, "900")


@contextmanager
def compacted(spool: Path, trace: Path, *, sharers: int = 1) -> Iterator[Compaction]:
    """All that was recorded, in small parts, and so much of it left as the limit allows."""
    with pytest.MonkeyPatch.context() as patch:
        for name, rows in (("BATCH_ROWS", 4096), ("PART_ROWS", 8192), ("_OTHER_PART_ROWS", 16384)):
            patch.setattr(process_files, name, rows)
        patch.setattr("memtrace.finalise.compaction.BATCH_ROWS", 4096)
        patch.setattr("memtrace.finalise.compaction.PART_ROWS", 8192)
        compaction = Compaction(key_of(spool), spool, trace, max_disk_bytes=_LIMIT_BYTES)
        while not compaction.step(sharers=sharers):
            pass
        yield compaction


def key_of(spool: Path) -> str:
    return spool.name.partition("=")[2]


@pytest.fixture(scope="module")
def traces(spool: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return whole_and_thinned(spool, tmp_path_factory.mktemp("thinning"))


def whole_and_thinned(spool: Path, folder: Path) -> tuple[Path, Path]:
    """The same recording, both ways."""
    whole, thinned = folder / "whole.memtrace", folder / "thinned.memtrace"
    copied(spool, whole)
    finalise(whole)
    with compacted(copied(spool, thinned), thinned) as compaction:
        finalise(thinned, compactions={key_of(spool): compaction})
    return whole, thinned


@pytest.fixture(scope="module")
def rows(traces: tuple[Path, Path]) -> tuple[dict[str, pa.Table], dict[str, pa.Table]]:
    return all_rows(traces[0]), all_rows(traces[1])


def dropped_of(rows: dict[str, pa.Table]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(rows["processes"]["dropped"][0].as_py())
    return value


def test_processes_share_what_rows_have_at_least(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What there is besides leaves them no more than that."""
    place = copied(spool, tmp_path)
    (tmp_path / "spool" / "besides").write_bytes(b"x" * 2 * _LIMIT_BYTES)
    asked: list[int] = []
    monkeypatch.setattr(Thinner, "thin", lambda _, bytes_to_free: asked.append(bytes_to_free))
    with compacted(place, tmp_path) as compaction:
        for sharers in (1, 2, 4):
            compaction.step(sharers=sharers)
        compaction.abandon()
    quarter = _LIMIT_BYTES // 4
    assert asked[-2] - asked[-3] == quarter // 2
    assert asked[-1] - asked[-2] == quarter // 4


def test_it_fits_and_says_what_is_not_there(
    traces: tuple[Path, Path], rows: tuple[dict[str, pa.Table], dict[str, pa.Table]]
) -> None:
    whole, thinned = rows
    used = sum(path.stat().st_size for path in traces[1].rglob("*.parquet"))
    assert used < _LIMIT_BYTES
    assert used < 0.8 * sum(path.stat().st_size for path in traces[0].rglob("*.parquet"))
    dropped = dropped_of(thinned)
    assert dropped["max_disk_bytes"] == _LIMIT_BYTES
    for name in ("allocations", "events", "operators", "names"):
        assert whole[name].num_rows - thinned[name].num_rows == dropped[name], name
    assert dropped["allocations"] > 1000
    open_trace(traces[1])  # each dataset has the rows it says


def test_totals_are_those_of_all_events(
    rows: tuple[dict[str, pa.Table], dict[str, pa.Table]],
) -> None:
    whole, thinned = rows
    for column in whole["processes"].column_names:
        if column not in ("dropped", "dataset_rows"):
            assert thinned["processes"][column] == whole["processes"][column], column
    for name in ("segments", "stacks", "steps", "marks", "samples"):
        assert thinned[name] == whole[name], name
    curves = [
        table.filter(pc.not_equal(table["metric"], "category"))
        for table in (whole["timeline"], thinned["timeline"])
    ]
    assert curves[0] == curves[1]
    for metric in ("allocated_bytes", "active_bytes", "reserved_bytes"):
        assert pc.max(thinned["events"][metric]) == pc.max(whole["events"][metric])


def test_rows_that_stay_are_as_they_were(
    rows: tuple[dict[str, pa.Table], dict[str, pa.Table]],
) -> None:
    whole, thinned = rows
    for name, key in (
        ("events", "seq"),
        ("operators", "call_id"),
        ("allocations", "allocation_id"),
    ):
        kept = pc.is_in(whole[name][key], value_set=thinned[name][key].combine_chunks())
        assert whole[name].filter(kept).sort_by(key) == thinned[name].sort_by(key), name


def test_calls_stay_as_long_as_an_event_of_theirs(
    rows: tuple[dict[str, pa.Table], dict[str, pa.Table]],
) -> None:
    """Also of those whose other events are in another part."""
    whole, thinned = rows
    named = thinned["events"]["operator_call_id"].drop_null().unique()
    known = named.filter(pc.is_in(named, value_set=whole["operators"]["call_id"].combine_chunks()))
    assert len(known) > 1000
    kept = thinned["operators"]["call_id"].combine_chunks()
    assert pc.all(pc.is_in(known, value_set=kept)).as_py()


def test_a_call_stays_for_an_event_in_a_part_that_is_not_rewritten(tmp_path: Path) -> None:
    """The call 20 makes one of the last allocations of a part, and the first one of the next."""
    written: dict[str, list[Path]] = {}

    def part(dataset: str, made: list[dict[str, Any]]) -> None:
        paths = written.setdefault(dataset, [])
        paths.append(tmp_path / f"{dataset}-{len(paths)}.parquet")
        with PartWriter(paths[-1], dataset, SCHEMAS[dataset]) as writer:
            writer.write(pa.Table.from_pylist(made, schema=SCHEMAS[dataset]))

    calls = {number: number for number in range(1, 9)} | {6: 20, 8: 20}
    totals = dict.fromkeys(("allocated_bytes", "active_bytes", "reserved_bytes"), 64)
    for ids in (range(1, 8), range(8, 9)):
        part("allocations", [
            {"allocation_id": i, "device": "cpu", "origin": "recorded", "size_bytes": 64,
             "block_bytes": 64, "alloc_seq": 10 * i, "alloc_time_ns": 10 * i,
             "release_seq": 10 * i + 1}
            for i in ids
        ])  # fmt: skip
        part("events", [
            {"seq": 10 * i + place, "action": action, "allocation_id": i, "time_ns": 10 * i,
             "operator_call_id": calls[i], "device": "cpu", **totals}
            for i in ids
            for place, action in enumerate(("alloc", "free_requested"))
        ])  # fmt: skip
    part("operators", [
        {"call_id": call, "start_ns": 10, "end_ns": 20, "allocated_bytes": 64, "freed_bytes": 0}
        for call in sorted(set(calls.values()))
    ])  # fmt: skip
    thinner = Thinner(lambda dataset: written.get(dataset, []))
    for _ in range(3):
        thinner.thin(1 << 20)
    left = {name: pa.concat_tables(map(pq.read_table, paths)) for name, paths in written.items()}
    assert thinner.dropped.rows["allocations"] > 3
    assert 6 not in left["allocations"]["allocation_id"].to_pylist()
    assert 20 in left["events"]["operator_call_id"].to_pylist()
    assert 20 in left["operators"]["call_id"].to_pylist()
    assert thinner.dropped.rows["operators"] > 3


def test_the_newest_and_the_largest_stay(
    rows: tuple[dict[str, pa.Table], dict[str, pa.Table]],
) -> None:
    whole, thinned = rows
    largest = dropped_of(thinned)["largest_bytes"]
    gone = pc.invert(
        pc.is_in(
            whole["allocations"]["allocation_id"],
            value_set=thinned["allocations"]["allocation_id"].combine_chunks(),
        )
    )
    gone_rows = whole["allocations"].filter(gone)
    assert pc.max(gone_rows["block_bytes"]).as_py() == largest
    seqs = sorted(gone_rows["alloc_seq"].to_pylist())
    middle = whole["events"].num_rows / 2
    older = sum(seq < middle for seq in seqs)
    assert older > 0.6 * len(seqs)
    # Events of an allocation go with its row.
    ids = gone_rows["allocation_id"].combine_chunks()
    assert not pc.any(pc.is_in(thinned["names"]["allocation_id"], value_set=ids)).as_py()


def test_who_held_the_peak_is_known_to_the_byte(traces: tuple[Path, Path]) -> None:
    answers = [json.loads(run_memtrace("peak", str(trace), "--json").out) for trace in traces]
    for answer in answers:
        for key in ("trace", "path", "dropped_allocations"):
            answer.pop(key, None)
    text = [json.dumps(answer, sort_keys=True) for answer in answers]
    assert text[0].replace(str(traces[0]), "T") == text[1].replace(str(traces[1]), "T")


def test_what_stages_held_at_most_and_at_their_end_is_exact(traces: tuple[Path, Path]) -> None:
    """Those of the program, and those that are found afterwards: load, idle, training."""
    check_stages(traces)


def test_a_load_that_ends_with_weights_which_do_not_stay(tmp_path: Path) -> None:
    """They are small, old and long gone when rows go: they tell where the stage ends."""
    spool = leave_spool(tmp_path / "t.memtrace", TRAINING, "900", "first")
    check_stages(whole_and_thinned(spool, tmp_path))


def check_stages(traces: tuple[Path, Path]) -> None:
    told = [json.loads(run_memtrace("stages", str(trace), "--json").out) for trace in traces]
    stages = [answer["devices"][0]["stages"] for answer in told]
    assert {stage["name"] for stage in stages[0]} >= {"load", "idle", "training", "stage 1"}
    for whole, thinned in zip(*stages, strict=True):
        for moment in ("peak", "end"):
            held = [
                [line["bytes"] for line in stage[moment]["lines"] if line["name"] == "tensors"]
                for stage in (whole, thinned)
            ]
            assert held[0] == held[1], (whole["name"], moment)


def test_a_peak_that_only_all_rows_give_is_refused(traces: tuple[Path, Path]) -> None:
    shown = run_memtrace("peak", str(traces[1]), "--of", "requested")
    assert shown.status == 1
    assert b"the peak of what was requested is not known" in shown.err
    assert shown.err.count(b"\n") == 1


@pytest.mark.parametrize("command", ["summary", "peak", "tree", "stages", "leaks", "diff"])
def test_every_answer_says_it(traces: tuple[Path, Path], command: str) -> None:
    more = [str(traces[1])] if command == "diff" else []
    shown = run_memtrace(command, str(traces[1]), *more)
    assert shown.status == 0
    assert b"left out to stay within --max-disk 4.00 MiB" in shown.out


def test_sums_over_time_are_told_as_bounds(traces: tuple[Path, Path], tmp_path: Path) -> None:
    for how in ("--allocated", "--temporary"):
        shown = run_memtrace("tree", str(traces[1]), how).out
        assert b": at least " in shown.splitlines()[0]
        assert b"MiB: the sums here lack them" in shown
        assert b"at least" not in run_memtrace("tree", str(traces[0]), how).out
    to = str(tmp_path / "x.html")
    page = run_memtrace("flamegraph", str(traces[1]), "--allocated", "-o", to).out
    assert b", at least " in page
    assert b"; bytes per step lack them" in run_memtrace("diff", *map(str, traces)).out


def test_json_has_how_many_are_left_out(
    traces: tuple[Path, Path], rows: tuple[dict[str, pa.Table], dict[str, pa.Table]]
) -> None:
    whole, thinned = map(str, traces)
    number = {"dropped_allocations": dropped_of(rows[1])["allocations"]}
    diff = json.loads(run_memtrace("diff", whole, thinned, "--json").out)["devices"][0]
    assert "dropped_allocations" not in diff["a"]
    assert number.items() <= diff["b"].items()
    for command in ("tree", "peak", "stages", "leaks"):
        assert number.items() <= json.loads(run_memtrace(command, thinned, "--json").out).items()
    summary = json.loads(run_memtrace("summary", thinned, "--json").out)
    assert number.items() <= summary["processes"][0].items()


@pytest.mark.parametrize("spec", OUTPUTS, ids=lambda spec: spec.name)
def test_every_export_says_it(traces: tuple[Path, Path], tmp_path: Path, spec: OutputSpec) -> None:
    for trace, said in zip(traces, (0, 1), strict=True):
        to = str(tmp_path / f"{said}{spec.suffix}")
        shown = run_memtrace("export", str(trace), "--to", spec.name, "-o", to)
        assert shown.err.count(b" left out to stay within --max-disk 4.00 MiB: totals") == said


def test_a_snapshot_of_it_has_no_memory_that_never_goes(
    traces: tuple[Path, Path], tmp_path: Path
) -> None:
    """Its readers add up single allocations: the peak, of which all are there, is exact."""
    snapshot, again = str(tmp_path / "x.pickle"), str(tmp_path / "x.memtrace")
    shown = run_memtrace("export", str(traces[1]), "--to", "snapshot", "-o", snapshot)
    assert b"its curve lacks those" in shown.err
    assert run_memtrace("import", snapshot, "-o", again).status == 0
    peaks = [open_trace(trace).peak("cpu").total_bytes for trace in (traces[1], again)]
    assert peaks[0] == peaks[1]


def test_a_chrome_trace_of_it_has_the_allocations_that_are_left(
    traces: tuple[Path, Path], rows: tuple[dict[str, pa.Table], dict[str, pa.Table]]
) -> None:
    out = io.BytesIO()
    write_chrome(open_trace(traces[1]), Selection(), out)
    told = [e["args"] for e in json.loads(out.getvalue())["traceEvents"] if e["name"] == "[memory]"]
    left = [
        row
        for row in rows[1]["allocations"].to_pylist()
        if row["origin"] == "recorded" and row["block_bytes"]
    ]
    born = sorted((row["address"], row["block_bytes"]) for row in left)
    freed = sorted((row["address"], -row["block_bytes"]) for row in left if row["free_seq"])
    pairs = [(args["Addr"], args["Bytes"]) for args in told]
    assert sorted(pair for pair in pairs if pair[1] > 0) == born
    assert sorted(pair for pair in pairs if pair[1] < 0) == sorted(freed)


def test_it_can_be_attributed_again(traces: tuple[Path, Path], tmp_path: Path) -> None:
    again = tmp_path / "again.memtrace"
    shutil.copytree(traces[1], again)
    assert run_memtrace("attribute", str(again)).status == 0
    assert all_rows(again) == all_rows(traces[1])


def test_it_is_said_in_the_output_and_a_replay_is_refused(traces: tuple[Path, Path]) -> None:
    shown = run_memtrace("peak", str(traces[1]))
    said = b"out to stay within --max-disk 4.00 MiB: totals, peaks and ends of stages have them"
    assert said in shown.out
    assert b"left out" not in run_memtrace("peak", str(traces[0])).out
    with pytest.raises(MemtraceError, match="its requests cannot be replayed"):
        read_requests(open_trace(traces[1]))
