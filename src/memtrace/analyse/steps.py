"""Where the steps of a program begin: those it marks, calls of its models, or repeated stages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Flags, Int64s, equals, integers
from memtrace.analyse.step_names import is_outermost
from memtrace.errors import MemtraceError
from memtrace.trace import Process, Trace

#: With fewer, a stage of that name is no loop.
_LEAST_REPEATED = 3
_NAMES_TOLD = 3


@dataclass(frozen=True)
class Steps:
    """The steps of a process, in the order of their beginnings.

    Attributes:
        what: what they are, in words: "calls of GPT2LMHeadModel", "POST /generate".
        start_seq, start_ns: where each began. What happens from there to the next beginning belongs
            to the step: a backward and an optimizer come after the model's call.
    """

    what: str
    start_seq: Int64s
    start_ns: Int64s

    def __len__(self) -> int:
        return len(self.start_seq)


def find_steps(trace: Trace, process: Process, *, stage: str | None = None) -> Steps:
    """The steps that were marked; else the calls of models; where there are hardly any, the stage
    that was repeated most.

    Args:
        stage: take the stages of this name instead.

    Raises:
        MemtraceError: there is nothing to tell steps by; says what to do.
    """
    calls = None
    if stage is None:
        columns = ["start_seq", "start_time_ns", "name", "root_module", "parent_step"]
        steps = trace.datasets["steps"].read(columns, key=process.key)
        marked, calls = _marked(steps), _calls(steps)
        if marked is not None and len(marked) >= _LEAST_REPEATED:
            return marked
    if calls is not None and len(calls) >= _LEAST_REPEATED:
        return calls
    names, start_seq, start_ns, found = _stages(trace, process.key)
    if stage is None:
        repeated = [item for item in Counter(names).most_common(1) if item[1] >= _LEAST_REPEATED]
        if not repeated and calls is not None:
            return calls
        if not repeated:
            raise MemtraceError(
                f"{process} has no steps: no model was called and no stage was repeated; put "
                'the body of the loop in `with memtrace.stage("step"):`'
            )
        stage = repeated[0][0]
    chosen = np.array([name == stage for name in names], np.bool_)
    if not chosen.any():
        known = ", ".join(dict.fromkeys(names)) or "none"
        if stage in found:
            raise MemtraceError(
                f"stage {stage!r} of {process} is not marked by the program, which alone tells "
                f"steps (with memtrace.stage(...)); marked stages: {known}"
            )
        raise MemtraceError(f"{process} has no stage {stage!r}; it has {known}")
    return _in_order(f'stages "{stage}"', start_seq[chosen], start_ns[chosen])


def _marked(steps: pa.Table) -> Steps | None:
    # Those that lie in no other: where requests are marked, not what is marked in them.
    chosen = is_outermost(steps) & ~_is_call(steps)
    return _told(steps.filter(pa.array(chosen)), "name", "{}")


def _calls(steps: pa.Table) -> Steps | None:
    return _told(steps.filter(pa.array(_is_call(steps))), "root_module", "calls of {}")


def _is_call(steps: pa.Table) -> Flags:
    return np.asarray(steps.column("name").is_null())


def _told(steps: pa.Table, column: str, words: str) -> Steps | None:
    """Told by what most of them have in a column; None: there are none."""
    if not steps.num_rows:
        return None
    names = Counter(str(name) for name in steps.column(column).to_pylist() if name)
    told = ", ".join(name for name, _ in names.most_common(_NAMES_TOLD)) or "a model"
    if len(names) > _NAMES_TOLD:
        told += f" and {len(names) - _NAMES_TOLD:,} more"
    return _in_order(
        words.format(told), integers(steps, "start_seq"), integers(steps, "start_time_ns")
    )


def _stages(trace: Trace, key: str) -> tuple[list[str], Int64s, Int64s, set[str]]:
    """Names and beginnings of stages that the program marks; the names of others."""
    names: list[str] = []
    found: set[str] = set()
    seqs, times_ns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for group in trace.datasets["stages"].row_groups(key):
        table = group.read(["name", "kind", "start_seq", "start_time_ns"])
        auto = equals(table, "kind", "auto")
        found |= {str(name) for name in table.filter(pa.array(auto)).column("name").to_pylist()}
        table = table.filter(pa.array(~auto))
        names += [str(name) for name in table.column("name").to_pylist()]
        seqs.append(integers(table, "start_seq"))
        times_ns.append(integers(table, "start_time_ns"))
    return names, np.concatenate(seqs), np.concatenate(times_ns), found


def _in_order(what: str, start_seq: Int64s, start_ns: Int64s) -> Steps:
    order = np.argsort(start_seq, kind="stable")
    return Steps(what, start_seq[order], start_ns[order])
