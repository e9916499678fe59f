"""Trees grown from paths, and trees cut down: no byte is lost."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from memtrace.analyse.tree_nodes import Node, below, grow, trimmed

PATHS = st.lists(
    st.tuples(
        st.lists(
            st.tuples(st.sampled_from(["module", "operator"]), st.sampled_from("abc")), max_size=5
        ),
        st.integers(0, 1000),
        st.integers(0, 5),
    ),
    max_size=20,
)


@given(paths=PATHS, extra=st.integers(0, 9))
def test_a_tree_holds_its_paths(paths: Any, extra: int) -> None:
    more = [Node("unused", "(unused)", extra, 0)] if extra else []
    root = grow(paths, more, "cpu")
    assert (root.kind, root.name) == ("root", "cpu")
    assert root.total_bytes == sum(size for _, size, _ in paths) + extra
    assert root.blocks == sum(blocks for *_, blocks in paths)
    expected: Counter[tuple[Any, ...]] = Counter()
    for path, size, blocks in paths:
        for end in range(1, len(path) + 1):
            expected[tuple(path[:end])] += size + 10_000 * blocks
    found: dict[tuple[Any, ...], int] = {}

    def walk(node: Node, path: tuple[Any, ...]) -> None:
        for child in node.children:
            # Several parts of a module's path may be one node.
            place = (*path, *((child.kind, part) for part in child.name.split(".")))
            found[place] = child.total_bytes + 10_000 * child.blocks
            walk(child, place)

    walk(root, ())
    found.pop((("unused", "(unused)"),), None)
    assert found.items() <= expected.items()
    for place in expected.keys() - found.keys():  # nothing of its own, and one way on
        assert expected[place] in {n for p, n in found.items() if p[: len(place)] == place}


@given(
    sizes=st.recursive(
        st.integers(0, 100), lambda below: st.lists(below, max_size=5), max_leaves=60
    ),
    most=st.integers(1, 70),
)
def test_trimming_keeps_every_byte(sizes: Any, most: int) -> None:
    def tree(of: Any, name: str) -> Node:
        if isinstance(of, int):
            return Node("code", name, of, 1)
        children = [tree(each, f"{name}.{i}") for i, each in enumerate(of)]
        children.sort(key=lambda node: -node.total_bytes)
        total = sum(child.total_bytes for child in children)
        return Node("code", name, total, sum(c.blocks for c in children), tuple(children))

    root = tree(sizes, "r")
    cut = trimmed(root, most)
    assert (cut.total_bytes, cut.blocks) == (root.total_bytes, root.blocks)
    kept = [node for node in below(cut) if node.kind != "smaller"]
    assert len(kept) == min(most, len(below(root)))
    for node in below(cut):
        if node.children:
            assert sum(child.total_bytes for child in node.children) == node.total_bytes
    if kept != below(root):
        left = {node.name for node in below(root)} - {node.name for node in kept}
        sizes_left = [node.total_bytes for node in below(root) if node.name in left]
        assert max(sizes_left, default=0) <= min(node.total_bytes for node in kept)
