"""Bytes as a tree: module -> operator -> source line, the frames of stacks, or any columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memtrace.analyse.breakdown import GROUPINGS, not_recorded
from memtrace.analyse.chosen_rows import Within, allocated_rows, no_stage
from memtrace.analyse.counters import Int64s, Moment, integers, moment_at_seq, settled
from memtrace.analyse.live_set import BYTES, live_allocations
from memtrace.analyse.owners import group_codes
from memtrace.analyse.snapshot import moment_at_time
from memtrace.analyse.stack import Frame, stacks_by_id, told_frames
from memtrace.analyse.stage_list import Stage, stages_of
from memtrace.analyse.step_names import StepNames
from memtrace.analyse.target import Target, choose_target
from memtrace.analyse.tree_nodes import Node, Place, grow
from memtrace.analyse.windows import Totals, read_windows
from memtrace.errors import MemtraceError
from memtrace.trace import Process, Trace

#: Orders that have a name.
ORDERS = {"modules": ("module", "operator", "source"), "stack": ("stack", "operator")}
LIVE, ALLOCATED, TEMPORARY = "live", "allocated", "temporary"
#: Of a deeper stack the outer frames are one node.
_DEEPEST = 200
_LIBRARIES = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen ")

_Key = tuple["str | None", ...]


@dataclass(frozen=True)
class MemoryTree:
    """What a device held, or was allocated, as a tree.

    Attributes:
        what: "live" at the moment; "allocated" in total; "temporary".
        of: the measure that the bytes are of.
        by: the columns, from the root on.
        moment: of what is live; at the peak, unless a time or a stage was asked for.
        time_ns: the time asked for.
        stage: the stage whose peak the moment is, or that it was allocated in.
        within: of what is temporary: how soon it was freed.
        excess_bytes: what the rows hold beyond the device's own total.
    """

    process: Process
    device: str
    what: str
    of: str
    by: tuple[str, ...]
    root: Node
    moment: Moment | None = None
    stage: str | None = None
    within: Within | None = None
    excess_bytes: int = 0
    time_ns: int | None = None

    @property
    def total_bytes(self) -> int:
        return self.root.total_bytes

    @property
    def at_least(self) -> bool:
        """Whether allocations were left out (`--max-disk`) that would be in these sums."""
        return self.what != LIVE and self.process.dropped is not None


def parse_order(text: str) -> tuple[str, ...]:
    """The columns of "modules", of "stack", or of a list such as "category,module,source".

    Raises:
        MemtraceError: there is no such column, or one twice.
    """
    if text in ORDERS:
        return ORDERS[text]
    columns = tuple(word.strip() for word in text.split(","))
    for column in columns:
        if column not in GROUPINGS:
            known = ", ".join([*ORDERS, *GROUPINGS])
            raise MemtraceError(f"no tree by {column!r}: give {known}, or several with commas")
    if len(set(columns)) < len(columns):
        raise MemtraceError(f"no tree by {text}: a column is given twice")
    return columns


def make_tree(
    trace: Trace,
    *,
    device: str | None = None,
    process: str | int | None = None,
    of: str = "allocated",
    by: Sequence[str] = ORDERS["modules"],
    what: str = LIVE,
    time_ns: int | None = None,
    stage: str | None = None,
    within: Within | None = None,
) -> MemoryTree:
    """The tree of one device.

    Args:
        what: LIVE: at the peak, or at `time_ns`, or at the peak of allocated bytes in `stage`;
            ALLOCATED: all that was allocated, in the recording or in stages of the name; TEMPORARY:
            of that what was freed `within` so short a while.

    Raises:
        MemtraceError: there is no such device, process, time or stage; or the words do not go
            together.
    """
    target = choose_target(trace, device=device, process=process, of=of)
    steps = StepNames(trace, target.process.key)
    nameless = {column: not_recorded(column, target.process.row) for column in by}
    tree = MemoryTree(target.process, target.device, what, of, tuple(by), Node("root", "", 0, 0))
    if what == LIVE:
        if time_ns is not None and stage is not None:
            raise MemtraceError("a time or a stage: not both")
        moment = _moment(trace, target, time_ns, stage)
        live = live_allocations(trace, moment, of=of, columns=_columns(by))
        extra, excess = _beyond(live, moment, of)
        tree = replace(tree, moment=moment, stage=stage, time_ns=time_ns, excess_bytes=excess)
        sums = _sums([steps.tell(live, by)], by)
    else:
        if time_ns is not None:
            raise MemtraceError("what is allocated in total has no time: give a stage")
        within = (within or Within()) if what == TEMPORARY else None
        tables = allocated_rows(
            trace, target.process, target.device,
            of=of, columns=_columns(by), stage=stage, within=within,
        )  # fmt: skip
        tree, extra = replace(tree, stage=stage, within=within), []
        sums = _sums((steps.tell(table, by) for table in tables), by)
    frames = _frames(trace, target.process, sums, by)
    root = grow(_paths(sums, by, frames, nameless), extra, target.device)
    return replace(tree, root=root)


def _columns(by: Sequence[str]) -> list[str]:
    return ["stack_id" if column == "stack" else column for column in by]


def _moment(trace: Trace, target: Target, time_ns: int | None, stage: str | None) -> Moment:
    key, device = target.process.key, target.device
    if time_ns is not None:
        return moment_at_time(trace, target, time_ns)
    seq = target.highest.seq
    if stage is not None:
        chosen = [found for found in stages_of(trace, target.process) if found.name == stage]
        if not chosen:
            raise no_stage(trace, target.process, stage)
        cuts = [seq for found in chosen for seq in (found.start_seq, found.end_seq)]
        windows = read_windows(trace, key, [device], cuts)[device]
        peaks = [windows.peak(found.start_seq, found.end_seq) for found in chosen]
        best = max(peaks, key=lambda totals: totals.allocated_bytes)
        return _moment_of(best, chosen[peaks.index(best)], key, device)
    return settled(trace, moment_at_seq(trace, process=key, device=device, seq=seq))


def _moment_of(totals: Totals, stage: Stage, process: str, device: str) -> Moment:
    time_ns = stage.start_time_ns if totals.time_ns is None else totals.time_ns
    held = (totals.allocated_bytes, totals.active_bytes, totals.reserved_bytes)
    return Moment(process, device, totals.seq, time_ns, "", None, None, None, *held)


def _beyond(live: pa.Table, moment: Moment, of: str) -> tuple[list[Node], int]:
    """What of the device's total is in no row, and what the rows hold beyond it."""
    held = int(integers(live, BYTES).sum())
    beyond = []
    if of == "reserved" and (unused := (moment.reserved_bytes or 0) - held) > 0:
        beyond.append(Node("unused", "(reserved, held by no block)", unused, 0))
        held += unused
    total = moment.total_bytes(of)
    missing = 0 if total is None else total - held
    if missing > 0:
        beyond.append(Node("unmatched", "(in no recorded allocation)", missing, 0))
    return beyond, max(-missing, 0)


