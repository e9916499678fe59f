"""Writes small valid traces from Python: what a finaliser would have written for a made-up program.

builder = TraceBuilder(tmp_path / "x.memtrace")
process = builder.process(pid=100)
block = process.alloc("cuda:0", 1000, operator="aten::mm")
process.free(block)
builder.write()
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from memtrace.dataset_writer import PartWriter
from memtrace.schema import ATTRIBUTION_VERSION, FORMAT_VERSION, SCHEMAS

ORIGIN_NS = 1_000_000_000_000
ORIGIN_UNIX_NS = 1_790_000_000_000_000_000
_CUDA_ROUND = 512


def write_dataset(
    trace_dir: Path,
    name: str,
    key: str,
    rows: list[dict[str, Any]],
    *,
    parts: int = 1,
    rows_per_group: int = 4,
) -> None:
    """Rows as part files; small row groups, so that readers that skip some are tested."""
    folder = trace_dir / name / f"process={key}"
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=SCHEMAS[name])
    step = max(1, -(-len(rows) // parts))
    for part in range(parts):
        path = folder / f"part-{part:05}.parquet"
        path.unlink(missing_ok=True)
        rows_of_part = table.slice(part * step, step)
        with PartWriter(path, name, table.schema) as writer:
            for start in range(0, max(rows_of_part.num_rows, 1), rows_per_group):
                writer.write(rows_of_part.slice(start, rows_per_group))


class ProcessBuilder:
    """A made-up program: every call is an event, and keeps the running totals as torch does."""

    def __init__(self, key: str, pid: int, **row: Any) -> None:
        self.key = key
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
        self.seq = -1
        self.time_ns = 0
        self.tick_ns = 1_000
        self.totals: dict[str, dict[str, int]] = {}
        self._calls = 0
        self.row = {
            "host": "box", "boot_id": "boot", "pid": pid, "start_method": "main",
            "argv": json.dumps(["serve.py", "--requests", "3"]), "argv_withheld": False,
            "memtrace_version": "0.1.0", "torch_version": "2.13.0", "python_version": "3.11.2",
            "format_version": FORMAT_VERSION, "attribution_version": ATTRIBUTION_VERSION,
            "clock_origin_ns": ORIGIN_NS, "clock_origin_unix_ns": ORIGIN_UNIX_NS,
            "end_reason": "exit", "exit_status": 0, "complete": True,
            "lost_events": json.dumps({"event_no_space": 0, "stack_too_deep": 0}),
            "lost_total": 0, "unmatched_frees": 0, "stack_min_bytes": 0, "operators_on": True,
            "devices": json.dumps([
                {"device": "cuda:0", "uuid": "u", "name": "Simulated H100",
                 "total_bytes": 80 * 2**30},
            ]),
            "reconciled": True, "mismatch_bytes": 0,
            **row,
        }  # fmt: skip

    def alloc(
        self, device: str, size_bytes: int, *, action: str = "alloc", **columns: Any
    ) -> dict[str, Any]:
        """A live allocation; the returned row is what `free` takes."""
        cuda = device != "cpu"
        block = -(-max(size_bytes, 1) // _CUDA_ROUND) * _CUDA_ROUND if cuda else size_bytes
        block = columns.pop("block_bytes", block)
        external = action == "external"
        if not external:
            self._add(device, allocated=block, active=block)
        row = {
            "allocation_id": len(self.rows["allocations"]) + 1,
            "device": device,
            "memory": "device" if cuda else "host",
            "origin": action if action in ("preexisting", "external") else "recorded",
            "address": 0x7F00_0000_0000 + 512 * self.seq,
            "size_bytes": size_bytes,
            "block_bytes": block,
            "thread_id": 1,
            "pool": "default",
            "category": "other",
            **columns,
        }
        self._event(device, action, row)
        row |= {"alloc_seq": self.seq, "alloc_time_ns": self.time_ns}
        self.rows["allocations"].append(row)
        return row

    def free(self, row: dict[str, Any], *, hold: bool = False) -> None:
        """Requests the free; with `hold` a stream still uses the block (see `release`)."""
        if row["origin"] != "external":
            self._add(row["device"], allocated=-row["block_bytes"])
            if row["device"] == "cpu":
                self._add("cpu", active=-row["block_bytes"])
        self._event(row["device"], "free_requested", row)
        row |= {"free_seq": self.seq, "free_time_ns": self.time_ns, "free_thread_id": 1}
        if row["device"] != "cpu" and not hold:
            self.release(row)

    def release(self, row: dict[str, Any]) -> None:
        """Completes a free."""
        self._add(row["device"], active=-row["block_bytes"])
        self._event(row["device"], "free_completed", row)
        row |= {"release_seq": self.seq, "release_time_ns": self.time_ns}

    def segment(self, device: str, size_bytes: int, **columns: Any) -> dict[str, Any]:
        """The allocator takes memory of the device."""
        self._add(device, reserved=size_bytes)
        row = {
            "segment_id": len(self.rows["segments"]) + 1,
            "device": device,
            "address": 0x7F00_0000_0000,
            "size_bytes": size_bytes,
            **columns,
        }
        self._event(device, "segment_alloc", row)
        row |= {"alloc_seq": self.seq, "alloc_time_ns": self.time_ns}
        self.rows["segments"].append(row)
        return row

    def unsegment(self, row: dict[str, Any]) -> None:
        """The allocator gives it back."""
        self._add(row["device"], reserved=-row["size_bytes"])
        self._event(row["device"], "segment_free", row)
        row |= {"free_seq": self.seq, "free_time_ns": self.time_ns}

    def oom(
        self,
        device: str,
        size_bytes: int,
        free_bytes: int,
        asked: dict[str, Any] | None = None,
        **columns: Any,
    ) -> None:
        """A request that failed; `asked`: what its mark says of who asked."""
        self._add(device)
        self._event(device, "oom", {"address": None, "size_bytes": size_bytes})
        self.rows["events"][-1] |= {"device_free_bytes": free_bytes, **columns}
        self.rows["marks"].append(
            {
                "seq": self.seq, "time_ns": self.time_ns, "device": device, "kind": "oom",
                "text": json.dumps(asked or {}), "thread_id": 1,
            }
        )  # fmt: skip

    def operator(self, call_id: int, name: str, **columns: Any) -> int:
        """A call of an operator."""
        self.rows["operators"].append(
            {"call_id": call_id, "name": name, "scope": "function", "thread_id": 1, **columns}
        )
        return call_id

    def short_step(self, root_module: str = "Net", **columns: Any) -> None:
        """A model's call begins; it lasts to the next event."""
        self.time_ns += self.tick_ns
        self.rows["steps"].append(
            {
                "step": len(self.rows["steps"]), "root_module": root_module, "thread_id": 1,
                "start_seq": self.seq + 1, "end_seq": self.seq + 1, "start_time_ns": self.time_ns,
                "end_time_ns": self.time_ns, **columns,
            }
        )  # fmt: skip

    def name(self, row: dict[str, Any], name: str, **columns: Any) -> None:
        """A tensor's name."""
        self.rows["names"].append({"allocation_id": row["allocation_id"], "name": name, **columns})

    def stack(self, stack_id: int, *frames: tuple[str, str, int]) -> int:
        """A stack of (function, file, line), innermost first."""
        for depth, (function, file, line) in enumerate(frames):
            source = f"{Path(file).name}:{line} {function}" if depth == 0 else None
            self.rows["stacks"].append(
                {"stack_id": stack_id, "depth": depth, "kind": "python", "function": function,
                 "file": file, "line": line, "source": source}
            )  # fmt: skip
        return stack_id

    def sample(
        self, target: str, source: str, metric: str, value_bytes: int | None, **columns: Any
    ) -> None:
        """A reading of a counter: its place is that of the next event."""
        self.time_ns += self.tick_ns
        self.rows["samples"].append(
            {"time_ns": self.time_ns, "seq": self.seq + 1, "target": target, "source": source,
             "metric": metric, "value_bytes": value_bytes, "reason": "mark", **columns}
        )  # fmt: skip

    @contextmanager
    def stage(self, name: str, *, thread_id: int | None = 1, kind: str = "user") -> Iterator[None]:
        """A stage around what happens inside it, from the next event on."""
        self.time_ns += self.tick_ns
        row = {
            "stage_id": len(self.rows["stages"]) + 1, "name": name, "kind": kind,
            "thread_id": thread_id, "start_seq": self.seq + 1, "start_time_ns": self.time_ns,
        }  # fmt: skip
        self.rows["stages"].append(row)
        yield
        self.time_ns += self.tick_ns
        row |= {"end_seq": self.seq + 1, "end_time_ns": self.time_ns}

    @contextmanager
    def step(self, **columns: Any) -> Iterator[dict[str, Any]]:
        """A root model's call around what happens inside it."""
        self.time_ns += self.tick_ns
        row = {
            "step": len(self.rows["steps"]) + 1, "root_module": "Model", "thread_id": 1,
            "start_seq": self.seq + 1, "start_time_ns": self.time_ns, "grad_enabled": False,
            **columns,
        }  # fmt: skip
        self.rows["steps"].append(row)
        yield row
        self.time_ns += self.tick_ns
        row |= {"end_seq": self.seq + 1, "end_time_ns": self.time_ns}

    def mark(self, kind: str, **columns: Any) -> None:
        """A mark of the main thread's."""
        self.time_ns += self.tick_ns
        self.rows["marks"].append(
            {"seq": self.seq + 1, "time_ns": self.time_ns, "kind": kind, "thread_id": 1, **columns}
        )

    @contextmanager
    def marked(self, kind: str, **columns: Any) -> Iterator[None]:
        """`kind` is backward, optimizer or recompute."""
        self.mark(f"{kind}_begin", **columns)
        yield
        self.mark(f"{kind}_end", **columns)

    @contextmanager
    def call(self, name: str, **columns: Any) -> Iterator[int]:
        """An operator's call around what happens inside it: its id."""
        self.time_ns += self.tick_ns
        self._calls += 1
        row = {
            "call_id": self._calls, "name": name, "scope": "function", "thread_id": 1,
            "start_seq": self.seq + 1, "start_time_ns": self.time_ns,
            "allocated_bytes": 1, "freed_bytes": 0, **columns,
        }  # fmt: skip
        yield row["call_id"]
        self.time_ns += self.tick_ns
        self.rows["operators"].append(row | {"end_time_ns": self.time_ns})

    def _add(self, device: str, **deltas: int) -> None:
        totals = self.totals.setdefault(device, {"allocated": 0, "active": 0, "reserved": 0})
        for of, delta in deltas.items():
            totals[of] += delta

    def _event(self, device: str, action: str, row: dict[str, Any]) -> None:
        self.seq += 1
        self.time_ns += self.tick_ns
        totals = self.totals.setdefault(device, {"allocated": 0, "active": 0, "reserved": 0})
        self.rows["events"].append(
            {
                "seq": self.seq, "time_ns": self.time_ns, "device": device, "action": action,
                "allocation_id": row.get("allocation_id"), "segment_id": row.get("segment_id"),
                "address": row["address"], "size_bytes": row["size_bytes"],
                "block_bytes": row.get("block_bytes"), "thread_id": 1,
                "stack_id": row.get("stack_id"), "pool": "default",
                **{f"{of}_bytes": total for of, total in totals.items()},
            }
        )  # fmt: skip


