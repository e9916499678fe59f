"""A made-up training of any length, written as a trace: nothing of it repeats exactly.

2,500 allocations a step, in 48 layers: weights and what belongs to them stay, activations live from
the forward to the backward, the rest for some events. Sizes, lives and times vary, so a page of it
is as large as it gets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memtrace.dataset_writer import DatasetWriter
from memtrace.schema import ATTRIBUTION_VERSION, FORMAT_VERSION, SCHEMAS

KEY = "box-4242-a1b2c3z"
PER_STEP, LAYERS, STACKS, FRAMES = 2500, 48, 900, 18
MIB = 2**20
_GROUP_ROWS = 1 << 17
_OPERATORS = ("aten::mm", "aten::addmm", "aten::mul", "aten::add", "aten::native_layer_norm",
              "aten::_softmax", "aten::gelu", "aten::cat", "aten::bmm", "aten::sum")  # fmt: skip
_PARTS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "ln_1", "ln_2")
_CATEGORIES = ("weight", "gradient", "optimizer_state", "activation", "temporary", "workspace")

Int64s = npt.NDArray[np.int64]


def write_trace(trace_dir: Path, events: int) -> None:
    """Writes a trace of about so many events of one GPU."""
    random = np.random.default_rng(7)
    n = events // 2
    number = np.arange(n)
    place = number % PER_STEP
    first = number < 3 * LAYERS * 12  # of the first step, what stays
    saved = (place < PER_STEP // 2) & (random.random(n) < 0.4) & ~first
    lives = random.geometric(0.08, n).astype(np.float64)
    lives[saved] = 2.0 * (PER_STEP - 2 * place[saved] + random.integers(0, 40, saved.sum()))
    lives[first] = np.inf
    sizes = np.exp(random.normal(12.5, 1.6, n)).astype(np.int64)
    sizes = np.where(first, 8 * MIB + number % 7 * MIB, sizes) // 512 * 512 + 512
    born_key = 2.0 * number
    died_key = np.maximum(born_key + lives, born_key + 0.5)
    keys = np.concatenate([born_key, died_key[~first]])
    order = np.argsort(keys, kind="stable")
    seq_of = np.empty(len(keys), np.int64)
    seq_of[order] = np.arange(len(keys))
    born = seq_of[:n]
    died = np.full(n, -1, np.int64)
    died[~first] = seq_of[n:]
    time_ns = np.cumsum(random.lognormal(8.5, 0.9, len(keys)).astype(np.int64) + 200)
    layer = (place * LAYERS // PER_STEP).astype(np.int64)
    kind = np.where(first, number % 3, np.where(saved, 3, 4 + (random.random(n) < 0.1)))
    columns = {
        "size": sizes, "born": born, "died": died, "layer": layer, "kind": kind, "place": place,
        "op": place * 7919 % 10,
    }  # fmt: skip
    _write_events(trace_dir, order, n, np.flatnonzero(~first), columns, time_ns)
    _write_allocations(trace_dir, columns, time_ns)
    _write_rest(trace_dir, columns, time_ns, len(keys))


def _write(trace_dir: Path, dataset: str, tables: list[pa.Table]) -> None:
    with DatasetWriter(trace_dir / dataset / f"process={KEY}", dataset) as writer:
        for table in tables:
            writer.write(table)


def _table(dataset: str, rows: int, **columns: Any) -> pa.Table:
    schema = SCHEMAS[dataset]
    return pa.table(
        [
            pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(rows, f.type)
            for f in schema
        ],
        schema=schema,
    )


def _write_events(
    trace_dir: Path, order: Int64s, n: int, freed: Int64s, c: dict[str, Int64s], time_ns: Int64s
) -> None:
    which = np.where(order < n, order, freed[np.maximum(order - n, 0)])
    is_alloc = order < n
    allocated = np.cumsum(np.where(is_alloc, c["size"][which], -c["size"][which]))
    reserved = -(-np.maximum.accumulate(allocated) // (20 * MIB)) * 20 * MIB
    actions: list[str | None] = ["alloc", "free_completed"]

    def group(at: int) -> pa.Table:
        rows = slice(at, at + _GROUP_ROWS)
        size, part = c["size"][which[rows]], len(order[rows])
        return _table(
            "events", part,
            seq=np.arange(at, at + part), time_ns=time_ns[rows],
            device=["cuda:0"] * part,
            action=_words((~is_alloc[rows]).astype(np.int64), actions),
            allocation_id=which[rows] + 1, size_bytes=size, block_bytes=size,
            allocated_bytes=allocated[rows], active_bytes=allocated[rows],
            reserved_bytes=reserved[rows],
        )  # fmt: skip

    _write(trace_dir, "events", [group(at) for at in range(0, len(order), _GROUP_ROWS)])


def _words(codes: Int64s, words: list[str | None]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32)), pa.array(words, pa.string())
    ).cast(pa.string())


def _write_allocations(trace_dir: Path, c: dict[str, Int64s], time_ns: Int64s) -> None:
    modules = [f"transformer.h.{layer}.{part}" for layer in range(LAYERS) for part in _PARTS]
    sources = [f"model_{i % 9}.py:{40 + 7 * i} forward_{i}" for i in range(STACKS)]
    order = np.argsort(c["born"], kind="stable")

    def group(at: int) -> pa.Table:
        rows = order[at : at + _GROUP_ROWS]
        part = len(rows)
        died = c["died"][rows]
        never = died < 0
        free = pa.array(died, mask=never)
        free_ns = pa.array(time_ns[np.maximum(died, 0)], mask=never)
        stack = c["place"][rows] * STACKS // PER_STEP
        return _table(
            "allocations", part,
            allocation_id=rows + 1, device=["cuda:0"] * part, memory=["device"] * part,
            origin=["recorded"] * part, address=(1 << 40) + 512 * rows.astype(np.int64),
            size_bytes=c["size"][rows] - 100, block_bytes=c["size"][rows],
            alloc_seq=c["born"][rows],
            free_seq=free, release_seq=free, alloc_time_ns=time_ns[c["born"][rows]],
            free_time_ns=free_ns, release_time_ns=free_ns, thread_id=[1] * part,
            operator=_words(c["op"][rows], list(_OPERATORS)),
            module=_words(c["layer"][rows] * len(_PARTS) + c["op"][rows] % 6, list(modules)),
            source=_words(stack, list(sources)), stack_id=stack + 1,
            category=_words(c["kind"][rows], list(_CATEGORIES)),
            step=rows // PER_STEP,
        )  # fmt: skip

    _write(trace_dir, "allocations", [group(at) for at in range(0, len(order), _GROUP_ROWS)])


def _write_rest(trace_dir: Path, c: dict[str, Int64s], time_ns: Int64s, events: int) -> None:
    starts = c["born"][::PER_STEP]
    ends = np.append(starts[1:], events)
    steps = [
        {"step": i, "kind": "training", "root_module": "GPT2", "thread_id": 1, "start_seq": int(a),
         "end_seq": int(b), "start_time_ns": int(time_ns[a]), "end_time_ns": int(time_ns[b - 1]),
         "batch_size": 8, "grad_enabled": True}
        for i, (a, b) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True))
    ]  # fmt: skip
    middle = len(starts) // 10
    stages = [
        {"stage_id": i + 1, "name": name, "kind": "user", "thread_id": 1, "start_seq": int(a),
         "end_seq": int(b), "start_time_ns": int(time_ns[a]), "end_time_ns": int(time_ns[b - 1])}
        for i, (name, a, b) in enumerate(
            (("warmup", 0, int(starts[middle])), ("train", int(starts[middle]), events))
        )
    ]  # fmt: skip
    stacks = [
        {"stack_id": i + 1, "depth": depth, "kind": "python", "function": f"forward_{i}_{depth}",
         "file": f"/home/u/model_{i % 9}.py", "line": 40 + 7 * i + depth,
         "source": f"model_{i % 9}.py:{40 + 7 * i} forward_{i}" if depth == 0 else None}
        for i in range(STACKS) for depth in range(FRAMES)
    ]  # fmt: skip
    process = {
        "host": "box", "boot_id": "boot", "pid": 4242, "start_method": "main",
        "argv": json.dumps(["train.py", "--steps", str(len(starts))]), "argv_withheld": False,
        "torch_version": "2.13.0", "python_version": "3.11.2", "format_version": FORMAT_VERSION,
        "attribution_version": ATTRIBUTION_VERSION, "clock_origin_ns": 10**12,
        "clock_origin_unix_ns": 179 * 10**16, "end_reason": "exit", "exit_status": 0,
        "complete": True, "lost_events": "{}", "lost_total": 0, "events": events,
        "end_time_ns": int(time_ns[-1]) + 1000,
        "devices": json.dumps([{"device": "cuda:0", "name": "H100", "total_bytes": 80 << 30}]),
    }  # fmt: skip
    rows = {"steps": steps, "stages": stages, "stacks": stacks, "processes": [process]}
    for dataset in SCHEMAS:
        if dataset not in ("events", "allocations"):
            found = pa.Table.from_pylist(rows.get(dataset, []), schema=SCHEMAS[dataset])
            _write(trace_dir, dataset, [found])
