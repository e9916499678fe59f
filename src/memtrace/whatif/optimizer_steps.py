"""The steps of the optimizer in a trace: their places, its parameters, what it made for each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memtrace.analyse.counters import Flags, Int64s
from memtrace.errors import MemtraceError
from memtrace.replay.requests import Requests
from memtrace.whatif.element_sizes import element_sizes
from memtrace.whatif.modules import flags_of

#: As gradients and states are called: "exp_avg of h.0.mlp.c_fc.weight".
OF = " of "
#: Scalars that an operator makes of a Python number are no parameter's.
_SCALAR_BYTES = 8


@dataclass(frozen=True)
class Parameters:
    """What the optimizer trains, in its order.

    Attributes:
        names: "h.0.mlp.c_fc.weight".
        gradients: the row of the gradient of each at the first step.
        size_bytes: of each.
        elements: in each.
    """

    names: tuple[str, ...]
    gradients: Int64s
    size_bytes: Int64s
    elements: Int64s


def windows(requests: Requests) -> tuple[tuple[float, float], ...]:
    """Places of the steps of optimizers, from and to, in order."""
    return _between(requests, "optimizer")


def backwards(requests: Requests) -> tuple[tuple[float, float], ...]:
    """Places of the backward passes, from and to, in order."""
    return _between(requests, "backward")


def _between(requests: Requests, what: str) -> tuple[tuple[float, float], ...]:
    found: list[tuple[float, float]] = []
    begin: float | None = None
    for group in requests.trace.datasets["marks"].row_groups(requests.process.key):
        for mark in group.read(["seq", "kind"]).to_pylist():
            if mark["kind"] == f"{what}_begin" and begin is None:
                begin = mark["seq"] - 0.5
            elif mark["kind"] == f"{what}_end" and begin is not None:
                found.append((begin, mark["seq"] - 0.5))
                begin = None
    if begin is not None:
        found.append((begin, np.inf))
    return tuple(found)


def states(requests: Requests) -> Flags:
    """What the optimizer keeps from step to step."""
    return flags_of(requests.rows, "category", lambda word: word == "optimizer_state")


def passing(requests: Requests) -> Flags:
    """What a step of an optimizer asked for and let go."""
    kept = ("optimizer_state", "weight", "buffer", "gradient")
    lasting = flags_of(requests.rows, "category", lambda word: word in kept)
    return flags_of(requests.rows, "phase", lambda word: word == "optimizer") & ~lasting


def parameters(requests: Requests, place: float) -> Parameters:
    """Those whose gradients are there at the place where a step begins.

    Raises:
        MemtraceError: none is.
    """
    gradients = flags_of(requests.rows, "category", lambda word: word == "gradient")
    rows = np.flatnonzero(gradients & requests.live_at(place))
    if not len(rows):
        raise MemtraceError("the trace has no gradients where its optimizer steps")
    names = [label.rpartition(OF)[2] for label in _labels(requests, rows)]
    order = _order(requests, names)
    rows = rows[order]
    sizes = requests.size_bytes[rows]
    return Parameters(
        names=tuple(names[at] for at in order.tolist()),
        gradients=rows,
        size_bytes=sizes,
        elements=sizes // element_sizes(requests, rows, "gradient"),
    )


def rows_for(requests: Requests, inside: Flags) -> Flags:
    """What the optimizer's steps made for the parameters whose states are `inside`.

    A step goes through its parameters in order: either operator by operator, each for all of them
    (foreach), or parameter by parameter. Where neither fits, nothing is found.
    """
    found = np.zeros(len(requests), np.bool_)
    kept = _largest_states(requests)
    if not len(kept):
        return found
    asked = np.flatnonzero(passing(requests) & (requests.size_bytes > _SCALAR_BYTES))
    sizes = requests.size_bytes[kept]
    for begin, end in windows(requests):
        rows = asked[(requests.start[asked] >= begin) & (requests.start[asked] < end)]
        number, left = divmod(len(rows), len(kept))
        if not number or left:
            continue
        if (requests.size_bytes[rows].reshape(number, -1) == sizes).all():
            found[rows] = np.tile(inside[kept], number)
        elif (requests.size_bytes[rows].reshape(-1, number) == sizes[:, None]).all():
            found[rows] = np.repeat(inside[kept], number)
    return found


def _largest_states(requests: Requests) -> Int64s:
    """One row of each parameter that the optimizer has states of, in its order."""
    rows = np.flatnonzero(states(requests))
    kinds: dict[str, list[int]] = {}
    for row, label in zip(rows.tolist(), _labels(requests, rows), strict=True):
        kinds.setdefault(label.partition(OF)[0], []).append(row)
    found = max(kinds.values(), key=lambda rows: int(requests.size_bytes[rows].sum()), default=[])
    return np.array(found, np.int64)


def _labels(requests: Requests, rows: Int64s) -> list[str]:
    return [label or "" for label in requests.rows.column("label").take(rows).to_pylist()]


def _order(requests: Requests, names: list[str]) -> Int64s:
    """Parameters as their weights were made; one that shares its weight with another, first."""
    weights = np.flatnonzero(flags_of(requests.rows, "category", lambda word: word == "weight"))
    made = {label: at for at, label in enumerate(_labels(requests, weights))}
    return np.argsort([made.get(name, -1) for name in names], kind="stable")
