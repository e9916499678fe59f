"""Another optimizer: what it keeps for each parameter, and what its steps ask for meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from memtrace.analyse.counters import Int64s
from memtrace.errors import MemtraceError, readable
from memtrace.replay.requests import NEVER, Places, Requests
from memtrace.whatif.change import Change
from memtrace.whatif.described import Words, described
from memtrace.whatif.optimizer_steps import (
    OF,
    Parameters,
    parameters,
    passing,
    states,
    windows,
)
from memtrace.whatif.zero import shard, stage_of

# bitsandbytes: of a block of so many elements one scale is kept; tensors below the limit stay in
# 32 bit; the two tables of 256 values are one for all parameters.
_BLOCK_ELEMENTS = 256
_LEAST_8BIT_ELEMENTS = 4096
_TABLE_BYTES = 1024
_STEP_BYTES = 4

#: What is made in a step of an optimizer, and not in a call of a model.
_OF_STEPS: dict[str, Words] = {
    "phase": "optimizer", "top_operator": None, "forward_operator": None, "source": None,
}  # fmt: skip

State = Callable[[Parameters], dict[str, Int64s]]


def _adamw(of: Parameters) -> dict[str, Int64s]:
    return {"exp_avg": of.size_bytes, "exp_avg_sq": of.size_bytes}


def _adamw8bit(of: Parameters) -> dict[str, Int64s]:
    small = of.elements < _LEAST_8BIT_ELEMENTS
    moment = np.where(small, of.elements * 4, of.elements)
    scales = np.where(small, 0, -(-of.elements // _BLOCK_ELEMENTS) * 4)
    tables = np.zeros(len(of.names), np.int64)
    tables[np.flatnonzero(~small)[:1]] = _TABLE_BYTES
    return {
        "state1": moment, "state2": moment, "absmax1": scales, "absmax2": scales,
        "qmap1": tables, "qmap2": tables,
    }  # fmt: skip


@dataclass(frozen=True)
class _Optimizer:
    """`state`: bytes of each kind of state, by parameter; `takes`: what is taken for granted."""

    called: str
    state: State
    takes: str


_OPTIMIZERS = {
    "sgd": _Optimizer("SGD", lambda _: {}, "SGD keeps nothing, and its step asks for nothing"),
    "momentum": _Optimizer(
        "SGD with momentum",
        lambda of: {"momentum_buffer": of.size_bytes},
        "SGD with momentum keeps one buffer of each parameter",
    ),
    "adamw": _Optimizer(
        "AdamW",
        _adamw,
        "AdamW keeps two moments of each parameter, as torch does by default: neither fused, nor "
        "amsgrad",
    ),
    "adamw8bit": _Optimizer(
        "8-bit AdamW",
        _adamw8bit,
        "8-bit AdamW keeps, as bitsandbytes does, two bytes an element and two scales for "
        f"{_BLOCK_ELEMENTS} of them; tensors of less than {_LEAST_8BIT_ELEMENTS:,} elements stay "
        "in 32 bit",
    ),
}


def apply(requests: Requests, text: str) -> Change:
    """The requests with another optimizer; `text`: adamw8bit, zero2:8, …

    Raises:
        MemtraceError: there is no such optimizer, or none in the trace.
    """
    sharded = stage_of(text)
    if text not in _OPTIMIZERS and sharded is None:
        known = ", ".join(_OPTIMIZERS)
        raise MemtraceError(
            f"no such optimizer: {readable(text)} (there are {known}, and zero1:RANKS to "
            "zero3:RANKS)"
        )
    steps = windows(requests)
    if not steps:
        raise MemtraceError(
            "no optimizer's step is in the trace: only a training can have another one"
        )
    if sharded is not None:
        return shard(requests, *sharded)
    return _exchanged(requests, _OPTIMIZERS[text], steps)


def _exchanged(
    requests: Requests, optimizer: _Optimizer, steps: tuple[tuple[float, float], ...]
) -> Change:
    trained = parameters(requests, steps[0][0])
    kept = optimizer.state(trained)
    if optimizer.state is _adamw and requests.on_cpu:  # where torch counts steps
        kept = {"step": np.full(len(trained.names), _STEP_BYTES), **kept}
    old = states(requests)
    until = requests.free[old].max() if old.any() else NEVER
    changed = requests.chosen(~(old | passing(requests)))
    trained = parameters(changed, steps[0][0])
    changed = _with_states(changed, trained, kept, steps[0][0], float(until))
    if optimizer.state is _adamw:
        changed = _with_square_roots(changed, trained, steps)
    return Change(changed, f"{optimizer.called} as the optimizer", (optimizer.takes,))


def _with_states(
    requests: Requests, of: Parameters, kept: dict[str, Int64s], begin: float, until: float
) -> Requests:
    """With states, which the first step makes parameter by parameter."""
    if not kept:
        return requests
    size_bytes = np.stack(list(kept.values()), axis=1)
    labels = [f"{state}{OF}{name}" for name in of.names for state in kept]
    like = np.repeat(of.gradients, len(kept))
    asked = size_bytes.reshape(-1) > 0
    number = int(asked.sum())
    changed = requests.added(
        like[asked],
        size_bytes=size_bytes.reshape(-1)[asked],
        start=_spread(begin, 0.05, number),
        free=np.full(number, until),
        category="optimizer_state",
    )
    chosen = [labels[at] for at in np.flatnonzero(asked).tolist()]
    words = _OF_STEPS | {"operator": "aten::zeros_like", "label": chosen}
    return described(changed, number, words)


def _with_square_roots(
    requests: Requests, of: Parameters, steps: tuple[tuple[float, float], ...]
) -> Requests:
    """With what each step of AdamW asks for: the roots of second moments.

    On the CPU they are taken parameter by parameter, and divided into a tensor that lives until
    the next parameter's; on CUDA all at once.
    """
    number = len(of.names)
    for begin, _ in steps:
        place = _spread(begin, 0.15, number + 2)
        if requests.on_cpu:
            gap = (place[1] - place[0]) / 4
            start = np.stack([place[:-2], place[:-2] + gap], axis=1)
            free = np.stack([place[:-2] + 2 * gap, place[1:-1] + 3 * gap], axis=1)
        else:
            start, free = place[:-2, None], np.full((number, 1), place[-1])
        each = start.shape[1]
        requests = requests.added(
            np.repeat(of.gradients, each),
            size_bytes=np.repeat(of.size_bytes, each),
            start=start.reshape(-1),
            free=free.reshape(-1),
            category="temporary",
        )
        operator = "aten::sqrt" if requests.on_cpu else "aten::_foreach_sqrt"
        words = _OF_STEPS | {"operator": operator, "label": None, "module": None}
        requests = described(requests, number * each, words)
    return requests


def _spread(begin: float, offset: float, number: int) -> Places:
    """Places right after a mark, in order."""
    places: Places = begin + offset + np.arange(number, dtype=np.float64) * (0.08 / max(number, 1))
    return places
