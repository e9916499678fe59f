"""A module left out: a layer less, a head less, a smaller student of the same model."""

from __future__ import annotations

import numpy as np

from memtrace.analyse.counters import Flags, Int64s
from memtrace.replay.requests import Places, Requests, before
from memtrace.whatif.change import Change
from memtrace.whatif.modules import choose_modules, flags_of, named, rows_of
from memtrace.whatif.optimizer_steps import rows_for
from memtrace.whatif.runs import Before, Run, Timeline, forward_of, run_at

#: What a module has made that nothing after it is given.
_ITS_OWN = ("weight", "buffer", "gradient", "optimizer_state", "kv_cache")


def apply(requests: Requests, text: str) -> Change:
    """The requests without those of modules; `text`: a path, or a pattern of paths."""
    paths = choose_modules(requests, text)
    fits = True
    for path in paths:
        requests, fits_here = _without(requests, path)
        fits &= fits_here
    which = named(paths)
    assumptions = [f"what comes after {which} is given what {which} was given, of the same size"]
    if not fits:
        assumptions.append(
            f"{which} gives on something of another size than it is given: what comes after it "
            "keeps its own sizes"
        )
    return Change(requests, f"without {which}", tuple(assumptions))


def _without(requests: Requests, path: str) -> tuple[Requests, bool]:
    inside = rows_of(requests, path)
    runs = Timeline(requests).runs(inside)
    for run in runs:
        inside[run.rows] = True
    free, fits = _joined(requests, inside, runs)
    inside |= rows_for(requests, inside)
    return requests.moved(free=free).chosen(~inside), fits


def _joined(requests: Requests, inside: Flags, runs: tuple[Run, ...]) -> tuple[Places, bool]:
    """When what lies around the module is freed without it; whether sizes fit.

    What a run gives on is gone: what it was given takes that place, and lives as long. In a
    backward that is the gradient, on its way to the module before. What else it was given and let
    go last, nobody has needed since it began.
    """
    free = requests.free.copy()
    let_go = run_at(runs, requests.free)
    lasting = flags_of(requests.rows, "category", lambda word: word in _ITS_OWN)
    of_backward = flags_of(requests.rows, "phase", lambda word: word == "backward")
    given = np.flatnonzero(~inside & ~lasting & (let_go >= 0))
    given = given[requests.start[given] < np.array([run.begin for run in runs])[let_go[given]]]
    free[given] = before(np.array([run.begin for run in runs])[let_go[given]])
    # What a forward was given may be held for its backward, and let go there.
    forward = forward_of(runs)
    given_to = np.where(of_backward[given], let_go[given], forward[let_go[given]])
    held = Before(requests, inside | lasting)
    fits = True
    for number, run in enumerate(runs):
        on = _given_on(requests, run, let_go, lasting)
        candidates = given[given_to == number].tolist()
        for row in on[::-1].tolist():
            same = [c for c in candidates if requests.size_bytes[c] == requests.size_bytes[row]]
            end = requests.free[row] if let_go[row] < 0 else runs[let_go[row]].begin
            if same:
                candidates.remove(same[-1])
                free[same[-1]] = end
            elif row == on[-1]:
                gave = held.last(run, int(requests.size_bytes[row]))
                fits &= gave is not None
                if gave is not None:
                    free[gave] = max(free[gave], end)
    return free, fits


def _given_on(requests: Requests, run: Run, let_go: Int64s, lasting: Flags) -> Int64s:
    """What a run made and left to others, in order."""
    left = run.rows[(requests.free[run.rows] >= run.end) & ~lasting[run.rows]]
    elsewhere = left[let_go[left] < 0]
    # The last that it made may be held for its own backward longer than by whom it was given to.
    return elsewhere if len(elsewhere) or run.backward else left[-1:]
