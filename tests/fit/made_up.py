"""Traces of made-up programs that fit is asked about."""

from __future__ import annotations

from pathlib import Path

from memtrace.trace import Trace, open_trace
from trace_builder import ProcessBuilder, TraceBuilder

MIB = 1 << 20
GIB = 1 << 30


def server(path: Path, **row: object) -> Trace:
    """On a GPU: loads 8 GiB twice, keeps one, and serves batches of 2 with a KV cache."""
    builder = TraceBuilder(path)
    p = builder.process(**row)
    with p.stage("load", kind="auto"):
        p.segment("cuda:0", 18 * GIB)
        first = p.alloc("cuda:0", 8 * GIB, category="other", operator="aten::empty")
        weight = p.alloc("cuda:0", 8 * GIB, category="weight", module="lm", operator="aten::to")
        p.name(weight, "lm.weight", kind="weight", dtype="bfloat16", shape=[65536, 65536])
        p.free(first)
        p.sample("cuda:0", "nvml", "process", 18 * GIB + 400 * MIB, reason="period")
        p.sample("host", "rss", "rss", 900 * MIB, reason="period")
    with p.stage("inference", kind="auto"):
        for tokens in (64, 128):
            call(p, tokens)
    p.sample("host", "rss", "rss", 1000 * MIB, reason="end")
    return open_trace(builder.write())


def call(p: ProcessBuilder, tokens: int) -> None:
    """A call of the model for two sequences: 4 tensors of a cache, and an activation."""
    with p.step(batch_size=2, input_shapes=f'{{"ids": [2, {tokens}]}}'):
        held = []
        for name in ("0 key", "0 value", "1 key", "1 value"):
            held.append(
                p.alloc("cuda:0", 2 * 4 * tokens * 64 * 2, category="kv_cache", module="lm.attn",
                        operator="aten::cat")
            )  # fmt: skip
            p.name(held[-1], f"layer {name}", kind="kv_cache", dtype="bfloat16",
                   shape=[2, 4, tokens, 64])  # fmt: skip
        held.append(p.alloc("cuda:0", GIB, category="activation", module="lm.mlp",
                            operator="aten::mm"))  # fmt: skip
        for row in held:
            p.free(row)


def worker(path: Path, *, shared: int = 0, **row: object) -> Trace:
    """On the CPU: 100 MiB of weights, 40 MiB in a call, beside 200 MiB of everything else."""
    builder = TraceBuilder(path)
    p = builder.process(**row)
    p.sample("host", "rss", "rss", 200 * MIB, reason="period")
    p.alloc("cpu", 100 * MIB, category="weight", module="lm", operator="aten::empty")
    if shared:
        p.alloc("cpu", shared, action="external", memory="mapped", category="weight",
                resident_bytes=shared, label="mapped.weight")  # fmt: skip
    p.sample("host", "rss", "rss", 300 * MIB + shared, reason="period")
    with p.step(batch_size=1):
        for size in (40, 20):
            held = p.alloc("cpu", size * MIB, category="activation", operator="aten::mm")
            p.sample("host", "rss", "rss", (300 + size) * MIB + shared, reason="period")
            p.sample("host", "pss", "pss", 280 * MIB, reason="period")
            p.free(held)
    # What was live for a moment no sample has seen.
    with p.step(batch_size=3):
        p.free(p.alloc("cpu", 90 * MIB, category="activation", operator="aten::mm"))
    p.sample("host", "rss", "rss", 300 * MIB + shared, reason="end")
    return open_trace(builder.write())
