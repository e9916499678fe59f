"""The happenings of a process as the records that a recorder would have written of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from memtrace.imports.chrome_trace.events import (
    BLOCK,
    MODULE,
    NOT_TOLD,
    OPERATOR,
    ProcessEvents,
)
from memtrace.imports.chrome_trace.frames import class_of, frames_of
from memtrace.imports.chrome_trace.timeline import (
    BEGIN,
    CHANGE,
    END,
    ENGINE,
    PASS_BEGIN,
    Happening,
)
from memtrace.imports.spool import (
    ALLOC,
    FREE_COMPLETED,
    MARK,
    MEMORY_HOST,
    NODE,
    OPTIMIZER,
    RECORDS_GRAPH,
    STAGE_BEGIN,
    STAGE_END,
    STEP_BEGIN,
    STEP_END,
    Spool,
)
from memtrace.imports.spool import (
    ENGINE as ENGINE_CONTEXT,
)
from memtrace.imports.stacks import Stack, owning_operator

_OPTIMIZER_STEP, _OPTIMIZERS = "Optimizer.step#", "Optimizer."
_PROFILER_STEP = "ProfilerStep#"
_FUNCTION_SCOPE, _BACKWARD_SCOPE = 0, 1  # at::RecordScope
_MAIN_THREAD = 1


@dataclass
class _Call:
    """A running operator, or another call that says why memory changes."""

    place: int
    number: int  # in its thread
    start_ticks: int
    name: str  # "": no operator
    context: int = 0  # number of the call that says why
    records_graph: bool = False
    nodes: int = 0
    is_node: bool = False
    stack: int = 0
    touched: bool = False


@dataclass
class _Thread:
    number: int
    calls: list[_Call] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)  # places of functions and modules
    blocks: list[tuple[int, int]] = field(default_factory=list)  # place, stage
    last_call: int = 0
    stack: int | None = 0  # id of `frames`; None: not known


class Replayed:
    """Takes happenings in their order.

    Args:
        origin_ns: the time that is tick 0.
    """

    def __init__(
        self, spool: Spool, process: ProcessEvents, names: list[str], *, origin_ns: int
    ) -> None:
        self._spool = spool
        self._calls = process.calls
        self._changes = process.changes
        self._names = names
        self._origin_ns = origin_ns
        self._ticks = 1
        self._stages = self._steps = self._passes = 0
        self._reserved: dict[int, int] = {}  # by device
        self._stack_ids: dict[tuple[tuple[int, str], ...], int] = {}
        self._step_of: dict[int, int] = {}  # place of the call -> step
        self._threads = self._number_threads(process)
        forward, self._forward_thread = self._link(process)
        self._makes_node = forward

    def _number_threads(self, process: ProcessEvents) -> list[_Thread]:
        """By their places; the main thread, if it is there, has the first number."""
        main = process.threads.get(process.pid, 0)
        order = [main] + [place for place in range(len(process.threads)) if place != main]
        found = {place: _Thread(_MAIN_THREAD + at) for at, place in enumerate(order)}
        for tid, place in process.threads.items():
            known = isinstance(tid, int) and 0 <= tid < 1 << 62
            self._spool.thread(found[place].number, tid if known else 0)
        return [found[place] for place in range(len(order))]

    def _link(self, process: ProcessEvents) -> tuple[set[tuple[int, int]], dict[int, int]]:
        """Thread and begin of calls that made nodes; the profiler's numbers of their threads."""
        arrows = process.flow_starts.keys() & process.flow_ends.keys()
        makes = {process.flow_starts[arrow] for arrow in arrows}
        made_on = {process.flow_ends[a]: process.flow_starts[a][0] for a in arrows}
        calls, threads = self._calls, {}
        for thread, start, number in zip(
            calls.thread, calls.start_ns, calls.forward_thread, strict=True
        ):
            if number != NOT_TOLD and (thread, start) in made_on:
                threads[number] = self._threads[made_on[thread, start]].number
        return makes, threads

    def take(self, happening: Happening) -> None:
        """Writes the records of one."""
        self._ticks = max(self._ticks, happening.time_ns - self._origin_ns + 1)
        if happening.what == CHANGE:
            self._change(happening.place)
        elif happening.what in (BEGIN, END):
            begins, kind = happening.what == BEGIN, self._calls.kind[happening.place]
            thread = self._threads[self._calls.thread[happening.place]]
            if kind == OPERATOR:
                (self._begin if begins else self._end)(thread, happening.place)
            elif kind == BLOCK:
                self._block(thread, happening.place, begins=begins)
            else:
                self._frame(thread, happening.place, begins=begins)
        else:
            self._pass(happening)

    def finish(self) -> int:
        """The tick after the last record."""
        return self._ticks + 1

    # ---- memory -------------------------------------------------------------------------------

    def _change(self, place: int) -> None:
        changes, spool = self._changes, self._spool
        device, size = changes.device[place], changes.size_bytes[place]
        thread = self._threads[changes.thread[place]]
        reserved = changes.reserved_bytes[place]
        if device and reserved not in (NOT_TOLD, self._reserved.get(device)):
            self._reserved[device] = reserved
            spool.counter(self._ticks, "reserved_bytes", reserved, device=device, reason="period")
        call = thread.calls[-1] if thread.calls else None
        operators = [call.name for call in reversed(thread.calls) if call.name]
        stack = self._stack(thread)
        for running in reversed(thread.calls):
            if running.touched:
                break
            running.touched = True
            running.stack = running.stack or stack
        spool.event(
            ALLOC if size > 0 else FREE_COMPLETED, self._ticks, changes.address[place],
            abs(size) if size > 0 or device else 0,  # of a free on the CPU it is known
            device=device, pool=0 if device else MEMORY_HOST,
            call=next((c.number for c in reversed(thread.calls) if c.name), 0),
            stack=stack, op_name=spool.name(owning_operator(operators)),
            top_name=spool.name(operators[-1] if operators else ""),
            context=self._why(call), thread=thread.number,
        )  # fmt: skip

    def _why(self, call: _Call | None) -> int:
        if call is None:
            return 0
        return call.context | (RECORDS_GRAPH if call.records_graph else 0)

    def _stack(self, thread: _Thread) -> int:
        if thread.stack is None:
            calls = self._calls
            running = tuple(
                (calls.kind[place], self._names[calls.name[place]]) for place in thread.frames
            )
            known = self._stack_ids.get(running)
            if known is None:
                known = self._spool.stack(Stack(frames_of(running)))
                self._stack_ids[running] = known
            thread.stack = known
        return thread.stack

    # ---- operators ----------------------------------------------------------------------------

    def _begin(self, thread: _Thread, place: int) -> None:
        calls, around = self._calls, thread.calls[-1] if thread.calls else None
        name, sequence = self._names[calls.name[place]], calls.sequence_number[place]
        thread.last_call += 1
        call = _Call(place, thread.last_call, self._ticks, name)
        if around is not None:
            call.context, call.records_graph = around.context, around.records_graph
        if name.startswith(ENGINE):
            self._open_context(thread, call, ENGINE_CONTEXT)
        elif around is not None and self._names[calls.name[around.place]] == ENGINE + name:
            call.is_node = True
            self._open_context(thread, call, NODE)
        elif sequence != NOT_TOLD:
            call.records_graph = True
            if (calls.thread[place], calls.start_ns[place]) in self._makes_node:
                call.nodes = 1
                call.stack = self._stack(thread)
        thread.calls.append(call)

    def _open_context(self, thread: _Thread, call: _Call, kind: int) -> None:
        calls, place = self._calls, call.place
        call.context, call.records_graph = call.number, False
        self._spool.context(
            self._ticks, kind, call=call.number, sequence_number=calls.sequence_number[place],
            forward_thread=self._forward_thread.get(calls.forward_thread[place], 0),
            thread=thread.number,
        )  # fmt: skip

    def _end(self, thread: _Thread, place: int) -> None:
        call = _taken(thread.calls, place)
        if call is None or not call.name or not (call.touched or call.nodes):
            return
        calls = self._calls
        parents = (c.number for c in reversed(thread.calls) if c.name and c.number < call.number)
        self._spool.span(
            call.start_ticks, self._ticks, call=call.number, parent_call=next(parents, 0),
            name=self._spool.name(call.name), stack=call.stack,
            sequence_number=calls.sequence_number[place],
            forward_thread=self._forward_thread.get(calls.forward_thread[place], 0),
            nodes=call.nodes, context=self._why(call), thread=thread.number,
            scope=_BACKWARD_SCOPE if call.is_node else _FUNCTION_SCOPE,
        )  # fmt: skip

    # ---- Python, modules, blocks, passes ------------------------------------------------------

    def _frame(self, thread: _Thread, place: int, *, begins: bool) -> None:
        thread.stack = None
        is_module = self._calls.kind[place] == MODULE
        if begins:
            if is_module and not any(self._calls.kind[at] == MODULE for at in thread.frames):
                self._begin_step(thread, place)
            thread.frames.append(place)
            return
        if place in thread.frames:
            thread.frames.remove(place)
        if (step := self._step_of.pop(place, 0)) != 0:
            self._spool.note(STEP_END, self._ticks, "", value=step, thread=thread.number)

    def _begin_step(self, thread: _Thread, place: int) -> None:
        """The outermost call of a module is a step."""
        self._steps += 1
        self._step_of[place] = self._steps
        self._spool.note(
            STEP_BEGIN, self._ticks, class_of(self._names[self._calls.name[place]]),
            value=self._steps, text="{}", thread=thread.number,
        )  # fmt: skip

    def _block(self, thread: _Thread, place: int, *, begins: bool) -> None:
        name = self._names[self._calls.name[place]]
        if name.startswith(_OPTIMIZER_STEP):
            self._optimizer_step(thread, place, begins=begins)
        elif name.startswith(_OPTIMIZERS):
            return
        elif begins:
            self._stages += 1
            around = thread.blocks[-1][1] if thread.blocks else 0
            thread.blocks.append((place, self._stages))
            shown = _PROFILER_STEP[:-1] if name.startswith(_PROFILER_STEP) else name
            self._spool.note(
                STAGE_BEGIN, self._ticks, shown, value=self._stages, text="scope", around=around,
                thread=thread.number,
            )  # fmt: skip
        else:
            stage = next(stage for at, stage in thread.blocks if at == place)
            thread.blocks.remove((place, stage))
            self._spool.note(STAGE_END, self._ticks, name, value=stage, thread=thread.number)

    def _optimizer_step(self, thread: _Thread, place: int, *, begins: bool) -> None:
        self._mark("optimizer_begin" if begins else "optimizer_end", thread)
        if not begins:
            _taken(thread.calls, place)
            return
        thread.last_call += 1
        call = _Call(place, thread.last_call, self._ticks, "")
        self._open_context(thread, call, OPTIMIZER)
        thread.calls.append(call)

    def _pass(self, happening: Happening) -> None:
        begins = happening.what == PASS_BEGIN
        self._passes += begins
        name = "backward_begin" if begins else "backward_end"
        self._mark(name, self._threads[happening.place], value=self._passes)

    def _mark(self, name: str, thread: _Thread, *, value: int = 0) -> None:
        self._spool.note(MARK, self._ticks, name, value=value, thread=thread.number)


def _taken(calls: list[_Call], place: int) -> _Call | None:
    """A running call, which it is no longer."""
    for at in range(len(calls) - 1, -1, -1):
        if calls[at].place == place:
            return calls.pop(at)
    return None
