"""Sums of what was live at many instants, against looking at every allocation."""

from __future__ import annotations

from pathlib import Path
from random import Random

from memtrace.analyse.held import Kind, held_at
from memtrace.trace import open_trace
from trace_builder import TraceBuilder

MIB = 1 << 20


def test_sums_by_kind_at_any_instants(tmp_path: Path) -> None:
    random = Random(5)
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    live = []
    for _ in range(400):
        if live and random.random() < 0.5:
            process.free(live.pop(random.randrange(len(live))))
            continue
        device = random.choice(["cpu", "cuda:0"])
        columns = {
            "category": random.choice(["weight", "activation", None]),
            "pool": random.choice(["default", "graph:0-1"]),
            "memory": "device" if device != "cpu" else random.choice(["host", "pinned"]),
        }
        if device == "cpu" and random.random() < 0.3:
            columns |= {
                "action": "external",
                "memory": "mapped",
                "resident_bytes": random.choice([None, 0, 4096]),
            }
        live.append(process.alloc(device, random.randrange(4096, 90000), **columns))
    trace = open_trace(builder.write(parts=3, rows_per_group=29))
    seqs = [-1, *random.sample(range(process.seq), 30), process.seq]
    for device in ("cpu", "cuda:0"):
        found = held_at(trace, process.key, device, seqs)
        assert sorted(found) == sorted(set(seqs))
        for seq, held in found.items():
            expected: dict[Kind, list[int]] = {}
            for row in process.rows["allocations"]:
                end = row.get("free_seq", seq + 1)
                if row["device"] != device or not row["alloc_seq"] <= seq < end:
                    continue
                external = row["origin"] == "external"
                kind = Kind(row["category"], row["memory"], row["pool"], external)
                sums = expected.setdefault(kind, [0, 0, 0, 0])
                resident = row.get("resident_bytes")
                sums[0] += row["block_bytes"]
                sums[1] += row["size_bytes"]
                sums[2] += resident or 0
                sums[3] += row["size_bytes"] if resident is None else 0
            got = {
                kind: [s.block_bytes, s.size_bytes, s.resident_bytes, s.unknown_bytes]
                for kind, s in held.kinds.items()
            }
            assert got == expected


def test_segments_that_nothing_active_lies_in(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    first = process.segment("cuda:0", 20 * MIB, address=100 * MIB)
    process.segment("cuda:0", 2 * MIB, address=200 * MIB, pool="graph:0-1")
    other = process.alloc("cuda:1", MIB, address=100 * MIB)
    at_first = process.seq
    block = process.alloc("cuda:0", MIB, address=119 * MIB)
    used = process.seq
    process.free(block, hold=True)
    held_back = process.seq
    process.release(block)
    released = process.seq
    process.unsegment(first)
    trace = open_trace(builder.write())
    found = held_at(
        trace, process.key, "cuda:0", [at_first, used, held_back, released, process.seq]
    )
    free = [found[seq].whole_free_bytes // MIB for seq in sorted(found)]
    assert free == [22, 2, 2, 22, 2]
    assert found[used].pools == {"default": 20 * MIB, "graph:0-1": 2 * MIB}
    assert found[process.seq].pools == {"graph:0-1": 2 * MIB}
    assert other["device"] == "cuda:1"


def test_a_block_that_spans_pages_lies_in_all_of_them(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    for page in range(4):
        process.segment("cuda:0", 20 * MIB, address=(100 + 20 * page) * MIB, expandable=True)
    process.alloc("cuda:0", 30 * MIB, address=110 * MIB)  # up to the third page, not in it
    trace = open_trace(builder.write())
    held = held_at(trace, process.key, "cuda:0", [process.seq])
    assert held[process.seq].whole_free_bytes == 40 * MIB
