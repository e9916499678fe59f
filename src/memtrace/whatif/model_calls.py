"""The calls of a program's main model, and which allocations of one are those of another.

An allocation is found again in the next call by where it comes from and by how many of that place
came before it. What happens between two calls belongs to the one (a loss) or to the next (its
inputs): which, the sizes tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Int64s, equals, integers
from memtrace.errors import MemtraceError
from memtrace.replay.requests import Requests
from memtrace.trace_json import parsed_object
from memtrace.whatif.laws import Shape

NONE = -1
_PLACE = ("operator", "top_operator", "forward_operator", "module", "phase")


@dataclass(frozen=True)
class ModelCalls:
    """The calls of the model whose calls allocate most, in the order of their beginnings.

    Attributes:
        root: its class.
        ids: their numbers in `steps`.
        start: places at which they began.
        shapes: batch size and sequence length of each. The length is the second dimension of the
            first input; a decoding call (of one token, after longer ones) has that of its context.
        decoding: which they are.
        repeat: the how-manieth in a row of the same inputs.
    """

    root: str
    ids: Int64s
    start: Int64s
    shapes: tuple[Shape, ...]
    decoding: Int64s
    repeat: Int64s

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Pairing:
    """A way to find allocations again: those of one `site` are the same one in different calls.

    Attributes:
        site: int64 per row; NONE: not found this way.
        call: index in ModelCalls; NONE likewise.
    """

    site: Int64s
    call: Int64s


def read_calls(requests: Requests) -> ModelCalls:
    """The main model's calls.

    Raises:
        MemtraceError: no model was called with inputs whose shape is known.
    """
    columns = ["step", "name", "root_module", "start_seq", "batch_size", "input_shapes"]
    table = requests.trace.datasets["steps"].read(columns, key=requests.process.key)
    rows = [
        row
        for row in table.to_pylist()
        if row["name"] is None and row["batch_size"] and row["start_seq"] is not None
    ]
    if not rows:
        raise MemtraceError(
            f"{requests.process} called no model whose inputs have a batch size: "
            "there is nothing to tell by how memory follows it"
        )
    of_step = _bytes_by_step(requests)
    by_root: dict[str, int] = {}
    for row in rows:
        root = row["root_module"] or ""
        by_root[root] = by_root.get(root, 0) + of_step.get(row["step"], 0)
    root = max(by_root, key=lambda name: by_root[name])
    rows = sorted((r for r in rows if (r["root_module"] or "") == root), key=_start)
    shapes, decoding, repeat = _shapes(rows)
    return ModelCalls(
        root=root,
        ids=np.array([row["step"] for row in rows], np.int64),
        start=np.array([row["start_seq"] for row in rows], np.int64),
        shapes=shapes,
        decoding=decoding,
        repeat=repeat,
    )


def pairings(requests: Requests, calls: ModelCalls) -> Iterator[Pairing]:
    """Every way in which allocations may be found again, the most trustworthy first."""
    place = _codes(requests.rows, _PLACE)
    source = _joined(place, _codes(requests.rows, ("source",)))
    yield _named_inputs(requests, calls)
    inside = _index_of(calls.ids, integers(requests.rows, "step", missing=NONE))
    yield _numbered(place, inside, calls.decoding)
    # The first call may have made more, before the rest.
    yield _numbered(place, inside, calls.decoding, from_end=True)
    yield _numbered(source, inside, calls.decoding)
    yield _numbered(place, inside, _joined(calls.decoding, calls.repeat))
    gap = np.searchsorted(calls.start, requests.start, side="right").astype(np.int64)
    gap[inside != NONE] = NONE
    before = np.where(gap > 0, gap - 1, NONE)
    after = np.where((gap != NONE) & (gap < len(calls)), gap, NONE)
    for site in (source, place):
        yield _numbered(site, before, calls.decoding)
        yield _numbered(site, after, calls.decoding, from_end=True)


def _start(row: dict[str, int]) -> int:
    return row["start_seq"]


def _bytes_by_step(requests: Requests) -> dict[int, int]:
    steps = integers(requests.rows, "step", missing=NONE)
    found, which = np.unique(steps, return_inverse=True)
    sums = np.zeros(len(found), np.int64)
    np.add.at(sums, which, requests.size_bytes)
    return dict(zip(found.tolist(), sums.tolist(), strict=True))


def _shapes(rows: Sequence[dict[str, object]]) -> tuple[tuple[Shape, ...], Int64s, Int64s]:
    shapes: list[Shape] = []
    decoding, repeat = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    context, last = 0, ""
    for i, row in enumerate(rows):
        text = str(row["input_shapes"] or "")
        length = _second_dimension(text)
        decoding[i] = length == 1 and context > 0
        context = context + 1 if decoding[i] else length if length > 1 else 0
        shapes.append((int(str(row["batch_size"])), max(context, 1)))
        repeat[i] = repeat[i - 1] + 1 if text == last else 0
        last = text
    return tuple(shapes), decoding, repeat


def _second_dimension(text: str) -> int:
    shapes = (shape for shape in parsed_object(text).values() if isinstance(shape, list))
    return next((shape[1] for shape in shapes if len(shape) > 1 and type(shape[1]) is int), 1)


def _named_inputs(requests: Requests, calls: ModelCalls) -> Pairing:
    """What was handed to a call, by the name it had there."""
    names = ["allocation_id", "name", "kind", "since_seq"]
    table = requests.trace.datasets["names"].read(names, key=requests.process.key)
    table = table.filter(pa.array(equals(table, "kind", "input")))
    site = np.full(len(requests), NONE, np.int64)
    call = site.copy()
    if table.num_rows:
        given = _index_of(calls.start, integers(table, "since_seq", missing=NONE))
        row = _index_of(integers(requests.rows, "allocation_id"), integers(table, "allocation_id"))
        name = _joined(_codes(table, ("name",)), np.append(calls.decoding, NONE)[given])
        chosen = np.flatnonzero((given != NONE) & (row != NONE))[::-1]  # of several, the first
        site[row[chosen]], call[row[chosen]] = name[chosen], given[chosen]
    return Pairing(site, call)


def _numbered(place: Int64s, call: Int64s, kind: Int64s, *, from_end: bool = False) -> Pairing:
    """Rows of one place and kind of call, numbered in each call."""
    rows = np.flatnonzero(call != NONE)
    in_call = _joined(place[rows], call[rows])
    order = np.argsort(in_call[::-1] if from_end else in_call, kind="stable")
    if from_end:
        order = len(rows) - 1 - order
    run = in_call[order]
    first = np.flatnonzero(np.append(True, run[1:] != run[:-1])) if len(run) else run
    number = np.empty(len(rows), np.int64)
    number[order] = np.arange(len(rows)) - np.repeat(first, np.diff(np.append(first, len(rows))))
    site = np.full(len(place), NONE, np.int64)
    site[rows] = _joined(_joined(place[rows], kind[call[rows]]), number)
    return Pairing(site, call)


def _index_of(known: Int64s, wanted: Int64s) -> Int64s:
    """Where each value is among the known ones (all different); NONE: nowhere."""
    if not len(known):
        return np.full(len(wanted), NONE, np.int64)
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)
    return np.where(known[order][at] == wanted, order[at], NONE).astype(np.int64)


def _codes(table: pa.Table, columns: Sequence[str]) -> Int64s:
    """A number for each combination of words."""
    found = np.zeros(table.num_rows, np.int64)
    for name in columns:
        column = table.column(name)
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        column = column.unify_dictionaries().combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
        indices = column.indices.fill_null(NONE).to_numpy(zero_copy_only=False)
        found = _joined(found, indices.astype(np.int64))
    return found


def _joined(a: Int64s, b: Int64s) -> Int64s:
    """A number for each combination of two numbers."""
    if not len(a):
        return a
    low = b.min()
    pairs = a * (b.max() - low + 1) + (b - low)
    return np.unique(pairs, return_inverse=True)[1].astype(np.int64)
