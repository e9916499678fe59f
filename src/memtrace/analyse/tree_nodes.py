"""A tree of bytes: grown from paths, and cut down to what can be shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

#: One step of a path: a node's kind and name.
Place = tuple[str, str]


@dataclass(frozen=True)
class Node:
    """A node. Its bytes are those of its children, and those that end in it.

    Attributes:
        kind: "root"; "module" (one part of its path, or several that have but one way on),
            "operator", "source", "code" (a frame), "library" (a frame of torch, Python or another
            installed package), "value" (of another column); "none" (rows without it); "unused",
            "unmatched" (as in a Breakdown); "smaller" (what `trimmed` left out).
        children: the largest first.
    """

    kind: str
    name: str
    total_bytes: int
    blocks: int
    children: tuple[Node, ...] = ()


def trimmed(root: Node, most_nodes: int) -> Node:
    """The tree with no more than about so many nodes: the small children of a node made one."""
    order = below(root)
    if len(order) <= most_nodes:
        return root
    # A node comes before those below it, and is no smaller: they are never chosen without it.
    largest = sorted(range(len(order)), key=lambda place: (-order[place].total_bytes, place))
    chosen = {id(order[place]) for place in largest[:most_nodes]}
    done: dict[int, Node] = {}
    for node in reversed(order):
        if id(node) not in chosen:
            continue
        children = [done[id(child)] for child in node.children if id(child) in chosen]
        small = [child for child in node.children if id(child) not in chosen]
        if small:
            children.append(joined(small))
        done[id(node)] = replace(node, children=tuple(children))
    return done[id(root)]


def joined(nodes: Sequence[Node]) -> Node:
    """One node in place of several that are too small to be told each."""
    return Node(
        "smaller",
        f"{len(nodes):,} smaller",
        sum(node.total_bytes for node in nodes),
        sum(node.blocks for node in nodes),
    )


def below(root: Node) -> list[Node]:
    """The node and all below it, parents first."""
    order = [root]
    for node in order:
        order.extend(node.children)
    return order


class _Growing:
    """A node that is still being added to."""

    __slots__ = ("blocks", "children", "total_bytes")

    def __init__(self) -> None:
        self.total_bytes = 0
        self.blocks = 0
        self.children: dict[Place, _Growing] = {}


def grow(paths: Iterable[tuple[list[Place], int, int]], extra: Sequence[Node], device: str) -> Node:
    """The tree of these paths, each with its bytes and blocks; `extra`: more nodes of the root."""
    root = _Growing()
    order: list[tuple[Place, _Growing]] = [(("root", device), root)]  # parents before children
    for path, total, blocks in paths:
        node = root
        node.total_bytes += total
        node.blocks += blocks
        for place in path:
            below = node.children.get(place)
            if below is None:
                below = node.children[place] = _Growing()
                order.append((place, below))
            node = below
            node.total_bytes += total
            node.blocks += blocks
    done: dict[int, Node] = {}
    for (kind, name), node in reversed(order):
        children = [done.pop(id(child)) for child in node.children.values()]
        done[id(node)] = _frozen(kind, name, node, children)
    grown = done[id(root)]
    return replace(
        grown,
        total_bytes=grown.total_bytes + sum(node.total_bytes for node in extra),
        children=tuple(sorted([*grown.children, *extra], key=_by_size)),
    )


def _frozen(kind: str, name: str, node: _Growing, children: list[Node]) -> Node:
    if kind == "module" and len(children) == 1 and children[0].kind == "module":
        # "h", and nothing but "h.3" in it: one node.
        only = children[0]
        if (only.total_bytes, only.blocks) == (node.total_bytes, node.blocks):
            return replace(only, name=f"{name}.{only.name}")
    return Node(kind, name, node.total_bytes, node.blocks, tuple(sorted(children, key=_by_size)))


def _by_size(node: Node) -> tuple[int, str, str]:
    return (-node.total_bytes, node.kind, node.name)
