"""The timeline's part of a page: curves of a device, its stages and its steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Int64s, equals, integers
from memtrace.analyse.curve import EVERYTHING, Curve
from memtrace.analyse.history import DeviceHistory, History
from memtrace.analyse.ledger import without_doubles
from memtrace.page.columns import ColumnPacker, Words
from memtrace.trace import Trace

MOST_STEPS = 20_000
MOST_STAGES = 1_000


def pack_curve(curve: Curve, columns: ColumnPacker, *, reserves: bool) -> dict[str, Any]:
    """Bins of a device's totals: analyse.curve.Curve says what they are.

    Args:
        reserves: the device has a caching allocator.
    """
    lanes = {
        "begin_ns": curve.begin_ns,
        "least": curve.least_bytes,
        "most": curve.most_bytes,
        "last": curve.last_bytes,
    }
    if reserves:
        lanes["reserved_least"] = curve.reserved_least_bytes
        lanes["reserved_most"] = curve.reserved_most_bytes
        lanes["reserved_last"] = curve.reserved_last_bytes
    packed = {name: columns.add(values, delta=True) for name, values in lanes.items()}
    packed["busy_ns"] = columns.add(np.maximum(curve.last_ns - curve.begin_ns, 0))
    return {"events_per_bin": curve.events_per_bin, "end_ns": int(curve.last_ns[-1]), **packed}


def pack_layers(device: DeviceHistory, words: Words, columns: ColumnPacker) -> dict[str, Any]:
    """Who held it over time, for a stacked chart, by each column that it can be stacked by."""
    cuts = device.layer_cuts
    return {
        "seq": columns.add(cuts.seq, delta=True),
        "ns": columns.add(cuts.time_ns, delta=True),
        "by": {
            name: {
                "names": [words.number(word) for word in found.names],
                "others": found.others,
                "bytes": [columns.add(row, delta=True) for row in found.size_bytes],
            }
            for name, found in device.layers.items()
        },
    }


def pack_process_memory(
    trace: Trace,
    key: str,
    device: str,
    window_ns: tuple[int, int] | None,
    columns: ColumnPacker,
) -> dict[str, Any] | None:
    """What the system counted for the process (RSS; on a GPU, NVML); None where nobody sampled."""
    names = ["device", "metric", "bin_start_ns", "min_bytes", "max_bytes", "last_bytes"]
    table = trace.datasets["timeline"].read(names, key=key)
    start_ns, end_ns = window_ns or EVERYTHING
    begin = integers(table, "bin_start_ns")
    chosen = equals(table, "metric", "process") & equals(table, "device", device)
    table = table.filter(pa.array(chosen & (begin >= start_ns) & (begin <= end_ns)))
    if not table.num_rows:
        return None
    table = table.sort_by("bin_start_ns")
    lanes = ("bin_start_ns", "min_bytes", "max_bytes", "last_bytes")
    packed = [columns.add(integers(table, name), delta=True) for name in lanes]
    return dict(zip(("begin_ns", "least", "most", "last"), packed, strict=True))


def pack_steps(history: History, columns: ColumnPacker) -> dict[str, Any]:
    """Steps to mark; of too many, that with the largest peak of each stretch of them."""
    steps = history.steps
    number = len(steps)
    place = np.arange(number, dtype=np.int64)
    if number > MOST_STEPS:
        together = sum(history.step_peaks.values(), np.zeros(number, np.int64))
        stretch = place * MOST_STEPS // number
        order = np.lexsort((-together, stretch))
        place = np.sort(order[np.flatnonzero(np.diff(stretch[order], prepend=-1))])
    begin = steps.start_time_ns[place]
    return {
        "total": number,
        "number": columns.add(steps.number[place], delta=True),
        "begin_ns": columns.add(begin, delta=True),
        "lasted_ns": columns.add(np.maximum(_ends(history, place) - begin, 0)),
        "batch": columns.add(steps.batch_size[place] + 1),
        "peaks": {
            device: columns.add(np.maximum(peaks[place], 0))
            for device, peaks in history.step_peaks.items()
        },
    }


def _ends(history: History, place: Int64s) -> Int64s:
    """Of a step that did not end: where the recording did."""
    last = max(int(device.curve.last_ns[-1]) for device in history.devices)
    ends = history.steps.end_time_ns[place]
    found: Int64s = np.where(ends > 0, ends, last)
    return found


def listed_stages(history: History) -> list[dict[str, Any]]:
    """Stages to mark; of too many, the longest."""
    stages = without_doubles([stage for stage in history.stages if stage.kind != "whole"])
    longest = sorted(stages, key=lambda stage: stage.start_time_ns - stage.end_time_ns)
    shown = sorted(longest[:MOST_STAGES], key=lambda stage: (stage.start_time_ns, stage.start_seq))
    return [
        {
            "name": stage.name,
            "kind": stage.kind,
            "begin_ns": stage.start_time_ns,
            "end_ns": stage.end_time_ns,
        }
        for stage in shown
    ]
