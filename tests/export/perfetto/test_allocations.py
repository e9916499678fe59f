"""Allocations and frees as instants with weighted callstacks, and the flows between them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from memtrace.outputs import Selection
from memtrace.trace import Trace, open_trace
from perfetto_agreement import check_agreement
from perfetto_reader import exported
from trace_builder import ORIGIN_NS, ProcessBuilder, TraceBuilder, serving_trace

MIB = 2**20


@pytest.fixture
def serving(tmp_path: Path) -> Trace:
    return open_trace(serving_trace(tmp_path / "serve.memtrace"))


def test_an_allocation_has_its_stack_and_its_bytes(serving: Trace) -> None:
    parsed = exported(serving)
    found = [i for i in parsed.instants["cuda:0 allocations"] if i.category == "activation"]
    assert [i.weight for i in found] == [(layer + 1) * MIB for layer in range(6)]
    assert found[0].name == "aten::addmm"
    assert found[0].told == {"bytes": MIB, "module": "h.0.mlp.c_fc"}
    assert found[0].stack == (  # the outermost frame first
        ("main", "/srv/app/serve.py", 93),
        ("generate", "/srv/app/serve.py", 61),
        ("_call_impl", "/torch/nn/modules/module.py", 1790),
        ("forward", "/srv/app/model.py", 120),
    )
    weights = [i for i in parsed.instants["cuda:0 allocations"] if i.category == "weight"]
    assert weights[3].told == {"bytes": 16 * MIB, "label": "h.3.mlp.weight"}
    assert {i.stack for i in parsed.instants["cuda:0 frees"]} == {found[0].stack}
    assert "flame graph" in parsed.named("cuda:0 allocations").description


def test_weights_of_an_area_are_what_was_allocated_in_it(serving: Trace) -> None:
    parsed = exported(serving)
    stage = parsed.slices["stages of thread 1"][1]
    rows = serving.allocations.to_pylist()
    for device, total in (("cuda:0", 21 * MIB - 6 * 100 + 6 * MIB + 5000), ("cpu", 0)):
        inside = [
            i
            for i in parsed.instants[f"{device} allocations"]
            if stage.start_ns <= i.time_ns <= (stage.end_ns or 0)
        ]
        chosen = [row for row in rows if row["stage"] == "serve" or row["size_bytes"] == 5000]
        expected = sum(row["block_bytes"] for row in chosen if row["device"] == device)
        assert sum(i.weight for i in inside) == expected
        assert expected >= total


def test_what_has_no_stack_has_words_instead(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    told = {"phase": "backward", "module": "net.fc", "source": "net.py:3 forward"}
    for _ in range(2):
        process.alloc("cuda:0", 512, operator="aten::mm", **told)
    process.alloc("cuda:0", 512)
    process.alloc("cuda:0", 512, stack_id=9)  # whose frames are not in the trace
    stacks = [i.stack for i in exported(open_trace(builder.write())).instants["cuda:0 allocations"]]
    functions = [[function for function, _, _ in stack] for stack in stacks]
    first = ["(no Python stack)", "backward", "net.fc", "net.py:3 forward", "aten::mm"]
    assert functions == [first, first, ["(no Python stack)"], ["(stack not in the trace)"]]


def test_what_never_was_the_allocators_is_kept_apart(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cpu", 1000)
    mapped = process.alloc("cpu", 4096, action="external", memory="mapped")
    process.alloc("cpu", 300, action="preexisting")
    process.free(mapped)
    trace = open_trace(builder.write())
    parsed = exported(trace)
    assert [i.weight for i in parsed.instants["cpu allocations"]] == [1000, 300]
    assert [i.weight for i in parsed.instants["cpu outside the allocator: begins"]] == [4096]
    assert [i.weight for i in parsed.instants["cpu outside the allocator: ends"]] == [4096]
    assert max(value for _, value in parsed.counters["cpu allocated"]) == 1300


def pairs(process: ProcessBuilder, sizes: list[int], device: str = "cuda:0") -> None:
    for row in [process.alloc(device, size) for size in sizes]:
        process.free(row)


def test_the_largest_allocations_lead_to_their_frees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memtrace.export.perfetto.MOST_FLOWS", 4)
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    pairs(process, [512, 2048, 1024, 4096, 1024, 1024, 8192])
    process.alloc("cuda:0", 1 << 20)  # never freed: it leads nowhere
    parsed = exported(open_trace(builder.write()))
    flows = parsed.flows
    assert Counter(begins[0].weight for begins, _ in flows.values()) == {
        2048: 1, 1024: 1, 4096: 1, 8192: 1,
    }  # fmt: skip
    assert all(len(begins) == len(ends) == 1 for begins, ends in flows.values())
    told = (
        "flows: the 4 largest of 7 allocations lead to their frees: those of 1,024 bytes and more"
    )
    assert parsed.attributes["memtrace.flows"] == told
    assert parsed.notes == [told]
    # Of those of one size it is the first.
    first = [i for i in parsed.instants["cuda:0 allocations"] if i.weight == 1024]
    assert [bool(i.flows) for i in first] == [True, False, False]


def test_devices_share_the_flows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memtrace.export.perfetto.MOST_FLOWS", 4)
    builder = TraceBuilder(tmp_path / "x.memtrace")
    for pid in (100, 101):
        process = builder.process(pid)
        pairs(process, [512, 1024, 2048], "cuda:0")
        pairs(process, [3, 2, 1], "cpu")
    parsed = exported(open_trace(builder.write()))
    assert sorted(begins[0].weight for begins, _ in parsed.flows.values()) == [3, 3, 2048, 2048]


def test_a_window_has_what_happens_in_it(serving: Trace) -> None:
    whole = exported(serving)
    times = [i.time_ns - ORIGIN_NS for i in whole.instants["cuda:0 allocations"]]
    frees = [i.time_ns - ORIGIN_NS for i in whole.instants["cuda:0 frees"]]
    window = (times[9], frees[2])
    part = exported(serving, Selection(window_ns=window))
    for track in ("cuda:0 allocations", "cuda:0 frees", "cpu allocations"):
        expected = [
            (i.time_ns, i.weight, i.stack)
            for i in whole.instants[track]
            if window[0] <= i.time_ns - ORIGIN_NS <= window[1]
        ]
        assert [(i.time_ns, i.weight, i.stack) for i in part.instants[track]] == expected
    assert len(part.instants["cuda:0 frees"]) == 3
    assert part.flows
    assert all(len(begins) == len(ends) == 1 for begins, ends in part.flows.values())


def test_only_the_stacks_of_a_window_are_written(serving: Trace) -> None:
    last = serving.events.column("time_ns").to_pylist()[-1]
    data = exported(serving, Selection("cuda:0", window_ns=(0, last))).packets
    part = exported(serving, Selection("cuda:0", window_ns=(0, 30_000_000))).packets

    def functions(packets: list[object]) -> set[bytes]:
        return {w.str for p in packets for w in p.interned_data.function_names}  # type: ignore[attr-defined]

    assert b"generate" in functions(data)
    assert b"generate" not in functions(part)
    assert b"from_pretrained" in functions(part)


@pytest.mark.parametrize("rows_per_group", [1, 3, 1000])
def test_stacks_are_whole_across_row_groups(tmp_path: Path, rows_per_group: int) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    expected = []
    for stack_id in range(5):
        frames = [(f"f{stack_id}_{depth}", f"{depth}.py", depth) for depth in range(4)]
        process.alloc("cuda:0", 512, stack_id=process.stack(stack_id, *frames))
        expected.append(tuple(reversed(frames)))
    trace = open_trace(builder.write(rows_per_group=rows_per_group))
    parsed = exported(trace)
    assert [i.stack for i in parsed.instants["cuda:0 allocations"]] == expected
    check_agreement(trace, parsed)
