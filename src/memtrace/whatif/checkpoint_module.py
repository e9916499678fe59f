"""Activation checkpointing: a module's forward done again in its backward, not kept until then.

As torch.utils.checkpoint does it without reentrant autograd: what the module's operators save is
let go; the first of its backward that needs any of it calls the forward again, which stops at the
operator that saves the last (early stop).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memtrace.analyse.counters import Flags, Int64s, integers
from memtrace.replay.requests import Places, Requests
from memtrace.whatif.change import Change
from memtrace.whatif.modules import choose_modules, flags_of, named, rows_of, workspaces
from memtrace.whatif.runs import Before, Run, Timeline, forward_of, run_at

#: Of the CPU's generator, kept for the forward that is done again: torch.get_rng_state().
_RNG_STATE_BYTES = 5056


def apply(requests: Requests, text: str) -> Change:
    """The requests with modules checkpointed; `text`: a path, or a pattern of paths."""
    paths = choose_modules(requests, text)
    which = named(paths)
    free = requests.free.copy()
    timeline = Timeline(requests)
    repeats = [repeat for path in paths for repeat in _repeats(requests, timeline, path, free)]
    if not repeats:
        nothing = f"no backward of {which} is in the trace: checkpointing it changes nothing"
        return Change(requests, f"{which} checkpointed", (nothing,))
    changed = requests.moved(free=free)
    for category in ("activation", "temporary"):
        chosen = [repeat.only(category == "activation") for repeat in repeats]
        changed = changed.added(
            np.concatenate([repeat.like for repeat in chosen]),
            size_bytes=np.concatenate([repeat.size_bytes for repeat in chosen]),
            start=np.concatenate([repeat.start for repeat in chosen]),
            free=np.concatenate([repeat.free for repeat in chosen]),
            category=category,
        )
    changed = _with_workspaces(changed, requests, repeats)
    assumptions = (
        (
            f"what {which} saves is freed as its forward ends, not before, and done again for its "
            "backward; what it was given stays until that has ended"
        ),
        (
            "as torch.utils.checkpoint(use_reentrant=False), a forward is done again up to what it "
            "saves last"
        ),
    )
    return Change(changed, f"{which} checkpointed", assumptions)


def _with_workspaces(changed: Requests, requests: Requests, repeats: Sequence[_Repeat]) -> Requests:
    """With workspaces that the backward's thread has not asked for, as the forward's has.

    torch keeps them by thread. On the CPU there are none.
    """
    rows = np.flatnonzero(workspaces(requests))
    threads = integers(requests.rows, "thread_id", missing=-1)
    known = {(int(threads[row]), int(requests.size_bytes[row])) for row in rows}
    operators = requests.rows.column("operator").take(rows).to_pylist()
    for repeat in sorted(repeats, key=lambda repeat: float(repeat.start.min(initial=np.inf))):
        used = set(requests.rows.column("operator").take(repeat.like).to_pylist())
        for row, operator in zip(rows.tolist(), operators, strict=True):
            size_bytes = int(requests.size_bytes[row])
            if operator not in used or (repeat.thread, size_bytes) in known:
                continue
            known.add((repeat.thread, size_bytes))
            changed = changed.added(
                np.array([row]),
                size_bytes=np.array([size_bytes]),
                start=repeat.start[:1],
                free=requests.free[row : row + 1],
            )
    return changed


@dataclass(frozen=True)
class _Repeat:
    """What a forward that is done again asks for.

    Attributes:
        saved: which of it is held for the backward.
        thread: of the backward.
    """

    like: Int64s
    size_bytes: Int64s
    start: Places
    free: Places
    saved: Flags
    thread: int

    def only(self, saved: bool) -> _Repeat:
        chosen = self.saved == saved
        return _Repeat(
            self.like[chosen],
            self.size_bytes[chosen],
            self.start[chosen],
            self.free[chosen],
            self.saved[chosen],
            self.thread,
        )


def _repeats(requests: Requests, timeline: Timeline, path: str, free: Places) -> list[_Repeat]:
    """What is done again of a module; what else is freed at other places then goes to `free`."""
    inside = rows_of(requests, path)
    runs = timeline.runs(inside)
    if not runs:
        return []
    let_go = run_at(runs, requests.free)
    begins = np.array([run.begin for run in runs])
    forward = forward_of(runs)
    given = (let_go >= 0) & (requests.start < begins[let_go]) & ~inside
    given &= ~flags_of(requests.rows, "phase", lambda word: word == "backward")
    rows = np.flatnonzero(given)
    held = Before(requests, inside)
    found = []
    for number, run in enumerate(runs):
        if not run.backward or forward[number] == number:
            continue
        call = runs[forward[number]]
        saved = let_go[call.rows] == number
        ended = float(requests.free[call.rows[saved]].max()) if saved.any() else run.begin
        # What it was given is kept to do it again, until the last that it saved has gone.
        kept = rows[(let_go[rows] == number) | (let_go[rows] == forward[number])]
        free[kept] = np.maximum(free[kept], ended)
        free[call.rows[saved]] = call.leave
        given_on = call.rows[(requests.free[call.rows] >= call.end) & ~saved]
        if not len(given_on):
            # It saves what it gives on, which others need too: until when, is not known.
            given_on = call.rows[-1:]
            free[given_on] = np.minimum(requests.free[given_on], run.entry)
        # The caller may hold what it gave as well, and let it go before the backward.
        gave = held.last(call, int(requests.size_bytes[given_on[-1]]))
        if gave is not None:
            free[gave] = max(free[gave], ended)
        found.append(_again(requests, call, saved, run, ended))
    return found


def _again(requests: Requests, call: Run, saved: Flags, backward: Run, ended: float) -> _Repeat:
    """A forward done again, all of it right before its backward."""
    end = backward.entry
    begin, length = end - 0.2, 0.19
    rows = call.rows[: int(np.flatnonzero(saved)[-1]) + 1] if saved.any() else call.rows[:0]
    saved = saved[: len(rows)]
    stop = requests.start[rows[-1]] if len(rows) else call.begin
    scale = length / (stop - call.begin + 1)
    start = begin + (requests.start[rows] - call.begin + 0.5) * scale
    free = requests.free[rows]
    free = np.where(free <= stop, begin + (free - call.begin + 0.5) * scale, end - 0.005)
    free = np.where(saved, requests.free[rows], free)
    like, size_bytes = rows, requests.size_bytes[rows]
    if requests.on_cpu:
        # The generator's state, as it was at first and as it is now.
        like = np.append(call.rows[[0, 0]], like)
        size_bytes = np.append([_RNG_STATE_BYTES, _RNG_STATE_BYTES], size_bytes)
        start = np.append([call.entry, begin], start)
        free = np.append([ended, end - 0.005], free)
        saved = np.append([True, False], saved)
    thread = requests.rows.column("thread_id")[int(backward.rows[0])].as_py()
    return _Repeat(like, size_bytes, start, free, saved, -1 if thread is None else thread)
