"""The page of `memtrace flamegraph`: a tree of bytes as an icicle, and what one asks of it."""

from __future__ import annotations

from typing import IO, Any

from memtrace.analyse.memory_tree import MemoryTree, make_tree
from memtrace.analyse.tree_nodes import Node, trimmed
from memtrace.errors import MemtraceError
from memtrace.outputs import Selection
from memtrace.page.assemble import write_html
from memtrace.report.tree import tree_context, tree_title, tree_warnings
from memtrace.trace import Trace

#: More are too small to be seen, and cost the page seconds.
MOST_NODES = 50_000


def write_flamegraph(trace: Trace, selection: Selection, out: IO[bytes]) -> None:
    """The page of what was live at a device's peak, by modules: the output of that name.

    Raises:
        MemtraceError: of a window; one instant is shown.
    """
    if selection.window_ns is not None:
        raise MemtraceError(
            "a flame graph is of one instant, not of a window: memtrace flamegraph --time T, "
            "or --allocated --stage NAME"
        )
    write_tree_page(make_tree(trace, device=selection.device), out)


def write_tree_page(tree: MemoryTree, out: IO[bytes], *, inverted: bool = False) -> None:
    """The page of any tree.

    Args:
        inverted: show first what the paths end in. The page has a button for it.
    """
    root = trimmed(tree.root, MOST_NODES)
    write_html(
        out,
        template="flamegraph.html",
        title=f"{tree_title(tree)} - memtrace",
        document={
            "title": tree_title(tree),
            "context": tree_context(tree),
            "warnings": tree_warnings(tree),
            "inverted": inverted,
            "tree": packed(root),
        },
        styles=["flamegraph.css"],
        scripts=["packed_tree.js", "icicle.js", "flamegraph.js"],
    )


def packed(root: Node) -> dict[str, Any]:
    """A tree as columns, for `unpackTree` of packed_tree.js: parents before children.

    A stack may be deeper than a reader of nested JSON can follow. `kind` and `name` are places in
    `words`; `parent`: how many rows before its own a node's parent is.
    """
    words: dict[str, int] = {}
    rows: list[tuple[int, int, int, int, int]] = []
    order = [(root, 0)]
    for place, (node, parent) in enumerate(order):
        kind, name = (words.setdefault(word, len(words)) for word in (node.kind, node.name))
        rows.append((kind, name, place - parent, node.total_bytes, node.blocks))
        order.extend((child, place) for child in node.children)
    columns = ("kind", "name", "parent", "bytes", "blocks")
    values = zip(*rows, strict=True)
    return {"words": list(words), **dict(zip(columns, map(list, values), strict=True))}