def _sums(tables: Iterable[pa.Table], by: Sequence[str]) -> dict[_Key, tuple[int, int]]:
    """Bytes and blocks of each combination of the columns' values."""
    sums: dict[_Key, tuple[int, int]] = {}
    for table in tables:
        weight = integers(table, BYTES)
        codes, keys = _combined(table, by)
        total, blocks = np.zeros(len(keys), np.int64), np.bincount(codes, minlength=len(keys))
        np.add.at(total, codes, weight)  # not bincount's weights: those are floats
        for key, held, number in zip(keys, total.tolist(), blocks.tolist(), strict=True):
            before = sums.get(key, (0, 0))
            sums[key] = (before[0] + held, before[1] + number)
    return sums


def _combined(table: pa.Table, by: Sequence[str]) -> tuple[Int64s, list[_Key]]:
    """The number of each row's combination of values, and the combinations."""
    codes = np.zeros(table.num_rows, np.int64)
    keys: list[_Key] = [()] if table.num_rows else []
    for column in by:
        digits, names = group_codes(table, column)
        if not len(digits):
            break
        pairs: Any = pc.dictionary_encode(pa.array(codes * len(names) + digits))
        codes = np.asarray(pairs.indices).astype(np.int64)
        places = (divmod(pair, len(names)) for pair in pairs.dictionary.to_pylist())
        keys = [(*keys[place], names[digit]) for place, digit in places]
    return codes, keys


def _frames(
    trace: Trace, process: Process, sums: dict[_Key, tuple[int, int]], by: Sequence[str]
) -> dict[str, tuple[Frame, ...]]:
    if "stack" not in by:
        return {}
    place = list(by).index("stack")
    ids = {int(key[place]) for key in sums if key[place] is not None}  # type: ignore[arg-type]
    return {str(number): found for number, found in stacks_by_id(trace, process.key, ids).items()}


def _paths(
    sums: dict[_Key, tuple[int, int]],
    by: Sequence[str],
    frames: dict[str, tuple[Frame, ...]],
    nameless: dict[str, str | None],
) -> Iterator[tuple[list[Place], int, int]]:
    stacks = {key: _stack_places(found) for key, found in frames.items()}
    for key, (total, blocks) in sums.items():
        path: list[Place] = []
        for column, value in zip(by, key, strict=True):
            if value is None:
                path.append(("none", f"({nameless[column] or GROUPINGS[column]})"))
            elif column in ("module", "label"):  # paths both: h.3.mlp, h.3.mlp.weight
                path += [("module", part) for part in value.split(".")]
            elif column == "stack":
                path += stacks.get(value, [("none", f"stack {value}")])
            else:
                path.append((_kind(column), value))
        yield path, total, blocks


def _kind(column: str) -> str:
    if column.endswith("operator"):
        return "operator"
    return {"source": "source", "module_class": "module"}.get(column, "value")


def _stack_places(frames: tuple[Frame, ...]) -> list[Place]:
    told = told_frames(frames)
    places = [(_frame_kind(frame), frame.text) for frame in reversed(told[:_DEEPEST])]
    outer = len(told) - _DEEPEST
    return [("library", f"({outer:,} outer frames)"), *places] if outer > 0 else places


def _frame_kind(frame: Frame) -> str:
    return "library" if any(part in frame.file for part in _LIBRARIES) else "code"
