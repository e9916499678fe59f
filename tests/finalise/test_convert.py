"""Spools of all kinds of processes into datasets: what each column says, and what stays behind."""

from __future__ import annotations

import json
import os
import stat
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memtrace import _core
from memtrace.errors import MemtraceError
from memtrace.finalise import finalise, recover
from memtrace.schema import SCHEMAS
from spool_writer import SpoolWriter, Writer, rows

MIB = 1 << 20
TORCH = "/v/site-packages/torch/nn/modules"


def one_pinned_allocation(spool: SpoolWriter) -> None:
    log = spool.log()
    log.alloc(10, 0x1000, 4, pool=1)
    log.alloc(11, 0x2000, 700, pool=2, stream=1024)
    log.free(12, 0x2000, pool=2)


def one_cuda_allocation(spool: SpoolWriter) -> None:
    log = spool.log()
    log.event("segment_alloc", 5, 1 << 40, 2 * MIB, device=0, order=1)
    log.alloc(6, 1 << 40, 1000, device=0, order=2)
    log.event("free_requested", 10, 1 << 40, 1000, device=0, order=3)
    log.event("free_completed", 12, 1 << 40, 1000, device=0, order=4)


def test_every_dataset_has_the_columns_of_the_schema(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    one_cuda_allocation(spool)
    spool.finish()
    finalise(trace_dir)
    for name, schema in SCHEMAS.items():
        (file,) = (trace_dir / name).glob("process=*/*.parquet")
        found = pq.ParquetFile(file).schema_arrow
        assert found.names == schema.names, name
        for field in schema:
            stored = found.field(field.name).type
            assert stored == field.type or pa.types.is_list(field.type), (name, field.name)


def test_pinned_memory_counts_with_its_block(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    one_pinned_allocation(spool)
    spool.finish()
    finalise(trace_dir)
    host, pinned = rows(trace_dir, "allocations")
    assert (host["memory"], host["size_bytes"], host["block_bytes"]) == ("host", 4, 4)
    assert (pinned["memory"], pinned["size_bytes"], pinned["block_bytes"]) == ("pinned", 700, 1024)
    assert (pinned["device"], pinned["stream"]) == ("cpu", None)
    assert [row["allocated_bytes"] for row in rows(trace_dir, "events")] == [4, 1028, 4]


def test_a_failed_allocation_is_an_event_of_no_block(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    log.event("segment_alloc", 5, 1 << 40, 2 * MIB, device=0, order=1)
    log.event("oom", 6, 0x77, 50 * MIB, device=0, stream=9 * MIB, order=2)  # of stream 0x77
    log.event("oom", 7, 0, 60 * MIB, stream=8 * MIB, pool=1)
    spool.finish()
    finalise(trace_dir)
    assert rows(trace_dir, "allocations") == []
    _, gpu, cpu = rows(trace_dir, "events")
    assert (gpu["device"], gpu["action"], gpu["size_bytes"]) == ("cuda:0", "oom", 50 * MIB)
    assert (gpu["stream"], gpu["address"], gpu["device_free_bytes"]) == (0x77, None, 9 * MIB)
    assert gpu["reserved_bytes"] == 2 * MIB
    assert (cpu["device"], cpu["action"], cpu["size_bytes"]) == ("cpu", "oom", 60 * MIB)
    assert (cpu["stream"], cpu["address"], cpu["device_free_bytes"]) == (None, None, 8 * MIB)


def test_an_empty_recording_gives_every_dataset(trace_dir: Path) -> None:
    SpoolWriter(trace_dir).finish()
    result = finalise(trace_dir)
    assert result.events == 0
    assert {path.name for path in trace_dir.iterdir()} == set(SCHEMAS)
    assert all(rows(trace_dir, name) == [] for name in SCHEMAS if name != "processes")


def test_a_cuda_allocation(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    one_cuda_allocation(spool)
    spool.finish()
    assert finalise(trace_dir).events == 4
    (row,) = rows(trace_dir, "allocations")
    wanted = {
        "allocation_id": 1, "device": "cuda:0", "memory": "device", "origin": "recorded",
        "size_bytes": 1000, "block_bytes": 1024, "alloc_seq": 1, "free_seq": 2, "release_seq": 3,
        "alloc_time_ns": 6, "free_time_ns": 10, "release_time_ns": 12, "pool": "default",
        "segment_id": 1, "phase": "other", "category": "other", "category_by": None,
        "operator": None, "module": None, "stage": None,
    }  # fmt: skip
    assert {name: row[name] for name in wanted} == wanted


def test_pools_are_named_by_who_made_them(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    for order, pool in enumerate([0, spool.pool(3, 0), spool.pool(0, 9), 77, 0xFFFF], 1):
        log.event("segment_alloc", order, order << 40, 2 * MIB, device=0, order=order, pool=pool)
    spool.finish()
    finalise(trace_dir)
    assert [r["pool"] for r in rows(trace_dir, "segments")] == [
        "default", "graph:3", "mempool:9", "?", "other",
    ]  # fmt: skip


def test_stack_gives_source_and_module(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    root = spool.module("Net", path="")
    linear = spool.module("Linear", path="blocks.0.fc", root=root)
    stranger = spool.module("Lonely")
    known = spool.stack(
        [
            ("forward", f"{TORCH}/linear.py", 114, 0),
            ("_call_impl", f"{TORCH}/module.py", 1790, linear),
            ("forward", "/home/u/model.py", 120, 0),
            ("_call_impl", f"{TORCH}/module.py", 1790, root),
            ("<module>", "/home/u/run.py", 3, 0),
        ]
    )
    unscanned = spool.stack(
        [
            ("_call_impl", f"{TORCH}/module.py", 1790, stranger),
            ("_call_impl", f"{TORCH}/module.py", 1790, root),
        ]
    )
    log = spool.log()
    log.alloc(1, 0x1000, 8, stack=known)
    log.alloc(2, 0x2000, 8, stack=unscanned)
    log.alloc(3, 0x3000, 8, stack=99)
    spool.finish()
    finalise(trace_dir)
    first, second, third = rows(trace_dir, "allocations")
    assert (first["source"], first["module"], first["module_class"]) == (
        "model.py:120 forward", "blocks.0.fc", "Linear",
    )  # fmt: skip
    assert (second["module"], second["module_class"]) == ("Net.Lonely", "Lonely")
    assert (third["source"], third["module"], third["stack_id"]) == (None, None, 99)
    stacks = [r for r in rows(trace_dir, "stacks") if r["stack_id"] == known]
    assert [r["depth"] for r in stacks] == [0, 1, 2, 3, 4]
    assert stacks[1]["module"] == "blocks.0.fc"
    assert [r["source"] for r in stacks] == ["model.py:120 forward", None, None, None, None]


def test_a_part_that_is_called_on_its_own_is_named_as_in_the_model(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    enc = spool.module("Part", path="")  # called before the model was
    enc_l = spool.module("Linear", path="l", root=enc)
    dec = spool.module("Part", path="")
    dec_l = spool.module("Linear", path="l", root=dec)
    model = spool.module("Model", path="")
    for part, name in ((enc, "enc"), (enc_l, "enc.l"), (dec, "dec"), (dec_l, "dec.l")):
        spool.write_text("module_path", part, struct.pack("<I", model) + name.encode())
    log = spool.log()
    stacks = [(enc_l, enc), (dec_l, dec), (dec,), (dec_l, dec, model), (model,)]
    for i, modules in enumerate(stacks):
        frames = [("forward", "/home/u/model.py", 1, module) for module in modules]
        log.alloc(i, 0x1000 * (i + 1), 8, stack=spool.stack(frames))
    note = {"address": 0x1000, "device": "cpu", "kind": "weight", "shape": [2], "dtype": "int8"}
    spool.tensor(**note, ticks=10, name="l.weight", root_id=enc)
    spool.tensor(**note, ticks=11, name="enc.l.weight", root_id=model)
    spool.finish()
    finalise(trace_dir)
    found = rows(trace_dir, "allocations")
    assert [row["module"] for row in found] == ["enc.l", "dec.l", "dec", "dec.l", "Model"]
    assert found[0]["label"] == "enc.l.weight"
    assert [row["name"] for row in rows(trace_dir, "names")] == ["enc.l.weight"]


def test_operator_calls_sum_over_their_children(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    log.alloc(10, 0x1000, 100, call=2, op="aten::mm", top="aten::linear")
    log.span(8, 12, 2, "aten::mm", parent=1)
    log.alloc(13, 0x2000, 10, call=1, op="aten::linear", top="aten::linear")
    log.free(14, 0x1000, call=1)
    log.span(5, 15, 1, "aten::linear", sequence=7)
    spool.finish()
    finalise(trace_dir)
    by_name = {row["name"]: row for row in rows(trace_dir, "operators")}
    inner, outer = by_name["aten::mm"], by_name["aten::linear"]
    assert inner["parent_call_id"] == outer["call_id"]
    assert (inner["allocated_bytes"], inner["freed_bytes"]) == (100, 0)
    assert (outer["allocated_bytes"], outer["freed_bytes"]) == (110, 100)
    assert (outer["start_seq"], outer["start_time_ns"], outer["end_time_ns"]) == (0, 5, 15)
    assert (outer["sequence_number"], inner["sequence_number"]) == (7, None)
    first, second = rows(trace_dir, "allocations")
    assert first["operator_call_id"] == inner["call_id"]
    assert second["operator_call_id"] == outer["call_id"]
    assert (first["operator"], first["top_operator"]) == ("aten::mm", "aten::linear")


def test_calls_whose_end_was_not_recorded_have_rows(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    log.alloc(10, 0x1000, 100, call=5)
    log.alloc(11, 0x2000, 10, call=7)
    log.span(9, 12, 7, "aten::mm", parent=6, stack=3)
    log.alloc(13, 0x3000, 1, call=8)  # 6 and 8 are open when the process is killed
    log.alloc(14, 0x4000, 1, call=9)
    log.span(14, 15, 9, "aten::add", parent=6)  # 8 must be over, its span was lost
    spool.finish()
    finalise(trace_dir)
    found = rows(trace_dir, "operators")
    ids = {row["call_id"] for row in found}
    assert len(ids) == len(found) == 5
    assert {row["parent_call_id"] for row in found} <= {*ids, None}
    assert {row["operator_call_id"] for row in rows(trace_dir, "allocations")} <= ids
    unknown = [row for row in found if row["name"] is None]
    assert [row["end_time_ns"] for row in unknown] == [None] * 3
    assert [row["allocated_bytes"] for row in unknown] == [1, 12, 112]
    (process,) = rows(trace_dir, "processes")
    assert json.loads(process["lost_events"])["lost_spans"] == 1


def test_equal_call_numbers_of_threads_are_different_calls(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    for thread in (1, 2):
        log = spool.log(thread)
        log.alloc(thread, 0x1000 * thread, 8, call=1)
        log.span(0, 10 + thread, 1, f"op{thread}")
    spool.finish()
    finalise(trace_dir)
    names = {row["call_id"]: row["name"] for row in rows(trace_dir, "operators")}
    assert [names[row["operator_call_id"]] for row in rows(trace_dir, "allocations")] == [
        "op1", "op2",
    ]  # fmt: skip


def test_tensor_notes_make_weights_by_identity(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    log.alloc(10, 0x1000, 64)
    log.free(20, 0x1000)
    log.alloc(30, 0x1000, 64)  # the same address, another life
    note = {"address": 0x1000, "device": "cpu", "kind": "weight", "dtype": "float32"}
    spool.tensor(**note, ticks=35, name="fc.weight", shape=[4, 4], offset_bytes=0)
    spool.tensor(**note, ticks=36, name="tied.weight", shape=[4, 4], offset_bytes=0)
    spool.tensor(**note, ticks=37, name="fc.weight", shape=[4, 4], offset_bytes=0)  # a second scan
    log.event("external", 40, 0x9000, 4096, pool=3, thread=0)  # found by no thread of the program
    spool.tensor(
        address=0x9000, device="cpu", ticks=39, name="emb", kind="buffer", memory="mapped",
        resident_bytes=100, shape=[], dtype="int8", offset_bytes=0,
    )  # fmt: skip
    spool.tensor(address=0x5000, device="cpu", ticks=39, name="lost", kind="weight")
    spool.finish()
    finalise(trace_dir)
    old, new, mapped = rows(trace_dir, "allocations")
    assert (old["category"], old["label"]) == ("other", None)
    assert (new["category"], new["category_by"], new["label"]) == (
        "weight", "identity", "fc.weight",
    )  # fmt: skip
    assert (mapped["origin"], mapped["memory"], mapped["category"]) == (
        "external", "mapped", "buffer",
    )  # fmt: skip
    assert (mapped["resident_bytes"], mapped["free_seq"]) == (100, None)
    assert (new["thread_id"], mapped["thread_id"], mapped["free_thread_id"]) == (1, None, None)
    assert [row["thread_id"] for row in rows(trace_dir, "events")] == [1, 1, 1, None]
    names = rows(trace_dir, "names")
    assert [(row["allocation_id"], row["name"]) for row in names] == [
        (2, "fc.weight"), (2, "tied.weight"), (3, "emb"),
    ]  # fmt: skip
    assert names[0]["shape"] == [4, 4]
    (process,) = rows(trace_dir, "processes")
    assert json.loads(process["lost_events"])["unmatched_names"] == 1
    assert process["lost_total"] == 0


def test_a_label_is_shown_before_a_name(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    spool.log().alloc(10, 0x1000, 64)
    spool.tensor(address=0x1000, device="cpu", ticks=11, name="w", kind="weight")
    said = {"name": "mine", "kind": "label", "label": "mine"}
    spool.tensor(address=0x1000, device="cpu", ticks=12, category="kv_cache", **said)
    spool.finish()
    finalise(trace_dir)
    (row,) = rows(trace_dir, "allocations")
    assert (row["label"], row["category"], row["category_by"]) == ("mine", "weight", "identity")


def test_what_the_user_says_is_a_category(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    spool.log().alloc(10, 0x1000, 64)
    said = {"address": 0x1000, "device": "cpu"}
    spool.tensor(**said, ticks=11, name="x", kind="input")
    spool.tensor(**said, ticks=12, name="no category", kind="label", label="no category")
    spool.tensor(**said, ticks=13, category="output")
    spool.tensor(**said, ticks=14, category="kv_cache")
    spool.finish()
    finalise(trace_dir)
    (row,) = rows(trace_dir, "allocations")
    assert (row["label"], row["category"], row["category_by"]) == (
        "no category", "kv_cache", "label",
    )  # fmt: skip


@pytest.mark.parametrize("peak", [1024, 1536])
def test_totals_are_held_against_torchs_counters(trace_dir: Path, peak: int) -> None:
    spool = SpoolWriter(trace_dir)
    one_cuda_allocation(spool)
    log = spool.log()
    log.sample(20, "allocated_bytes.current", 0, target="cuda:0")
    log.sample(20, "allocated_bytes.peak", peak, target="cuda:0")
    log.sample(20, "allocation.allocated", 1, target="cuda:0")
    log.sample(20, "num_alloc_retries", 5, target="cuda:0")  # events cannot tell
    log.mark(21, "reset_peak", device=0)
    log.sample(22, "allocated_bytes.peak", 0, target="cuda:0")
    log.sample(22, "reserved_bytes.peak", 2 * MIB, target="cuda:0")
    spool.finish()
    finalise(trace_dir)
    (process,) = rows(trace_dir, "processes")
    assert process["reconciled"] is (peak == 1024)
    assert process["mismatch_bytes"] == peak - 1024
    if peak != 1024:
        assert "torch says 1536, the events say 1024" in process["reconcile_note"]
    assert len(rows(trace_dir, "samples")) == 6


def test_memory_from_before_the_recording(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    base = 1 << 40
    log.event("segment_alloc", 1, base, 20 * MIB, device=0, order=1)
    log.event("preexisting", 2, base + 4 * MIB, 3 * MIB, device=0, order=2, reserved=4 * MIB // 512)
    log.alloc(3, base, 2 * MIB, device=0, order=3)
    log.event("free_requested", 4, base + 4 * MIB, 3 * MIB, device=0, order=4)
    log.event("free_completed", 4, base + 4 * MIB, 3 * MIB, device=0, order=5)
    log.sample(5, "allocated_bytes.current", 2 * MIB, target="cuda:0")
    log.sample(5, "allocated_bytes.peak", 99 * MIB, target="cuda:0")  # torch remembers more
    spool.finish()
    finalise(trace_dir)
    before, after = rows(trace_dir, "allocations")
    assert (before["origin"], before["block_bytes"], before["size_bytes"]) == (
        "preexisting", 4 * MIB, 3 * MIB,
    )  # fmt: skip
    assert (after["origin"], after["block_bytes"]) == ("recorded", 2 * MIB)
    (process,) = rows(trace_dir, "processes")
    assert process["reconciled"] is True
    assert json.loads(process["lost_events"])["mirror_inconsistencies"] == 0


def test_processes_say_who_ran_and_how_it_ended(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir, exit_status=3)
    spool.process(host="h", pid=5, rank=1, argv=["a"], versions={"torch": "2.13.0"})
    spool.process(end_reason="exception", versions={"python": "3.11"}, cpu_on=False)
    spool.lost[0] = 17
    spool.finish()
    finalise(trace_dir)
    (row,) = rows(trace_dir, "processes")
    assert (row["host"], row["rank"], row["argv"], row["exit_status"]) == ("h", 1, '["a"]', 3)
    assert (row["torch_version"], row["python_version"]) == ("2.13.0", "3.11")
    assert (row["complete"], row["end_reason"]) == (True, "exception")
    assert (row["cpu_on"], row["operators_on"]) == (False, None)
    lost = json.loads(row["lost_events"])
    assert lost["event_no_space"] == 17
    assert "operators_deep" in lost  # by kind, also when 0
    assert row["lost_total"] == 17


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("no torch in /caf\udce9", r"no torch in /caf\xe9"),  # as os.fsdecode has b"caf\xe9"
        ("caf\udcc3\udca9", "café"),
        ("a\ud800b", r"a\ud800b"),
    ],
)
def test_text_that_is_not_utf8_is_written_as_it_can_be(
    trace_dir: Path, said: str, written: str
) -> None:
    columns = (
        "host", "boot_id", "parent", "start_method", "end_reason", "exception", "hook_error",
    )  # fmt: skip
    versions = ("torch", "cuda", "python", "driver", "memtrace")
    spool = SpoolWriter(trace_dir)
    spool.process(**dict.fromkeys(columns, said), versions=dict.fromkeys(versions, said))
    spool.finish()
    finalise(trace_dir)
    (row,) = rows(trace_dir, "processes")
    texts = (*columns, *(f"{name}_version" for name in versions))
    assert {name: row[name] for name in texts} == dict.fromkeys(texts, written)


def test_words_that_are_cut_are_no_loss_and_missing_chunks_are(trace_dir: Path) -> None:
    words = SpoolWriter(trace_dir, "host-1-a")
    words.lost[3], words.lost[6] = 7, 5  # stack_too_deep, pool_unnumbered
    words.finish()
    whole = SpoolWriter(trace_dir, "host-2-a", chunk_bytes=64 * 9)
    log = whole.log()
    for i in range(40):
        log.alloc(10 + i, 0x1000 * (1 + i), 64)
    records = whole.finish() / "records.bin"
    data = records.read_bytes()
    records.write_bytes(data[: 64 * 9] + b"\0" * 64 * 18 + data[64 * 27 :])
    finalise(trace_dir)
    cut, torn = rows(trace_dir, "processes")
    assert json.loads(cut["lost_events"])["stack_too_deep"] == 7
    assert json.loads(cut["lost_events"])["pool_unnumbered"] == 5
    assert cut["lost_total"] == 0
    assert json.loads(torn["lost_events"])["missing_chunks"] == 2
    assert torn["lost_total"] == 2


def test_directory_and_files_are_private(trace_dir: Path) -> None:
    old = os.umask(0)
    try:
        SpoolWriter(trace_dir).finish()
        finalise(trace_dir)
    finally:
        os.umask(old)
    for path in trace_dir.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_running_processes_are_left_alone(trace_dir: Path) -> None:
    # The clock of the day has been set since it started.
    spool = SpoolWriter(
        trace_dir, pid=os.getpid(), end=None, start_unix_ns=1, writer=Writer.this_process()
    )
    one_cuda_allocation(spool)
    path = spool.finish()
    result = finalise(trace_dir)
    assert (result.keys, result.running) == ((), ("host-1-start",))
    assert path.is_dir()


def test_a_process_number_that_came_again_does_not_count_as_running(trace_dir: Path) -> None:
    # This process, but its spool is of one that started when the machine did.
    SpoolWriter(trace_dir, pid=os.getpid(), end=None).finish()
    assert finalise(trace_dir).keys == ("host-1-start",)


def test_a_process_that_died_before_it_recorded_leaves_nothing(trace_dir: Path) -> None:
    path = SpoolWriter(trace_dir, "host-999999999-a").finish()
    (path / "control.bin").write_bytes(bytes(4096))
    assert finalise(trace_dir).keys == ()
    assert not path.exists()


def test_a_killed_process_is_recovered(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir, end=None, exit_status=None)
    one_cuda_allocation(spool)
    path = spool.finish(last_chunks_in_windows=True)
    assert recover(trace_dir).events == 4
    (row,) = rows(trace_dir, "processes")
    assert (row["complete"], row["end_reason"], row["exit_status"]) == (False, "killed", None)
    assert not path.exists()
    assert recover(trace_dir).keys == ()


def test_many_processes_share_a_trace(trace_dir: Path) -> None:
    for number in range(3):
        spool = SpoolWriter(trace_dir, f"host-{number}-a")
        one_cuda_allocation(spool)
        spool.finish()
    assert len(finalise(trace_dir).keys) == 3
    assert len(rows(trace_dir, "processes")) == 3
    assert not (trace_dir / "spool").exists()


def test_recover_into_another_directory_keeps_the_spool(trace_dir: Path, tmp_path: Path) -> None:
    spool = SpoolWriter(trace_dir)
    one_cuda_allocation(spool)
    path = spool.finish()
    recover(trace_dir, into=tmp_path / "copy")
    assert len(rows(tmp_path / "copy", "events")) == 4
    assert path.is_dir()
    assert not (trace_dir / "events").exists()


def test_an_interrupted_finaliser_is_done_again(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    one_cuda_allocation(spool)
    spool.finish()
    (trace_dir / ".finalising-host-1-start" / "events").mkdir(parents=True)
    stale = trace_dir / "events" / "process=host-1-start"
    stale.mkdir(parents=True)
    (stale / "part-00000.parquet").write_bytes(b"half")
    finalise(trace_dir)
    assert len(rows(trace_dir, "events")) == 4
    assert not list(trace_dir.glob(".finalising*"))


def test_two_finalisers_at_once_do_the_work_once(trace_dir: Path) -> None:
    for number in range(4):
        spool = SpoolWriter(trace_dir, f"host-{number}-a")
        one_cuda_allocation(spool)
        spool.finish()
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: finalise(trace_dir), range(3)))
    assert sorted(key for result in results for key in result.keys) == [
        f"host-{number}-a" for number in range(4)
    ]
    assert len(rows(trace_dir, "events")) == 16


def test_parts_are_each_in_order_and_whole(
    trace_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memtrace.finalise.convert.PART_ROWS", 1000)
    monkeypatch.setattr("memtrace.finalise.convert.BATCH_ROWS", 1024)
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    for i in range(4000):
        log.alloc(2 * i, 0x1000 + 64 * i, 8)
        if i % 2:
            log.free(2 * i + 1, 0x1000 + 64 * (i - 1))
    spool.finish()
    finalise(trace_dir)
    parts = sorted((trace_dir / "allocations").glob("*/*.parquet"))
    assert len(parts) > 1
    found = []
    for part in parts:
        seqs = pq.read_table(part)["alloc_seq"].to_pylist()
        assert seqs == sorted(seqs)
        found += seqs
    assert len(found) == len(set(found)) == 4000
    assert [row["seq"] for row in rows(trace_dir, "events")] == list(range(6000))
    (process,) = rows(trace_dir, "processes")
    written = json.loads(process["dataset_rows"])
    assert written == {name: len(rows(trace_dir, name)) for name in SCHEMAS if name != "processes"}
    assert (written["events"], written["allocations"], written["segments"]) == (6000, 4000, 0)


def test_a_newer_spool_is_refused_naming_both_versions(trace_dir: Path) -> None:
    SpoolWriter(trace_dir, version=7).finish()
    with pytest.raises(MemtraceError, match=r"version 7.*reads up to 1"):
        finalise(trace_dir)


def test_what_cannot_be_written_is_one_line_and_the_spool_stays(
    trace_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = SpoolWriter(trace_dir)
    one_cuda_allocation(spool)
    path = spool.finish()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("memtrace.dataset_writer.pq.ParquetWriter.write_table", full)
    with pytest.raises(MemtraceError, match="No space left on device; the recording is kept"):
        finalise(trace_dir)
    assert path.is_dir()
    assert [p.name for p in trace_dir.iterdir()] == ["spool"]
    monkeypatch.undo()
    finalise(trace_dir)
    assert len(rows(trace_dir, "events")) == 4


def test_the_stub_names_what_the_module_has() -> None:
    for name in ("SpoolReader", "Conversion", "Batch", "Column", "SpoolError", "clock_now"):
        assert hasattr(_core, name)