class TraceBuilder:
    """A trace of any number of made-up programs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.processes: list[ProcessBuilder] = []

    def process(self, pid: int = 100, **row: Any) -> ProcessBuilder:
        """Another process; `row` overrides columns of `processes`."""
        builder = ProcessBuilder(f"box-{pid}-a{pid}z", pid, **row)
        self.processes.append(builder)
        return builder

    def write(self, *, parts: int = 1, rows_per_group: int = 4) -> Path:
        """Writes all datasets of all processes and returns the trace's path."""
        self.path.mkdir(exist_ok=True)
        for process in self.processes:
            end = {
                "end_time_ns": process.time_ns + process.tick_ns,
                "events": len(process.rows["events"]),
            }
            counts = {n: len(rows) for n, rows in process.rows.items() if n != "processes"}
            process.rows["processes"] = [{**end, "dataset_rows": json.dumps(counts), **process.row}]
            for name, rows in process.rows.items():
                split = parts if name in ("events", "allocations") else 1
                write_dataset(
                    self.path, name, process.key, rows, parts=split, rows_per_group=rows_per_group
                )
        return self.path


def serving_trace(path: Path, **row: Any) -> Path:
    """A small server's run, with something of everything: the trace that reports are tested on."""
    builder = TraceBuilder(path)
    p = builder.process(**row)
    p.tick_ns = 7_000_000
    mib = 2**20
    p.stack(1, ("from_pretrained", "/srv/app/load.py", 12), ("main", "/srv/app/serve.py", 88))
    p.stack(2, ("forward", "/srv/app/model.py", 120),
            ("_call_impl", "/torch/nn/modules/module.py", 1790),
            ("generate", "/srv/app/serve.py", 61), ("main", "/srv/app/serve.py", 93))  # fmt: skip
    with p.stage("load"):
        for layer in range(6):
            if layer % 2 == 0:
                p.segment("cuda:0", 40 * mib)
            weight = p.alloc(
                "cuda:0", 16 * mib, operator="aten::to", module=None, source="load.py:12 load",
                category="weight", category_by="identity", label=f"h.{layer}.mlp.weight",
                stack_id=1, stage="load",
            )  # fmt: skip
            p.name(weight, f"h.{layer}.mlp.weight", kind="weight", dtype="float32")
        staging = p.alloc("cpu", 3 * mib, operator="aten::empty", source="load.py:9 read")
        p.free(staging)
    p.sample("host", "rss", "rss", 900 * mib)
    with p.stage("serve"):
        p.segment("cuda:0", 64 * mib)
        held = []
        for layer in range(6):
            held.append(
                p.alloc(
                    "cuda:0",
                    (layer + 1) * mib - 100,
                    operator="aten::addmm",
                    top_operator="aten::linear",
                    module=f"h.{layer}.mlp.c_fc",
                    module_class="Linear",
                    source="model.py:120 forward",
                    category="activation",
                    stack_id=2,
                    stage="serve",
                )
            )
            p.alloc(
                "cuda:0", mib, operator="aten::cat", module=f"h.{layer}.attn",
                source="cache.py:33 update", category="kv_cache", stage="serve",
            )  # fmt: skip
        p.alloc("cuda:0", 5000, category="other")
        for row in held:
            p.free(row)
    p.sample("host", "rss", "rss", 1100 * mib)
    return builder.write()


