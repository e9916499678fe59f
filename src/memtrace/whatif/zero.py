"""ZeRO: of several ranks each keeps a part of the states (1), of gradients (2), of weights (3).

In the way of FSDP2 (`fully_shard`): the layers of a model are its units, what is left is one more,
the root. At stage 3 a unit's weights are gathered right before its forward, and again before its
backward, into one flat buffer, from which they are copied; the buffer stays until the next unit has
been gathered, the weights until the unit has run. The root's stay until the backward ends. From
stage 2 on, whole gradients live until their unit's backward ends. Then they are copied into a flat
buffer, which stays until the next unit's, and one rank's part of their sum is kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import eq

import numpy as np

from memtrace.analyse.counters import Int64s, integers
from memtrace.errors import MemtraceError, readable
from memtrace.replay.requests import Places, Requests
from memtrace.whatif.change import Change
from memtrace.whatif.described import Words, described
from memtrace.whatif.modules import flags_of, rows_of
from memtrace.whatif.optimizer_steps import backwards, rows_for, states
from memtrace.whatif.runs import Run, Timeline

_ZERO = re.compile(r"zero([123]):(\d+)")
_MOST_DIGITS = 9
_LAYER = re.compile(r"(?:.*?\.)?\d+(?=\.|$)")
#: A counter of steps is no tensor of a parameter's size.
_SCALAR_BYTES = 8

# What happens between two requests, in this order: a layer's weights go, its gradients are put
# together and shared; then the next one's are gathered.
_SCATTERED, _GONE, _PUT_TOGETHER, _WHOLE_GONE, _SHARED = -0.25, -0.24, -0.23, -0.22, -0.21
_GATHERED, _COPIED, _NEXT_COPIED, _NEXT_GATHERED = -0.20, -0.15, -0.10, -0.08

#: Streams of their own, beside those of the recording.
_GATHERS, _REDUCES = 1, 2


def stage_of(text: str) -> tuple[int, int] | None:
    """Stage and ranks of "zero2:8"; None where the text is of another form.

    Raises:
        MemtraceError: fewer than two ranks, or more than there are anywhere.
    """
    found = _ZERO.fullmatch(text)
    if found is None:
        return None
    if len(found[2]) > _MOST_DIGITS:
        raise MemtraceError(f"zero{found[1]}:N takes at most {10**_MOST_DIGITS - 1:,} ranks")
    stage, ranks = int(found[1]), int(found[2])
    if ranks < 2:
        raise MemtraceError(f"{readable(text)}: it takes two ranks or more to share anything")
    return stage, ranks


def shard(requests: Requests, stage: int, ranks: int) -> Change:
    """The requests of one of several ranks."""
    size_bytes = requests.size_bytes.copy()
    free = requests.free.copy()
    kept = states(requests)
    shared = (kept | rows_for(requests, kept)) & (size_bytes > _SCALAR_BYTES)
    assumptions = [
        f"each of {ranks} ranks does the same work; states of the optimizer are shared evenly"
    ]
    more: list[_Extra] = []
    if stage > 1:
        units = _units(requests)
        ordered = _ordered(units, requests)
        _share_gradients(requests, units, ordered, ranks, free, more)
        assumptions.append(f"gradients are shared as the backward of a layer ends; {_named(units)}")
        if stage > 2:
            _gather_weights(requests, units, ordered, more)
            for unit in units.values():
                shared[unit.weights] = True
            assumptions.append(
                "weights are shared from the beginning, and gathered layer by layer as FSDP2 does; "
                "those outside of layers stay whole from forward to backward"
            )
    size_bytes[shared] = -(-size_bytes[shared] // ranks)
    changed = _with(requests.resized(size_bytes).moved(free=free), more)
    return Change(changed, f"ZeRO stage {stage} over {ranks} ranks", tuple(assumptions))


@dataclass(frozen=True)
class _Unit:
    """What is gathered, and shared, at once; rows, and the size of the weights together."""

    weights: Int64s
    gradients: Int64s
    size_bytes: int


@dataclass(frozen=True)
class _Extra:
    """A request that is made besides; `stream`: 0 is the one of what it is like."""

    like: int
    size_bytes: int
    start: float
    free: float
    label: str
    category: str = "temporary"
    stream: int = 0


def _with(requests: Requests, extras: Sequence[_Extra]) -> Requests:
    streams = integers(requests.rows, "stream")
    unused = int(streams.max(initial=0))
    for category in dict.fromkeys(extra.category for extra in extras):
        chosen = [extra for extra in extras if extra.category == category]
        requests = requests.added(
            np.array([extra.like for extra in chosen], np.int64),
            size_bytes=np.array([extra.size_bytes for extra in chosen], np.int64),
            start=np.array([extra.start for extra in chosen]),
            free=np.array([extra.free for extra in chosen]),
            category=category,
        )
        words: dict[str, Words] = {"label": [extra.label for extra in chosen], "operator": None}
        if not requests.on_cpu:
            words["stream"] = [
                unused + extra.stream if extra.stream else int(streams[extra.like])
                for extra in chosen
            ]
        requests = described(requests, len(chosen), words)
    return requests


def _units(requests: Requests) -> dict[str, _Unit]:
    """By path; the root's is empty."""
    layers: dict[str, tuple[list[int], list[int]]] = {}
    modules = requests.rows.column("module").combine_chunks()
    for place, category in enumerate(("weight", "gradient")):
        rows = np.flatnonzero(flags_of(requests.rows, "category", partial(eq, category)))
        for row, module in zip(rows.tolist(), modules.take(rows).to_pylist(), strict=True):
            found = _LAYER.match(module or "")
            layers.setdefault(found[0] if found else "", ([], []))[place].append(row)
    return {
        path: _Unit(
            np.array(weights, np.int64),
            np.array(gradients, np.int64),
            int(requests.size_bytes[weights].sum()),
        )
        for path, (weights, gradients) in layers.items()
        if weights
    }


