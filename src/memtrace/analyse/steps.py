"""Where the steps of a program begin: those it marks, calls of its models, or repeated stages."""

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
    marked = _marked(trace, process.key) if stage is None else None
    if marked is not None and len(marked) >= _LEAST_REPEATED:
        return marked
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
    return _in_order(f'stages "{stage}"', start_seq[chosen], start_ns[chosen])


def _calls(trace: Trace, key: str) -> Steps | None:
    tables = [
        table.filter(table.column("name").is_null()) for table in _read(trace, key, "root_module")
    ]
    table, told = _joined(tables, "root_module")
    if table is None:
        return None
    return _steps(f"calls of {told or 'a model'}", table)


def _marked(trace: Trace, key: str) -> Steps | None:
    # Those that lie in no other: where requests are marked, not what is marked in them.
    tables = [
        table.filter(table.column("name").is_valid()).filter(table.column("parent_step").is_null())
        for table in _read(trace, key, "parent_step")
    ]
    table, told = _joined(tables, "name")
    return None if table is None else _steps(told, table)


def _read(trace: Trace, key: str, column: str) -> list[pa.Table]:
    columns = ["start_seq", "start_time_ns", "name", column]
    return [group.read(columns) for group in trace.datasets["steps"].row_groups(key)]


def _joined(tables: list[pa.Table], column: str) -> tuple[pa.Table | None, str]:
    """One table, and what most of its rows have in a column."""
    if not sum(table.num_rows for table in tables):
        return None, ""
    table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    names = Counter(str(name) for name in table.column(column).to_pylist() if name)
    told = [name for name, _ in names.most_common(_NAMES_TOLD)]
    more = f" and {len(names) - len(told):,} more" if len(names) > len(told) else ""
    return table, ", ".join(told) + more


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


def _steps(what: str, table: pa.Table) -> Steps:
    return _in_order(what, integers(table, "start_seq"), integers(table, "start_time_ns"))


def _in_order(what: str, start_seq: Int64s, start_ns: Int64s) -> Steps:
    order = np.argsort(start_seq, kind="stable")
    return Steps(what, start_seq[order], start_ns[order])
