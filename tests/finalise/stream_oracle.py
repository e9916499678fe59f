"""What the trace of a stream (program_streams.py) holds, by plain loops over what happened.

It shares no code with csrc/analyse. Rows are dicts of the columns that a stream decides; a time is
told by the place in the stream (`Places`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from finalise.program_streams import STACKS, Happening

Row = dict[str, Any]
_TIMES = ("time_ns", "alloc_time_ns", "free_time_ns", "release_time_ns", "start_time_ns",
          "end_time_ns")  # fmt: skip
_RELEASES = ("free_requested", "free_completed")
_MAIN = 1


class Places:
    """The time of each place, as the rows tell it: the same in all of them, and rising."""

    def __init__(self, time_of: Callable[[int], int] | None = None) -> None:
        self._time_of = time_of  # null: a clock that nobody knows beforehand
        self._learnt: dict[int, int] = {}

    def check(self, place: int | None, time_ns: int | None) -> None:
        if place is None or time_ns is None:
            assert place is time_ns is None
        elif self._time_of is not None:
            assert time_ns == self._time_of(place)
        else:
            assert self._learnt.setdefault(place, time_ns) == time_ns

    def check_order(self) -> None:
        times = [time for _, time in sorted(self._learnt.items())]
        assert times == sorted(times)


def same(found: Sequence[Row], expected: Sequence[Row], places: Places) -> None:
    """The same rows in the same order; of the found ones only the columns that are expected."""
    assert len(found) == len(expected)
    for ours, row in zip(found, expected, strict=True):
        times = [column for column in _TIMES if column in row]
        for column in times:
            places.check(row[column], ours[column])
        wanted = {column: value for column, value in row.items() if column not in times}
        assert {column: ours[column] for column in wanted} == wanted


class Expected:
    """Of the happenings that a spool holds: the rows, and the sums, of every dataset."""

    def __init__(self, stream: Iterable[Happening]) -> None:
        self.events: list[Row] = []
        self.allocations: list[Row] = []
        self.calls: list[Row] = []
        self.stages: list[Row] = []
        self.steps: list[Row] = []
        self.marks: list[Row] = []
        self.samples: list[Row] = []
        self.names: list[Row] = []
        self.unmatched = 0
        self._live: dict[tuple[str, int], Row] = {}
        self._pending: dict[tuple[str, int], Row] = {}  # freed, and held by a stream still
        self._cpu = 0
        self._of_call: dict[tuple[int, int], Row] = {}  # sums and start of an open call
        self._open_stages: list[Row] = []
        self._open_steps: list[Row] = []
        for happening in stream:
            if happening.what != "nothing":
                getattr(self, f"_{happening.what}")(happening)
        self.stages += [{**stage, "end_seq": None} for stage in self._open_stages]
        self.steps += [{**step, "end_seq": None, "end_time_ns": None} for step in self._open_steps]
        for stage in self.stages:
            stage.setdefault("end_time_ns", None)

    @property
    def seq(self) -> int:
        return len(self.events)

    # ---- memory

    def _event(self, what: Happening) -> None:
        device = "cpu" if what.device is None else f"cuda:{what.device}"
        at, place = (device, what.address), {"seq": self.seq, "time_ns": what.at}
        allocation: Row | None = None
        allocated = freed = 0
        if what.action == "alloc":
            allocation = self._allocate(what, device)
            allocated = allocation["block_bytes"]
        elif what.action in _RELEASES:
            allocation = self._release(what, at)
            if allocation is not None and what.action == "free_requested":
                freed = allocation["block_bytes"]
        self._sum(what, allocated, freed)
        if what.made is not None:
            totals = (what.made.allocated, what.made.active, what.made.reserved)
        elif device == "cpu":
            totals = (self._cpu, self._cpu, self._cpu)
        else:
            before = [row for row in self.events if row["device"] == device][-1:]
            columns = ("allocated_bytes", "active_bytes", "reserved_bytes")
            totals = tuple(before[0][c] if before else 0 for c in columns)  # type: ignore[assignment]
        is_oom = what.action == "oom"
        self.events.append(
            {
                **place, "device": device, "action": what.action,
                "address": None if is_oom else what.address,
                "size_bytes": allocation["size_bytes"] if allocation else what.size or None,
                "block_bytes": allocation and allocation["block_bytes"],
                "thread_id": what.thread,
                "stack_id": None if what.stack is None else what.stack + 1,
                "device_free_bytes": what.value if is_oom else None,
                "allocated_bytes": totals[0], "active_bytes": totals[1],
                "reserved_bytes": totals[2],
            }
        )  # fmt: skip
        self.events[-1]["allocation"] = allocation

    def _allocate(self, what: Happening, device: str) -> Row:
        cpu = what.device is None
        block = what.made.block_bytes if what.made else what.size + 100 * what.pinned
        source, module, module_class = (None, None, None)
        if what.stack is not None:
            source, module, module_class = STACKS[what.stack][1]
        stage, step = self._stage_of(what.thread), self._step_of(what.thread)
        row: Row = {
            "device": device, "origin": "recorded",
            "memory": ("pinned" if what.pinned else "host") if cpu else "device",
            "address": what.address, "size_bytes": what.size, "block_bytes": block,
            "alloc_seq": self.seq, "free_seq": None, "release_seq": None,
            "alloc_time_ns": what.at, "free_time_ns": None, "release_time_ns": None,
            "thread_id": what.thread, "free_thread_id": None,
            "stream": what.made.stream if what.made else None,
            "operator": what.calls[-1].name if what.calls else None,
            "top_operator": what.calls[0].name if what.calls else None,
            "source": source, "module": module, "module_class": module_class,
            "stack_id": None if what.stack is None else what.stack + 1,
            "step": step and step["step"],
        }  # fmt: skip
        if stage is not None:  # else one of what the program does is made
            row["stage"] = stage["name"]
        self.allocations.append(row)
        self._live[device, what.address] = row
        if cpu:
            self._cpu += row["block_bytes"]
        return row

    def _release(self, what: Happening, at: tuple[str, int]) -> Row | None:
        if what.action == "free_completed":
            row = self._pending.pop(at)
            row |= {"release_seq": self.seq, "release_time_ns": what.at}
            return row
        freed = self._live.pop(at, None)
        if freed is None:
            self.unmatched += 1
            return None
        freed |= {
            "free_seq": self.seq, "free_time_ns": what.at, "free_thread_id": what.thread,
        }  # fmt: skip
        if what.device is None:
            self._cpu -= freed["block_bytes"]
        else:
            self._pending[at] = freed
        return freed

    def _name(self, what: Happening) -> None:
        allocation = self._live.get(("cpu", what.address))
        if allocation is None:  # its own record was lost
            return
        self.names.append(
            {
                "name": what.name, "kind": "input", "offset_bytes": what.value, "shape": [2, 8],
                "dtype": "float32", "since_seq": self.seq, "allocation": allocation,
            }
        )  # fmt: skip

    # ---- operators

    def _sum(self, what: Happening, allocated: int, freed: int) -> None:
        for call in what.calls:
            sums = self._of_call.setdefault(
                (what.thread, call.number), {"start_seq": self.seq, "allocated": 0, "freed": 0}
            )
            sums["allocated"] += allocated
            sums["freed"] += freed

    def _span(self, what: Happening) -> None:
        (call,) = what.calls
        sums = self._of_call.get((what.thread, call.number), {})
        # One in which no memory changed is in another only where some has changed in that.
        inside = bool(sums) or (what.thread, what.around) in self._of_call
        self.calls.append(
            {
                "name": call.name, "scope": "function", "thread_id": what.thread,
                "start_time_ns": call.start, "end_time_ns": what.at,
                "start_seq": sums.get("start_seq", self.seq),
                "allocated_bytes": sums.get("allocated", 0), "freed_bytes": sums.get("freed", 0),
                "number": call.number, "around": what.around * inside,
            }
        )  # fmt: skip

    # ---- stages and steps

    def _stage_of(self, thread: int) -> Row | None:
        own = [s for s in self._open_stages if s["thread_id"] == thread]
        shared = [s for s in self._open_stages if s["thread_id"] in (None, _MAIN)]
        return (own or shared or [None])[-1]

    def _step_of(self, thread: int) -> Row | None:
        return ([s for s in self._open_steps if s["thread_id"] == thread] or [None])[-1]

    def _plain_in(self, block: int) -> Row | None:
        plain = [s for s in self._open_stages if s["kind"] == "user" and s["block"] == block]
        return plain[-1] if plain else None

    def _end_stage(self, stage: Row | None, at: int) -> None:
        if stage is not None:
            self._open_stages.remove(stage)
            self.stages.append({**stage, "end_seq": self.seq, "end_time_ns": at})

    def _stage_begin(self, what: Happening) -> None:
        if what.text == "user":
            self._end_stage(self._plain_in(what.around), what.at)
        plain = self._plain_in(what.around)
        parent = plain["stage_id"] if plain else what.around or None
        self._open_stages.append(
            {
                "stage_id": what.value, "parent_id": parent, "name": what.name, "kind": what.text,
                "thread_id": what.thread or None, "start_seq": self.seq, "start_time_ns": what.at,
                "block": what.around,
            }
        )  # fmt: skip

    def _stage_end(self, what: Happening) -> None:
        (ended,) = (s for s in self._open_stages if s["stage_id"] == what.value)
        self._open_stages.remove(ended)
        self._end_stage(self._plain_in(what.value), what.at)
        self.stages.append({**ended, "end_seq": self.seq, "end_time_ns": what.at})

    def _step_begin(self, what: Happening) -> None:
        stage = self._stage_of(what.thread)
        told = json.loads(what.text)
        self._open_steps.append(
            {
                "step": what.value, "root_module": what.name, "thread_id": what.thread,
                "stage_id": stage and stage["stage_id"], "batch_size": told["batch_size"],
                "input_shapes": json.dumps(told["input_shapes"]),
                "grad_enabled": told["grad_enabled"], "error": None,
                "start_seq": self.seq, "start_time_ns": what.at,
            }
        )  # fmt: skip

    def _step_end(self, what: Happening) -> None:
        (ended,) = (s for s in self._open_steps if s["step"] == what.value)
        self._open_steps.remove(ended)
        ended |= {"end_seq": self.seq, "end_time_ns": what.at, "error": what.text or None}
        self.steps.append(ended)

    # ---- the rest

    def _mark(self, what: Happening) -> None:
        self.marks.append(
            {
                "seq": self.seq, "time_ns": what.at, "kind": what.name, "text": what.text,
                "thread_id": what.thread or None, "device": None, "pool": None,
            }
        )  # fmt: skip

    def _sample(self, what: Happening) -> None:
        self.samples.append(
            {
                "seq": self.seq, "time_ns": what.at, "target": "host", "source": "rss",
                "metric": what.name, "value_bytes": what.value, "reason": what.text,
            }
        )  # fmt: skip

    # ---- sums

    def devices(self) -> list[str]:
        return sorted({row["device"] for row in self.events})

    def peak(self, device: str) -> Row:
        """The first event after which most was allocated."""
        seen = [row for row in self.events if row["device"] == device]
        return max(seen, key=lambda row: row["allocated_bytes"])

    def held(self, device: str, seq: int, by: str) -> dict[str | None, tuple[int, int]]:
        """After that event: bytes and blocks by operator, module or source."""
        sizes: Counter[str | None] = Counter()
        blocks: Counter[str | None] = Counter()
        for row in self.allocations:
            over = row["free_seq"] is not None and row["free_seq"] <= seq
            if row["device"] == device and row["alloc_seq"] <= seq and not over:
                sizes[row[by]] += row["block_bytes"]
                blocks[row[by]] += 1
        return {name: (sizes[name], blocks[name]) for name in blocks}
