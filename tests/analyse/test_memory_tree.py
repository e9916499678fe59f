"""The tree against a plain replay: to the byte, whatever it is of and however it is ordered."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.analyse.chosen_rows import Within
from memtrace.analyse.memory_tree import (
    ALLOCATED,
    ORDERS,
    TEMPORARY,
    MemoryTree,
    make_tree,
    parse_order,
)
from memtrace.analyse.tree_nodes import Node
from memtrace.errors import MemtraceError
from memtrace.trace import open_trace
from trace_builder import ProcessBuilder, TraceBuilder, failing_trace, serving_trace

MIB = 2**20
Ends = Counter[tuple[str, ...]]


def nodes_of(root: Node) -> list[Node]:
    found = [root]
    for node in found:
        found.extend(node.children)
    return found


def check(tree: MemoryTree) -> None:
    """What holds of every tree."""
    assert tree.root.kind == "root"
    for node in nodes_of(tree.root):
        assert sum(child.total_bytes for child in node.children) <= node.total_bytes
        assert sum(child.blocks for child in node.children) <= node.blocks
        sizes = [child.total_bytes for child in node.children]
        assert sizes == sorted(sizes, reverse=True)


def ends_of(root: Node) -> tuple[Ends, Ends]:
    """Bytes and blocks by path, the parts of a module's path as one."""
    size, blocks = Ends(), Ends()

    def walk(node: Node, path: tuple[str, ...], above: str) -> None:
        if node.kind == "module" and above == "module":
            path = (*path[:-1], f"{path[-1]}.{node.name}")
        elif node.kind != "root":
            path = (*path, node.name)
        own = node.total_bytes - sum(child.total_bytes for child in node.children)
        own_blocks = node.blocks - sum(child.blocks for child in node.children)
        if own or own_blocks:
            size[path] += own
            blocks[path] += own_blocks
        for child in node.children:
            walk(child, path, node.kind)

    walk(root, (), "")
    return size, blocks


NAMELESS = {
    "module": "(outside any module)", "operator": "(outside any operator)",
    "source": "(no Python line)", "category": "(no category)",
}  # fmt: skip


