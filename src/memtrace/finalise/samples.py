"""What was sampled of a process from outside it, as rows of `samples` and of `timeline`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memtrace import _core
from memtrace.errors import encodable
from memtrace.finalise.spools import Spool
from memtrace.sample.sample_file import ANY_GPU, Reading, file_size, read_samples
from memtrace.schema import SCHEMAS

# Marks are samples too, and a program may set any number of them.
_MOST_BINS = 16_384
_HOST, _CPU, _REASON = "host", "cpu", "period"

Int64s = npt.NDArray[np.int64]


class OutsideSamples:
    """Of one process. Its rows are known when all batches of its conversion went through look()."""

    def __init__(self, spool_dir: Path, *, origin_ns: int) -> None:
        self._spool_dir = spool_dir
        self._origin_ns = origin_ns
        self._bytes_read = 0
        self._readings: list[Reading] = []
        self._times: Int64s = np.empty(0, np.int64)
        self._seqs: Int64s = np.empty(0, np.int64)
        self._batch_ends: list[tuple[int, int]] = []  # time of the last event, place after it
        self._host: list[tuple[Int64s, Int64s]] = []

    def _read_on(self) -> None:
        """Of a process that runs, what was read of it meanwhile."""
        size = file_size(str(self._spool_dir))
        if size == self._bytes_read:
            return
        self._bytes_read = size
        readings = [
            reading._replace(monotonic_ns=reading.monotonic_ns - self._origin_ns)
            for reading in read_samples(str(self._spool_dir))
            if reading.monotonic_ns >= self._origin_ns
        ]
        ends = np.array(self._batch_ends, np.int64).reshape(-1, 2)
        times = np.array([r.monotonic_ns for r in readings], np.int64)
        places = np.searchsorted(ends[:, 0], times[len(self._times) :], side="right")
        late = np.append(0, ends[:, 1])[places]  # as near as can be told by now
        self._readings, self._times = readings, times
        self._seqs = np.append(self._seqs, late)

    def look(self, batch: _core.Batch) -> None:
        """Events say at which place in their order a sample was taken; samples what RSS was."""
        if batch.dataset == "events":
            self._read_on()
            columns = {column.name: column.values for column in batch.columns}
            # After the last event that is not later: times do not fall in the order of events.
            places = np.searchsorted(columns["time_ns"], self._times, side="right")
            np.maximum(self._seqs, (places > 0) * (columns["seq"][0] + places), out=self._seqs)
            self._batch_ends.append((int(columns["time_ns"][-1]), int(columns["seq"][-1]) + 1))
        elif batch.dataset == "samples":
            columns = {column.name: column.values for column in batch.columns}
            chosen = _equals(batch, "source", "rss")
            self._host.append((columns["time_ns"][chosen], columns["value_bytes"][chosen]))

    def tables(self, spool: Spool) -> list[tuple[str, pa.Table]]:
        """Datasets and the rows to add to them, those that have any."""
        self._read_on()
        devices = _devices(spool)
        found = [
            (reading._replace(target=target), seq)
            for reading, seq in zip(self._readings, self._seqs.tolist(), strict=True)
            for target in _targets(reading.target, devices)
        ]
        self._readings = [reading for reading, _ in found]
        self._seqs = np.array([seq for _, seq in found], np.int64)
        tables = [("samples", self._sample_rows()), ("timeline", self._timeline_rows())]
        return [(name, table) for name, table in tables if table.num_rows]

    def _sample_rows(self) -> pa.Table:
        rows = [
            {
                "time_ns": reading.monotonic_ns,
                "seq": int(seq),
                "target": reading.target,
                "source": reading.source,
                "metric": reading.metric,
                "value_bytes": reading.value_bytes,
                "text": reading.text,
                "reason": _REASON,
            }
            for reading, seq in zip(self._readings, self._seqs, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMAS["samples"])

    def _timeline_rows(self) -> pa.Table:
        # The metric `process`: its memory as the system counts it.
        taken: dict[str, list[tuple[Int64s, Int64s]]] = {_CPU: list(self._host)}
        for device, metric in {(r.target, r.metric) for r in self._readings}:
            if metric == "rss" or (metric == "process" and device != _HOST):
                chosen = [
                    (r.monotonic_ns, r.value_bytes)
                    for r in self._readings
                    if (r.target, r.metric) == (device, metric) and r.value_bytes is not None
                ]
                times, values = np.array(chosen, np.int64).reshape(-1, 2).T
                taken.setdefault(_CPU if device == _HOST else device, []).append((times, values))
        tables = [
            _timeline(device, *(np.concatenate(column) for column in zip(*parts, strict=True)))
            for device, parts in sorted(taken.items())
            if parts
        ]
        return pa.concat_tables([SCHEMAS["timeline"].empty_table(), *tables])


def _devices(spool: Spool) -> dict[str, str]:
    """uuid -> "cuda:0"; torch leaves out the prefix that NVML writes."""
    listed = spool.notes.get("devices")
    found = [d for d in listed if isinstance(d, dict)] if isinstance(listed, list) else []
    return {
        _plain_uuid(str(d.get("uuid"))): encodable(str(d["device"])) for d in found if "device" in d
    }


def _plain_uuid(uuid: str) -> str:
    return uuid.lower().removeprefix("gpu-").removeprefix("mig-")


def _targets(target: str, devices: dict[str, str]) -> list[str]:
    if target == ANY_GPU:
        return list(devices.values())
    if target in (_HOST, "container"):
        return [target]
    device = devices.get(_plain_uuid(target))
    return [] if device is None else [device]


def _equals(batch: _core.Batch, column: str, word: str) -> npt.NDArray[np.bool_]:
    (found,) = (c for c in batch.columns if c.name == column)
    words = found.dictionary or []
    code = words.index(word) if word in words else -1
    flags: npt.NDArray[np.bool_] = found.values == code
    return flags


def _timeline(device: str, times: Int64s, values: Int64s) -> pa.Table:
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    if not len(times):
        return SCHEMAS["timeline"].empty_table()
    places = times
    if len(times) > _MOST_BINS:
        width = max(-(-(int(times[-1]) + 1) // _MOST_BINS), 1)
        places = times // width * width
    starts = np.flatnonzero(np.diff(places, prepend=places[0] - 1))
    ends = np.append(starts[1:], len(places)) - 1
    before = np.append(values[0], values[ends][:-1])  # still stands as a bin begins
    columns: dict[str, Any] = {
        "device": pa.repeat(device, len(starts)),
        "metric": pa.repeat("process", len(starts)),
        "key": pa.nulls(len(starts), pa.string()),
        "bin_start_ns": places[starts],
        "min_bytes": np.minimum(np.minimum.reduceat(values, starts), before),
        "max_bytes": np.maximum(np.maximum.reduceat(values, starts), before),
        "last_bytes": values[ends],
    }
    return pa.table(columns, schema=SCHEMAS["timeline"])
