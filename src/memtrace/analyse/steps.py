"""Where the steps of a program begin: calls of its models, or stages that it repeats."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Int64s, equals, integers
from memtrace.errors import MemtraceError
from memtrace.trace import Process, Trace

#: With fewer, a stage of that name is no loop.
_LEAST_REPEATED = 3
_ROOTS_TOLD = 3


@dataclass(frozen=True)
class Steps:
    """The steps of a process, in the order of their beginnings.

    Attributes:
        what: what they are, in words: "calls of GPT2LMHeadModel".
        start_seq, start_ns: where each began. What happens from there to the next beginning belongs
            to the step: a backward and an optimizer come after the model's call.
    """

    what: str
    start_seq: Int64s
    start_ns: Int64s

    def __len__(self) -> int:
        return len(self.start_seq)


def find_steps(trace: Trace, process: Process, *, stage: str | None = None) -> Steps:
    """The calls of models; where there are hardly any, the stage that was repeated most.

    Args:
        stage: take the stages of this name instead.

    Raises:
        MemtraceError: there is nothing to tell steps by; says what to do.
    """
    calls = _calls(trace, process.key) if stage is None else None
    if calls is not None and len(calls) >= _LEAST_REPEATED:
        return calls
    names, start_seq, start_ns = _stages(trace, process.key)
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
        raise MemtraceError(f"{process} has no stage {stage!r}; it has {known}")
    return _steps(f'stages "{stage}"', start_seq[chosen], start_ns[chosen])


def _calls(trace: Trace, key: str) -> Steps | None:
    tables = [
        group.read(["start_seq", "start_time_ns", "root_module"])
        for group in trace.datasets["steps"].row_groups(key)
    ]
    if not sum(table.num_rows for table in tables):
        return None
    table = pa.concat_tables(tables).unify_dictionaries()
    roots = Counter(str(name) for name in table.column("root_module").to_pylist() if name)
    told = [name for name, _ in roots.most_common(_ROOTS_TOLD)]
    more = f" and {len(roots) - len(told):,} more" if len(roots) > len(told) else ""
    return _steps(
        f"calls of {', '.join(told) or 'a model'}{more}",
        integers(table, "start_seq"),
        integers(table, "start_time_ns"),
    )


def _stages(trace: Trace, key: str) -> tuple[list[str], Int64s, Int64s]:
    names: list[str] = []
    seqs, times_ns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for group in trace.datasets["stages"].row_groups(key):
        table = group.read(["name", "kind", "start_seq", "start_time_ns"])
        table = table.filter(pa.array(~equals(table, "kind", "auto")))
        names += [str(name) for name in table.column("name").to_pylist()]
        seqs.append(integers(table, "start_seq"))
        times_ns.append(integers(table, "start_time_ns"))
    return names, np.concatenate(seqs), np.concatenate(times_ns)


def _steps(what: str, start_seq: Int64s, start_ns: Int64s) -> Steps:
    order = np.argsort(start_seq, kind="stable")
    return Steps(what, start_seq[order], start_ns[order])
