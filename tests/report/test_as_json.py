"""The keys that machines read: they may be added to, and no test below may lose one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memtrace.analyse.diff import make_diff
from memtrace.analyse.failures import list_ooms
from memtrace.analyse.fragmentation import find_fragmentation
from memtrace.analyse.leaks import find_leaks
from memtrace.analyse.ledger import make_ledger
from memtrace.analyse.memory_tree import make_tree
from memtrace.analyse.oom import post_mortem
from memtrace.analyse.peak import find_peak
from memtrace.analyse.snapshot import take_snapshot
from memtrace.analyse.summary import summarise
from memtrace.report import as_json
from memtrace.report.as_json import (
    diff_document,
    fragmentation_document,
    leaks_document,
    ledger_document,
    oom_document,
    peak_document,
    snapshot_document,
    summary_document,
    tree_document,
)
from memtrace.trace import Trace, open_trace
from trace_builder import failing_trace, serving_trace

SNAPSHOT = {
    "process", "pid", "rank", "device", "of", "total_bytes", "seq", "time_ns", "allocated_bytes",
    "active_bytes", "reserved_bytes", "pinned_bytes", "external_bytes", "external_resident_bytes",
    "external_unknown_bytes", "lost_records", "by", "requested_bytes", "live_allocations",
    "unattributed_bytes", "excess_bytes", "groups", "stacks",
    "categories",
}  # fmt: skip
FRAME = {"function", "file", "line", "module", "module_class", "source"}
GROUP = {"kind", "key", "bytes", "requested_bytes", "allocations", "share_percent", "mostly"}
REACHED = {
    "allocation_id", "size_bytes", "block_bytes", "operator", "top_operator", "forward_operator",
    "module", "module_class", "source", "category", "label", "phase", "stage", "origin",
    "thread_id", "stack", "step",
}  # fmt: skip
SUMMARY = {
    "trace", "empty", "events", "allocations", "lost_total", "root", "main", "running", "processes",
}  # fmt: skip
PROCESS = {
    "process", "pid", "rank", "host", "start_method", "parent", "parent_pid", "end_reason",
    "exit_status", "complete", "memtrace_version", "torch_version", "cuda_version",
    "python_version", "driver_version", "hook_error", "argv", "duration_ns", "events",
    "allocations", "lost_events", "lost_total", "unmatched_frees", "unrecorded_children",
    "unscanned_models", "reconciled", "mismatch_bytes", "reconcile_note", "rss_peak_bytes",
    "rss_peak_ns", "paused_intervals_ns", "paused_peak_bytes", "devices",
}  # fmt: skip
DEVICE = {
    "device", "name", "device_total_bytes", "allocated", "active", "reserved",
    "end_allocated_bytes", "end_reserved_bytes", "operators", "weight_bytes", "buffer_bytes",
    "fp32_weight_bytes", "mapped_weight_bytes", "mapped_weight_resident_bytes", "pinned_bytes",
    "external_bytes", "external_resident_bytes", "external_unknown_bytes",
    "unused_at_reserved_peak_bytes", "bf16_saving_estimate_bytes", "pins", "ooms", "last_oom",
    "categories",
}  # fmt: skip
OWNER = {"key", "category", "operator", "module", "source"}
LEAKS = {
    "process", "pid", "rank", "by", "steps", "steps_are", "enough_steps", "devices", "stacks",
    "lost_records",
}  # fmt: skip
DEVICE_LEAKS = {
    "device", "device_total_bytes", "before_bytes", "kept_bytes", "bytes_per_step",
    "steps_until_full", "sites", "per_step",
}  # fmt: skip
SITE = OWNER | {"kind", "kept_bytes", "kept_blocks", "early_bytes", "growth"}
STEP = {"first", "count", "seq", "born_bytes", "left_bytes", "kept_bytes"}
FRAGMENTATION = {
    "process", "pid", "rank", "seq", "time_ns", "device", "why", "by", "reserved_bytes",
    "allocated_bytes", "waiting_bytes", "free_bytes", "empty_bytes", "pinned_bytes",
    "largest_free_bytes", "segments", "mismatch_bytes", "parts", "pins",
    "stacks", "lost_records",
}  # fmt: skip
PART = {
    "pool", "small", "expandable", "stream", "units", "reserved_bytes", "allocated_bytes",
    "waiting_bytes", "free_bytes", "empty_bytes", "pinned_bytes", "largest_free_bytes",
}  # fmt: skip
PIN = OWNER | {
    "blocks", "block_bytes", "waiting_bytes", "units", "pinned_bytes", "keeps_bytes",
    "alone_bytes", "oldest_ns",
}  # fmt: skip
OOM = {
    "process", "pid", "rank", "seq", "time_ns", "device", "asked_bytes", "device_free_bytes",
    "stream", "pool", "operator", "top_operator", "forward_operator", "module", "module_class",
    "source", "went_on", "allocated_bytes", "active_bytes", "reserved_bytes", "stack",
}  # fmt: skip
POST_MORTEM = OOM | {
    "number", "needed_bytes", "short_bytes", "limit_bytes", "device_total_bytes", "outside_bytes",
    "neighbours", "unusable", "unusable_bytes", "largest_usable_bytes", "fits", "held",
    "categories", "stacks", "fragmentation",
    "lost_records",
}  # fmt: skip
LEDGER = {"process", "pid", "rank", "others", "devices", "lost_records"}
DEVICE_LEDGER = {
    "device", "device_name", "idle_bytes", "idle_is_stage", "left_out", "batches", "stages",
}  # fmt: skip
STAGE = {
    "name", "kind", "stage_id", "count", "start_time_ns", "end_time_ns", "largest", "peak_step",
    "peak", "end",
}  # fmt: skip
LINE = {"name", "kind", "bytes", "why", "off_ns"}
TREE = {
    "process", "pid", "rank", "device", "what", "of", "by", "at_ns", "stage", "within", "seq",
    "time_ns", "total_bytes", "blocks", "excess_bytes", "lost_records", "tree",
}  # fmt: skip
NODE = {"kind", "name", "bytes", "blocks", "children"}
DIFF = {"a", "b", "of", "by", "devices", "devices_only_a", "devices_only_b"}
DEVICE_DIFF = {
    "device", "a", "b", "peak", "stage_ends", "steps", "stages_left_out", "only_a", "only_b",
}  # fmt: skip
COMPARISON = {
    "what", "name", "a_bytes", "b_bytes", "delta_bytes", "a_steps", "b_steps", "a_time_ns",
    "b_time_ns", "changes",
}  # fmt: skip
CHANGE = {
    "kind", "key", "was", "status", "a_bytes", "b_bytes", "delta_bytes", "a_blocks", "b_blocks",
}  # fmt: skip
COUNTS = {
    "stages_left_out", "a_steps", "b_steps", "a_blocks", "b_blocks", "recorded",
    "stage_id", "count", "left_out", "steps", "batch_size", "step", "start_seq",
    "pid", "rank", "parent_pid", "seq", "line", "thread_id", "allocation_id", "allocations",
    "live_allocations", "events", "lost_total", "lost_records", "unmatched_frees",
    "unrecorded_children", "unscanned_models", "exit_status", "event_no_space", "stack_too_deep",
    "ooms", "steps_until_full", "kept_blocks", "rises", "intervals", "every", "first",
    "segments", "units", "blocks", "stream", "number", "bytes_per_step",
}  # fmt: skip


@pytest.fixture
def serving(tmp_path: Path) -> Trace:
    return open_trace(serving_trace(tmp_path / "serve.memtrace"))


@pytest.fixture
def failing(tmp_path: Path) -> Trace:
    return open_trace(failing_trace(tmp_path / "train.memtrace"))


def test_keys_of_peak(serving: Trace) -> None:
    document = peak_document(find_peak(serving, by="stack"))
    assert document.keys() == SNAPSHOT | {"reached_by", "peaks_by_process"}
    assert all(group.keys() == GROUP for group in document["groups"])
    assert document["reached_by"].keys() == REACHED
    assert document["stacks"]["1"][0].keys() == FRAME
    (peak,) = document["peaks_by_process"]
    assert peak.keys() == {"process", "pid", "rank", "total_bytes", "seq"}


@pytest.mark.parametrize("time_ns", [0, 100_000_000])
def test_keys_of_at(serving: Trace, time_ns: int) -> None:
    document = snapshot_document(take_snapshot(serving, time_ns), time_ns)
    assert document.keys() == SNAPSHOT | {"at_ns"}


def test_categories_sum_to_the_total(serving: Trace) -> None:
    document = peak_document(find_peak(serving))
    found = {row["category"]: row["bytes"] for row in document["categories"]}
    assert list(found) == ["weight", "activation", "kv_cache", "other"]
    assert sum(found.values()) == document["total_bytes"]
    (process,) = summary_document(summarise(serving))["processes"]
    assert process["devices"][0]["categories"] == document["categories"]


def test_keys_of_summary(serving: Trace) -> None:
    document = summary_document(summarise(serving))
    assert document.keys() == SUMMARY
    (process,) = document["processes"]
    assert process.keys() == PROCESS
    for device in process["devices"]:
        assert device.keys() == DEVICE
        assert device["allocated"].keys() == {"total_bytes", "time_ns", "seq"}


def test_keys_of_stages(serving: Trace) -> None:
    document = ledger_document(make_ledger(serving))
    assert document.keys() == LEDGER
    for device in document["devices"]:
        assert device.keys() == DEVICE_LEDGER
        for stage in device["stages"]:
            assert stage.keys() == STAGE
            for instant in (stage["peak"], stage["end"]):
                assert instant.keys() == {"seq", "time_ns", "lines"}
                assert all(line.keys() == LINE for line in instant["lines"])


def test_keys_of_leaks(failing: Trace) -> None:
    document = leaks_document(find_leaks(failing))
    assert document.keys() == LEAKS
    (device,) = document["devices"]
    assert device.keys() == DEVICE_LEAKS
    (site,) = device["sites"]
    assert site.keys() == SITE
    assert site["growth"].keys() == {"bytes_per_step", "rises", "intervals", "every"}
    assert all(step.keys() == STEP for step in device["per_step"])


def test_keys_of_fragmentation(failing: Trace) -> None:
    document = fragmentation_document(find_fragmentation(failing))
    assert document.keys() == FRAGMENTATION
    assert [part.keys() for part in document["parts"]] == [PART]
    assert [pin.keys() for pin in document["pins"]] == [PIN]


def test_keys_of_oom(failing: Trace) -> None:
    document = oom_document(post_mortem(failing), list_ooms(failing))
    assert document.keys() == {"ooms", "post_mortem"}
    assert [oom.keys() for oom in document["ooms"]] == [OOM, OOM]
    told = document["post_mortem"]
    assert told.keys() == POST_MORTEM
    assert told["unusable"].keys() == {"pieces_bytes"}
    assert {frozenset(fit) for fit in told["fits"]} == {
        frozenset({"what", "name", "size_bytes", "fits"})
    }
    assert oom_document(None, []) == {"ooms": [], "post_mortem": None}
    (process,) = summary_document(summarise(failing))["processes"]
    (device,) = process["devices"]
    assert device["last_oom"].keys() == OOM
    assert [pin.keys() for pin in device["pins"]] == [PIN]


def test_keys_of_tree(serving: Trace) -> None:
    document = tree_document(make_tree(serving))
    assert document.keys() == TREE
    waiting = [document["tree"]]
    while waiting:
        node = waiting.pop()
        assert node.keys() == NODE
        waiting += node["children"]


def test_keys_of_diff(serving: Trace, failing: Trace) -> None:
    document = diff_document(make_diff(serving, failing))
    assert document.keys() == DIFF
    (device,) = document["devices"]
    assert device.keys() == DEVICE_DIFF
    for side in "ab":
        assert device[side].keys() == {"process", "pid", "rank", "lost_records"}
    assert [each.keys() for each in document["devices_only_a"]] == [
        {"device", "peak_bytes", "recorded"}
    ]
    same = diff_document(make_diff(failing, failing))["devices"][0]
    for comparison in (device["peak"], *same["steps"], *same["stage_ends"]):
        assert comparison.keys() == COMPARISON
        for changes in comparison["changes"].values():
            assert all(change.keys() == CHANGE for change in changes)


def test_numbers_have_their_units_in_their_names(serving: Trace, failing: Trace) -> None:
    documents = [
        leaks_document(find_leaks(failing)),
        fragmentation_document(find_fragmentation(failing)),
        oom_document(post_mortem(failing), list_ooms(failing)),
        summary_document(summarise(failing)),
        peak_document(find_peak(serving, by="stack")),
        snapshot_document(take_snapshot(serving, 5), 5),
        summary_document(summarise(serving)),
        ledger_document(make_ledger(serving)),
        tree_document(make_tree(serving)),
        diff_document(make_diff(serving, failing)),
        diff_document(make_diff(failing, failing)),
    ]
    for document in documents:
        for key, value in numbers(document):
            told = key.endswith(("_bytes", "_ns", "_percent")) or key == "bytes" or key in COUNTS
            assert told, f"{key}: {value}"


def numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from numbers(item, name)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from numbers(item, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


def test_every_key_of_an_answer_is_explained() -> None:
    explained = SNAPSHOT | GROUP | LEDGER | DEVICE_LEDGER | STAGE | LINE
    places = DEVICE_LEAKS | LEAKS | FRAGMENTATION | POST_MORTEM - OOM
    for key in explained | {"reached_by", "peaks_by_process", "at_ns"} | places:
        assert key in (as_json.__doc__ or ""), key
