"""`memtrace tree`: who holds the bytes, from the whole down, as a tree in the terminal."""

from __future__ import annotations

from dataclasses import replace

from memtrace.analyse.breakdown import share_permilles
from memtrace.analyse.counters import BEFORE_FIRST
from memtrace.analyse.memory_tree import LIVE, TEMPORARY, MemoryTree
from memtrace.analyse.tree_nodes import Node, below, joined
from memtrace.report.losses import dropped_text
from memtrace.report.page import FAINT, TITLE, WARNING, Block, Column, Grid, Line
from memtrace.report.units import count, duration, exact, percent, size

_STYLES = {"module": "blue", "operator": "green", "source": "yellow", "code": "yellow"}
_FAINT = frozenset({"none", "smaller", "unused", "unmatched"})
_BRANCH, _LAST, _THROUGH, _PAST = "├─ ", "└─ ", "│  ", "   "


def tree_title(tree: MemoryTree) -> str:
    """What the tree is of, and how much it is."""
    where = f"on {tree.device}"
    if tree.what == LIVE:
        at = "at its peak"
        if tree.stage is not None:
            at = f"at the peak of stage {tree.stage}"
        elif tree.time_ns is not None:
            at = f"at {duration(tree.time_ns)}"
        title = f"{tree.of.capitalize()} memory {where} {at}"
    else:
        kind = "Temporary memory" if tree.what == TEMPORARY else f"All memory {_asked(tree)}"
        stage = "" if tree.stage is None else f" in stage {tree.stage}"
        title = f"{kind} {where}{stage}"
    return f"{title}: {'at least ' if tree.at_least else ''}{exact(tree.total_bytes)}"


def tree_context(tree: MemoryTree) -> list[str]:
    """What more is to be said of it: when, of which process, by what."""
    moment, lines = tree.moment, []
    whose = f"{tree.process}"
    if moment is not None and moment.seq != BEFORE_FIRST:
        lines.append(f"{duration(moment.time_ns)}, event {moment.seq:,} of {whose}")
    elif tree.within is not None:
        lines.append(f"{tree.within}: the sum of all such allocations, of {whose}")
    elif tree.what != LIVE:
        lines.append(f"the sum of all allocations, freed or not, of {whose}")
    else:
        lines.append(f"before the first event of {whose}")
    if tree.what == LIVE and tree.stage is not None and tree.of != "allocated":
        lines.append("a stage's peak is where most of it was allocated")
    blocks = count(tree.root.blocks, "live block" if tree.what == LIVE else "block")
    by = " → ".join(word.replace("_", " ") for word in tree.by)
    lines.append(f"{blocks}, by {by}")
    return lines


def tree_warnings(tree: MemoryTree) -> list[str]:
    """Why figures may be off."""
    warnings = []
    if tree.excess_bytes:
        more = exact(tree.excess_bytes)
        warnings.append(f"live allocations hold {more} more than the device's total")
    lost = tree.process.row["lost_total"]
    if lost:
        warnings.append(f"{count(lost, 'record')} lost while recording: figures are bounds")
    if dropped := dropped_text(tree.process, of_sums=tree.at_least):
        warnings.append(dropped)
    return warnings


def tree_page(tree: MemoryTree, *, least_permille: int) -> list[Block]:
    """The tree; what has a smaller share is counted, not shown.

    Args:
        least_permille: of the whole.
    """
    blocks: list[Block] = [Line(tree_title(tree), TITLE)]
    blocks += [Line(f"  {line}") for line in tree_context(tree)]
    blocks += [Line(f"  {line}", WARNING) for line in tree_warnings(tree)]
    blocks.append(Line(""))
    if not tree.total_bytes:
        return [*blocks, Line("nothing was live" if tree.what == LIVE else "nothing was allocated")]
    rows = _rows(tree, least_permille * tree.total_bytes)
    blocks.append(_grid(rows, tree.total_bytes))
    if any(
        node.total_bytes < least_permille * tree.total_bytes / 1000 for node in below(tree.root)
    ):
        blocks += [Line(""), Line("--min SHARE shows more or less", FAINT)]
    return blocks


def _asked(tree: MemoryTree) -> str:
    return "requested" if tree.of == "requested" else "allocated"


def _rows(tree: MemoryTree, least: int) -> list[tuple[str, Node]]:
    """Each node shown, with its branches: from the root down, as they are printed.

    Of nodes that have but one below them, all after the first stand below each other: a stack may
    be deeper than a terminal is wide.
    """
    rows: list[tuple[str, Node]] = []
    waiting = [("", "", False, tree.root)]
    while waiting:
        lead, branch, is_only, node = waiting.pop()
        rows.append((lead + branch, node))
        children = [child for child in node.children if 1000 * child.total_bytes >= least]
        small = [child for child in node.children if 1000 * child.total_bytes < least]
        if children and small:  # one has room for its own name
            children.append(joined(small) if len(small) > 1 else replace(small[0], children=()))
        one = len(children) == 1
        if not (one and is_only):
            lead += {_BRANCH: _THROUGH, _LAST: _PAST}.get(branch, "")
        for child in reversed(children):
            waiting.append((lead, _LAST if child is children[-1] else _BRANCH, one, child))
    return rows


def _grid(rows: list[tuple[str, Node]], total_bytes: int) -> Grid:
    columns = (
        Column("", wide=True),
        Column("Size", right=True),
        Column("Share", right=True),
        Column("", bar=True),
        Column("Blocks", right=True),
    )
    cells, styles, faint = [], {}, set()
    for number, (lead, node) in enumerate(rows):
        permille = share_permilles([node.total_bytes, total_bytes - node.total_bytes])[0]
        blocks = f"{node.blocks:,}" if node.blocks else ""
        name = lead + node.name
        cells.append((name, size(node.total_bytes), percent(permille), str(permille), blocks))
        styles[number, 0] = _STYLES.get(node.kind, "")
        if node.kind in _FAINT:
            faint.add(number)
    return Grid(columns, tuple(cells), frozenset(faint), styles=styles)
