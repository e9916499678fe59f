"""The steps of the optimizer in a trace: its parameters, and what it made for each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memtrace.analyse.counters import Flags, Int64s
from memtrace.replay.requests import Requests
from memtrace.whatif.modules import flags_of

_STATE_OF = " of "
#: Scalars that an operator makes of a Python number are no parameter's.
_SCALAR_BYTES = 8


@dataclass(frozen=True)
class Window:
    """A step of the optimizer: places."""

    begin: float
    end: float


def windows(requests: Requests) -> tuple[Window, ...]:
    """The steps of optimizers, in order; one that did not end lasts for ever."""
    begins: list[int] = []
    ends: list[int] = []
    for group in requests.trace.datasets["marks"].row_groups(requests.process.key):
        for row in group.read(["seq", "kind"]).to_pylist():
            if row["kind"] == "optimizer_begin":
                begins.append(row["seq"])
            elif row["kind"] == "optimizer_end":
                ends.append(row["seq"])
    begins.sort()
    ends.sort()
    found = []
    for begin in begins:
        end = next((end for end in ends[len(found) :] if end >= begin), None)
        found.append(Window(begin - 0.5, np.inf if end is None else end - 0.5))
    return tuple(found)


def in_steps(requests: Requests) -> Flags:
    """What a step of an optimizer asked for, its states aside."""
    states = flags_of(requests.rows, "category", lambda word: word == "optimizer_state")
    return flags_of(requests.rows, "phase", lambda word: word == "optimizer") & ~states


def state_names(requests: Requests) -> dict[str, Int64s]:
    """The kinds of state that the optimizer keeps ("exp_avg"), and the rows of each in order."""
    states = np.flatnonzero(
        flags_of(requests.rows, "category", lambda word: word == "optimizer_state")
    )
    found: dict[str, list[int]] = {}
    labels = requests.rows.column("label").take(states).to_pylist()
    for row, label in zip(states.tolist(), labels, strict=True):
        name, of, _ = (label or "").partition(_STATE_OF)
        found.setdefault(name if of else "", []).append(row)
    return {name: np.array(rows, np.int64) for name, rows in found.items()}


def rows_for(requests: Requests, inside: Flags) -> Flags:
    """What the optimizer's steps made for the parameters whose states or gradients are `inside`.

    A step goes through its parameters in order: either operator by operator, for all of them
    (foreach), or parameter by parameter. Where neither fits, nothing is found.
    """
    found = np.zeros(len(requests), np.bool_)
    parameters = _parameters(requests)
    if not len(parameters):
        return found
    asked = np.flatnonzero(in_steps(requests) & (requests.size_bytes > _SCALAR_BYTES))
    sizes = requests.size_bytes[parameters]
    for window in windows(requests):
        first, last = np.searchsorted(requests.start[asked], [window.begin, window.end])
        rows = asked[first:last]
        number = len(rows) // len(parameters)
        if not number or len(rows) % len(parameters):
            continue
        if (requests.size_bytes[rows].reshape(number, -1) == sizes).all():
            found[rows] = np.tile(inside[parameters], number)
        elif (requests.size_bytes[rows].reshape(-1, number) == sizes[:, None]).all():
            found[rows] = np.repeat(inside[parameters], number)
    return found


def _parameters(requests: Requests) -> Int64s:
    """One row of each parameter that the optimizer has states of, in its order."""
    names = state_names(requests)
    largest = max(names.values(), key=lambda rows: int(requests.size_bytes[rows].sum()), default=())
    return np.asarray(largest, np.int64)
