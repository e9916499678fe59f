"""`--max-disk`: rows go, the smallest of the oldest; totals, peaks and who held them stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from finalise.recorded_spools import all_rows, copied, leave_spool
from memtrace.errors import MemtraceError
from memtrace.finalise import finalise, process_files
from memtrace.finalise.compaction import Compaction
from memtrace.replay.requests import read_requests
from memtrace.trace import open_trace
from program_runs import memtrace as run_memtrace

TRAINING = Path(__file__).parents[1] / "programs" / "compaction" / "training.py"
_LIMIT_BYTES = 4 << 20  # of a trace that else takes some 8 MiB, and meanwhile as much again


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same recording, whole and thinned."""
    folder = tmp_path_factory.mktemp("thinning")
    spool = leave_spool(folder / "t.memtrace", TRAINING, "900")
    whole, thinned = folder / "whole.memtrace", folder / "thinned.memtrace"
    copied(spool, whole)
    finalise(whole)
    place = copied(spool, thinned)
    key = spool.name.partition("=")[2]
    with pytest.MonkeyPatch.context() as patch:
        for name, rows in (("BATCH_ROWS", 4096), ("PART_ROWS", 8192), ("_OTHER_PART_ROWS", 16384)):
            patch.setattr(process_files, name, rows)
        patch.setattr("memtrace.finalise.compaction.BATCH_ROWS", 4096)
        patch.setattr("memtrace.finalise.compaction.PART_ROWS", 8192)
        compaction = Compaction(key, place, thinned, max_disk_bytes=_LIMIT_BYTES)
        while not compaction.step():
            pass
        finalise(thinned, compactions={key: compaction})
    return whole, thinned


@pytest.fixture(scope="module")
def rows(traces: tuple[Path, Path]) -> tuple[dict[str, pa.Table], dict[str, pa.Table]]:
    return all_rows(traces[0]), all_rows(traces[1])


def dropped_of(rows: dict[str, pa.Table]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(rows["processes"]["dropped"][0].as_py())
    return value


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