def failing_trace(path: Path, **row: Any) -> Path:
    """A training that keeps its losses, in segments that its cache has cut up, until none fits."""
    mib = 2**20
    builder = TraceBuilder(path)
    devices = [{"device": "cuda:0", "name": "Small", "total_bytes": 400 * mib}]
    p = builder.process(devices=json.dumps(devices), **row)
    p.tick_ns = 7_000_000
    p.stack(1, ("forward", "/srv/app/model.py", 88), ("main", "/srv/app/train.py", 30))
    p.rows["stacks"][0] |= {"module": "h.3.mlp", "module_class": "MLP"}
    asked = {
        "operator": "aten::mm", "top_operator": "aten::linear", "module": "h.3.mlp",
        "module_class": "MLP", "source": "model.py:88 forward",
    }  # fmt: skip
    base = 0x7F00_0000_0000
    for step in range(12):
        p.short_step("Net")
        p.segment(
            "cuda:0", 20 * mib, address=base + 40 * step * mib, pool="default", small=False,
            expandable=False, stream=0,
        )  # fmt: skip
        p.alloc(
            "cuda:0", 2 * mib, address=base + 40 * step * mib, source="train.py:42 main",
            operator="aten::mean", module="Net", category="other", stack_id=1,
        )  # fmt: skip
        if step == 5:
            p.oom("cuda:0", 300 * mib, 90 * mib, asked, stack_id=1)
    p.oom("cuda:0", 150 * mib, 100 * mib, asked, stack_id=1)
    return builder.write()