def told(row: dict[str, Any], by: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(row.get(column) or NAMELESS[column] for column in by)


def expected(rows: list[dict[str, Any]], by: tuple[str, ...]) -> tuple[Ends, Ends]:
    size, blocks = Ends(), Ends()
    for row in rows:
        size[told(row, by)] += row["block_bytes"]
        blocks[told(row, by)] += 1
    return size, blocks


def live_at(rows: list[dict[str, Any]], device: str, seq: int) -> list[dict[str, Any]]:
    return [
        row for row in rows
        if row["device"] == device and row["alloc_seq"] <= seq
        and not (row.get("free_seq") is not None and row["free_seq"] <= seq)
    ]  # fmt: skip


WORDS = {
    "module": st.sampled_from([None, "", "h", "h.0", "h.0.mlp", "h.1.mlp.c_fc", "head", "Net"]),
    "operator": st.sampled_from([None, "aten::mm", "aten::add", "h"]),
    "source": st.sampled_from([None, "a.py:1 f", "a.py:2 f", "b.py:9 g"]),
    "category": st.sampled_from([None, "weight", "activation"]),
}
ACTION = st.one_of(
    st.tuples(
        st.just("alloc"), st.sampled_from(["cpu", "cuda:0"]), st.integers(0, 5000),
        st.fixed_dictionaries(WORDS),
    ),
    st.tuples(st.just("free"), st.integers(0, 30)),
)  # fmt: skip
BY = st.sampled_from(
    [("module", "operator", "source"), ("category", "module"), ("source",), ("operator", "module")]
)


def program(process: ProcessBuilder, actions: list[Any]) -> None:
    live: list[dict[str, Any]] = []
    for action in actions:
        if action[0] == "alloc":
            live.append(process.alloc(action[1], action[2], **action[3]))
        elif live:
            process.free(live.pop(action[1] % len(live)))


@settings(max_examples=60, deadline=None)
@given(actions=st.lists(ACTION, min_size=1, max_size=40), by=BY)
def test_random_programs(actions: list[Any], by: tuple[str, ...]) -> None:
    with TemporaryDirectory() as folder:
        builder = TraceBuilder(Path(folder) / "x.memtrace")
        process = builder.process()
        process.alloc("cpu", 1)
        program(process, actions)
        rows = process.rows["allocations"]
        trace = open_trace(builder.write())
        for device in trace.devices:
            live = make_tree(trace, device=device, by=by)
            check(live)
            assert live.total_bytes == trace.peak(device).total_bytes
            assert live.moment is not None
            held = live_at(rows, device, live.moment.seq)
            assert ends_of(live.root) == expected(held, by)
            every = make_tree(trace, device=device, by=by, what=ALLOCATED)
            check(every)
            mine = [row for row in rows if row["device"] == device]
            assert ends_of(every.root) == expected(mine, by)
            for most in (0, 1, 3):
                soon = make_tree(
                    trace, device=device, by=by, what=TEMPORARY,
                    within=Within("allocations", most),
                )  # fmt: skip
                assert ends_of(soon.root) == expected(freed_soon(mine, most), by)


def freed_soon(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Freed before more than `most` others were allocated."""
    found = []
    for row in rows:
        end = row.get("free_seq")
        if end is not None:
            between = sum(row["alloc_seq"] < other["alloc_seq"] < end for other in rows)
            found += [row] if between <= most else []
    return found


@pytest.mark.parametrize("make", [serving_trace, failing_trace])
@pytest.mark.parametrize("of", ["allocated", "active", "reserved", "requested"])
@pytest.mark.parametrize("by", [*ORDERS.values(), ("category", "label")])
def test_the_sum_is_the_peak(make: Any, of: str, by: tuple[str, ...], tmp_path: Path) -> None:
    trace = open_trace(make(tmp_path / "x.memtrace"))
    tree = make_tree(trace, of=of, by=by)
    check(tree)
    peak = trace.peak(of=of)
    assert tree.total_bytes == peak.total_bytes == peak.breakdown.total_bytes
    assert tree.root.blocks == peak.breakdown.allocations
    assert tree.moment == peak.snapshot.moment


def test_module_then_operator_then_source(tmp_path: Path) -> None:
    tree = make_tree(open_trace(serving_trace(tmp_path / "x.memtrace")))
    names = [(child.kind, child.name) for child in tree.root.children]
    assert names == [("none", "(outside any module)"), ("module", "h")]
    last = tree.root.children[1].children[0]
    assert (last.name, last.total_bytes, last.blocks) == ("5", 7 * MIB, 2)
    # "mlp" has nothing but "c_fc" in it: one node.
    assert [child.name for child in last.children] == ["mlp.c_fc", "attn"]
    (operator,) = last.children[0].children
    (source,) = operator.children
    assert (operator.kind, operator.name) == ("operator", "aten::addmm")
    assert (source.kind, source.name, source.children) == ("source", "model.py:120 forward", ())


def test_stacks_begin_with_the_outermost_frame(tmp_path: Path) -> None:
    tree = make_tree(open_trace(serving_trace(tmp_path / "x.memtrace")), by=ORDERS["stack"])
    unknown = tree.root.children[-1]
    assert (unknown.kind, unknown.name) == ("none", "(no stack)")
    path = []
    node = tree.root.children[1]
    while node.children:
        path.append((node.kind, node.name))
        node = node.children[0]
    assert path == [
        ("code", "serve.py:93 main"), ("code", "serve.py:61 generate"),
        ("code", "model.py:120 forward"),
    ]  # fmt: skip
    assert (node.kind, node.name) == ("operator", "aten::addmm")


def test_a_stack_that_never_ends(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.stack(1, *[("f", "/lib/python3.11/site-packages/a.py", n) for n in range(500)])
    process.alloc("cpu", 7, stack_id=1, operator="aten::mm")
    tree = make_tree(open_trace(builder.write()), by=("stack",))
    names = [node.name for node in nodes_of(tree.root)]
    assert names[1] == "(300 outer frames)"
    assert (names[2], names[-1], len(names)) == ("a.py:199 f", "a.py:0 f", 202)
    assert {node.kind for node in nodes_of(tree.root)} == {"root", "library"}


def test_what_no_row_explains_and_what_the_rows_hold_beyond(tmp_path: Path) -> None:
    for case in ("lost", "more"):
        builder = TraceBuilder(tmp_path / f"{case}.memtrace")
        process = builder.process()
        process.alloc("cuda:0", 512, operator="kept")
        process.alloc("cuda:0", 1024, operator="other")
        if case == "lost":
            del process.rows["allocations"][1]
        else:
            process.rows["allocations"][1]["block_bytes"] = 2048
        tree = make_tree(open_trace(builder.write()), by=("operator",))
        sizes = {child.name: child.total_bytes for child in tree.root.children}
        if case == "lost":
            assert sizes == {"(in no recorded allocation)": 1024, "kept": 512}
            assert (tree.total_bytes, tree.excess_bytes) == (1536, 0)
        else:
            assert sizes == {"other": 2048, "kept": 512}
            assert (tree.total_bytes, tree.excess_bytes) == (2560, 1024)


def test_at_a_time_and_in_a_stage(tmp_path: Path) -> None:
    trace = open_trace(serving_trace(tmp_path / "x.memtrace"))
    assert make_tree(trace, time_ns=0).total_bytes == 0
    early = make_tree(trace, time_ns=100_000_000)
    assert early.total_bytes == trace.at(100_000_000).breakdown.total_bytes
    load = make_tree(trace, stage="load")
    assert (load.total_bytes, load.stage) == (96 * MIB, "load")
    assert make_tree(trace, stage="serve").total_bytes == trace.peak().total_bytes
    every = {
        stage: make_tree(trace, what=ALLOCATED, stage=stage).total_bytes
        for stage in ("load", "serve", None)
    }
    assert every["load"] == 96 * MIB
    assert every["serve"] is not None
    assert every["load"] + every["serve"] == every[None]
    assert make_tree(trace, device="cpu", what=ALLOCATED, stage="load").total_bytes == 3 * MIB


def test_words_that_do_not_go_together(tmp_path: Path) -> None:
    trace = open_trace(serving_trace(tmp_path / "x.memtrace"))
    for words, told in (
        ({"time_ns": 1, "stage": "load"}, "a time or a stage"),
        ({"what": ALLOCATED, "time_ns": 1}, "has no time"),
        ({"what": ALLOCATED, "of": "reserved"}, "not in reserved ones"),
        ({"stage": "x"}, "process 100 has no stage 'x'; it has load, serve"),
        ({"what": ALLOCATED, "stage": "x"}, "has no stage 'x'; it has load, serve"),
        ({"device": "cuda:9"}, "no memory of cuda:9"),
    ):
        with pytest.raises(MemtraceError, match=told):
            make_tree(trace, **words)  # type: ignore[arg-type]
    builder = TraceBuilder(tmp_path / "y.memtrace")
    builder.process(operators_on=False).alloc("cpu", 1)
    blind = open_trace(builder.write())
    with pytest.raises(MemtraceError, match="operators were not recorded: tell temporary memory"):
        make_tree(blind, what=TEMPORARY)
    names = [child.name for child in make_tree(blind, by=("operator",)).root.children]
    assert names == ["(operators were not recorded)"]


def test_orders() -> None:
    assert parse_order("modules") == ("module", "operator", "source")
    assert parse_order("category, label") == ("category", "label")
    for text, told in (
        ("colour", "no tree by 'colour'"), ("", "no tree by ''"),
        ("module,module", "given twice"),
    ):  # fmt: skip
        with pytest.raises(MemtraceError, match=told):
            parse_order(text)


def test_the_tree_of_an_empty_trace(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(torch_version=None)
    with pytest.raises(MemtraceError, match="never imported torch"):
        make_tree(open_trace(builder.write()))