def _named(units: dict[str, _Unit]) -> str:
    layers = [path for path in units if path]
    if not layers:
        return "the trace knows no layers: all of it is one"
    return f"layers are {layers[0]} to {layers[-1]} ({len(layers)})"


Ordered = list[tuple[str, Run]]


def _ordered(units: dict[str, _Unit], requests: Requests) -> list[Ordered]:
    """The runs of the layers, in order, of one forward or one backward each."""
    timeline = Timeline(requests)
    runs = [
        (path, run)
        for path in units
        if path
        for run in timeline.runs(rows_of(requests, path))
        if np.isfinite(run.end)
    ]
    runs.sort(key=lambda pair: pair[1].begin)
    return [
        list(group) for _, group in groupby(runs, key=lambda pair: (pair[1].step, pair[1].backward))
    ]


def _share_gradients(
    requests: Requests,
    units: dict[str, _Unit],
    ordered: Sequence[Ordered],
    ranks: int,
    free: Places,
    more: list[_Extra],
) -> None:
    def share(path: str, rows: Int64s, end: float, until: float) -> None:
        like, size_bytes = int(rows[0]), int(requests.size_bytes[rows].sum())
        of = path or "the root"
        put_together = f"gradients of {of}, to be shared"
        more.append(_Extra(like, size_bytes, end + _PUT_TOGETHER, until, put_together))
        part, last = -(-size_bytes // ranks), float(requests.free[rows].max())
        label = f"shared grad of {of}"
        more.append(_Extra(like, part, end + _SHARED, last, label, "gradient", _REDUCES))
        free[rows] = end + _WHOLE_GONE

    for begin, end in backwards(requests):
        layers = [
            (path, run)
            for group in ordered
            for path, run in group
            if run.backward and begin <= run.begin < end
        ]
        ends = [run.end for _, run in layers] + [end]
        for (path, run), following in zip(layers, ends[1:], strict=True):
            rows = units[path].gradients
            rows = rows[run.contains(requests.start[rows])]
            if len(rows):
                share(path, rows, run.end, following + _SCATTERED)
        if "" in units:
            rows = units[""].gradients
            rows = rows[(requests.start[rows] >= begin) & (requests.start[rows] < end)]
            if len(rows):
                share("", rows, end, end + _SHARED)


def _gather_weights(
    requests: Requests, units: dict[str, _Unit], ordered: Sequence[Ordered], more: list[_Extra]
) -> None:
    def gather(path: str, begin: float, copied: float, gone: float, start: float) -> None:
        unit = units[path]
        label = f"buffer of weights of {path or 'the root'}"
        like = int(unit.weights[0])
        more.append(_Extra(like, unit.size_bytes, begin, copied, label, stream=_GATHERS))
        for row, size_bytes in zip(unit.weights, requests.size_bytes[unit.weights], strict=True):
            more.append(_Extra(int(row), int(size_bytes), start, gone, "gathered weights"))

    passes, begins = backwards(requests), _begins(requests)
    for group in ordered:
        for at, (path, run) in enumerate(group):
            last = at + 1 == len(group)
            begin, copied = run.begin + _GATHERED, run.begin + _NEXT_COPIED
            if run.backward and at:
                begin = group[at - 1][1].begin + _NEXT_GATHERED
            elif not run.backward:
                copied = run.end + _GONE if last else group[at + 1][1].begin + _NEXT_COPIED
            gather(path, begin, copied, run.end + _GONE, run.begin + _COPIED)
        first, step = group[0][1].begin, group[0][1].step
        if "" in units and not group[0][1].backward:
            begin = begins.get(step, first)
            ends = [end for start, end in passes if start >= group[-1][1].begin]
            gather(
                "", begin + _GATHERED, first + _NEXT_COPIED,
                min(ends, default=group[-1][1].end) + _GONE, begin + _COPIED,
            )  # fmt: skip


def _begins(requests: Requests) -> dict[int, float]:
    """The place of the first request of each call of a model."""
    steps = integers(requests.rows, "step", missing=-1)
    order = np.argsort(requests.start, kind="stable")
    numbers, first = np.unique(steps[order], return_index=True)
    return dict(zip(numbers.tolist(), requests.start[order[first]].tolist(), strict=True))
