"""Memory snapshots that are no such, or nearly: mutated bytes, and mutated values in a good pickle.

An input passes when the import gives a trace that can be opened, or one clear line.
"""

from __future__ import annotations

import copy
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

from fuzz.mutations import mutated
from imports.torch_snapshot.golden import FORMS, pickled
from memtrace.errors import MemtraceError
from memtrace.finalise import finalise
from memtrace.imports.formats import format_of
from memtrace.imports.reader import convert
from memtrace.trace import open_trace

_STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 511, 1 << 31, 1 << 48, 1 << 62, (1 << 63) - 1, 1 << 64, -(1 << 63), 1.5,
    float("nan"), "", "alloc", "x" * 300, "\udc80", b"x", [], {}, (), [[]], {"a": 1}, (1, 2, 3),
    "segment_free", "segment_unmap", "segment_map", "free_completed", "oom", 0x7F00_0000_0000,
)  # fmt: skip
_FINALISED_SHARE = 0.1  # of those that could be read: a trace takes some time to write


def check_one(rng: random.Random, folder: Path) -> str:
    """Makes one input and imports it; what came of it. Raises what a user must never see."""
    name = rng.choice(list(FORMS))
    if rng.random() < 0.5:
        data = mutated(pickled(name), rng)
    else:
        data = pickle.dumps(strange(FORMS[name][1], rng), protocol=rng.randrange(2, 6))
    path = folder / "input.pickle"
    path.write_bytes(data)
    trace_dir = folder / "t.memtrace"
    shutil.rmtree(trace_dir, ignore_errors=True)
    try:
        convert(path, trace_dir / "spool", format_of(path, "snapshot"))
        if rng.random() < _FINALISED_SHARE:
            finalise(trace_dir)
            open_trace(trace_dir).allocations.to_pylist()
    except MemtraceError as refusal:
        if not str(refusal) or "\n" in str(refusal):
            raise ValueError("not one line") from refusal
        return "refused"
    return "read"


def strange(value: Any, rng: random.Random) -> Any:
    """A copy in which a few values are others, gone, doubled or out of order."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 4, 10))):
        holders: list[Any] = []
        _collect(value, holders)
        if not holders:
            break
        holder = rng.choice(holders)
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        change = rng.randrange(4)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, list):
            holder.insert(rng.randrange(len(holder) + 1), holder[key])
        elif change == 2 and isinstance(holder, list):
            rng.shuffle(holder)
        elif change == 2 and isinstance(holder[key], int):
            holder[key] = holder[key] + rng.choice((-512, -1, 1, 512, 1 << 20, -(1 << 40)))
        else:
            holder[key] = copy.deepcopy(rng.choice(_STRANGE))  # the lists in it are for all
    return value


def _collect(value: Any, holders: list[Any]) -> None:
    if isinstance(value, (dict, list)) and value:
        holders.append(value)
        for item in value.values() if isinstance(value, dict) else value:
            _collect(item, holders)
