"""The keys that machines read: they may be added to, and no test below may lose one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memtrace.analyse.peak import find_peak
from memtrace.analyse.snapshot import take_snapshot
from memtrace.analyse.summary import summarise
from memtrace.report import as_json
from memtrace.report.as_json import peak_document, snapshot_document, summary_document
from memtrace.trace import Trace, open_trace
from trace_builder import serving_trace

SNAPSHOT = {
    "process", "pid", "rank", "device", "of", "total_bytes", "seq", "time_ns", "allocated_bytes",
    "active_bytes", "reserved_bytes", "pinned_bytes", "external_bytes", "external_resident_bytes",
    "external_unknown_bytes", "lost_records", "by", "requested_bytes", "live_allocations",
    "unattributed_bytes", "excess_bytes", "groups", "stacks",
    "categories",
}  # fmt: skip
GROUP = {"kind", "key", "bytes", "requested_bytes", "allocations", "share_percent", "mostly"}
REACHED = {
    "allocation_id", "size_bytes", "block_bytes", "operator", "top_operator", "forward_operator",
    "module", "module_class", "source", "category", "label", "phase", "stage", "origin",
    "thread_id", "stack",
}  # fmt: skip
SUMMARY = {
    "trace", "empty", "events", "allocations", "lost_total", "root", "main", "running", "processes",
}  # fmt: skip
PROCESS = {
    "process", "pid", "rank", "host", "start_method", "parent", "parent_pid", "end_reason",
    "exit_status", "complete", "memtrace_version", "torch_version", "cuda_version",
    "python_version", "driver_version", "hook_error", "argv", "duration_ns", "events",
    "allocations", "lost_events", "lost_total", "unmatched_frees", "unrecorded_children",
    "unscanned_models", "reconciled", "mismatch_bytes", "reconcile_note", "devices",
}  # fmt: skip
DEVICE = {
    "device", "name", "device_total_bytes", "allocated", "active", "reserved",
    "end_allocated_bytes", "end_reserved_bytes", "operators", "weight_bytes", "buffer_bytes",
    "fp32_weight_bytes", "mapped_weight_bytes", "mapped_weight_resident_bytes", "pinned_bytes",
    "external_bytes", "external_resident_bytes", "external_unknown_bytes",
    "unused_at_reserved_peak_bytes", "bf16_saving_estimate_bytes", "categories",
}  # fmt: skip
COUNTS = {
    "pid", "rank", "parent_pid", "seq", "line", "thread_id", "allocation_id", "allocations",
    "live_allocations", "events", "lost_total", "lost_records", "unmatched_frees",
    "unrecorded_children", "unscanned_models", "exit_status", "event_no_space", "stack_too_deep",
}  # fmt: skip


@pytest.fixture
def serving(tmp_path: Path) -> Trace:
    return open_trace(serving_trace(tmp_path / "serve.memtrace"))


def test_keys_of_peak(serving: Trace) -> None:
    document = peak_document(find_peak(serving, by="stack"))
    assert document.keys() == SNAPSHOT | {"reached_by", "peaks_by_process"}
    assert all(group.keys() == GROUP for group in document["groups"])
    assert document["reached_by"].keys() == REACHED
    assert document["stacks"]["1"][0].keys() == {"function", "file", "line", "module"}
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


def test_numbers_have_their_units_in_their_names(serving: Trace) -> None:
    documents = [
        peak_document(find_peak(serving, by="stack")),
        snapshot_document(take_snapshot(serving, 5), 5),
        summary_document(summarise(serving)),
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
    for key in SNAPSHOT | GROUP | {"reached_by", "peaks_by_process", "at_ns"}:
        assert key in (as_json.__doc__ or ""), key
