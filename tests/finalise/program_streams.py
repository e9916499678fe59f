"""Random programs as a recorder sees them: threads that allocate and free on several devices, in
operators that nest, with stacks, stages, steps, marks, samples, names and failed allocations.

    stream = random_stream(Random(7), happenings=200)
    writer = StreamWriter(SpoolWriter(trace_dir), threads=3)
    for happening in stream:
        writer.write(happening)

A stream is a list of what happened, in order. It is written by any spool (spool_writer.py,
native_spool.py); stream_oracle.py says what the trace of it holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from finalise.mirror_oracle import Device, Made
from spool_writer import LogWriter, SpoolWriter

MIB = 1 << 20
OPERATORS = ("aten::linear", "aten::mm", "aten::add", "aten::relu", "mine::op")
TORCH = "/v/site-packages/torch/nn/modules"
#: Frames innermost first, modules by their place in MODULES; then what memory of it is said to be
#: of: source, module, class.
MODULES = (("Net", "", None), ("Linear", "blocks.0.fc", 0), ("Lonely", None, None))
STACKS: tuple[tuple[list[tuple[str, str, int, int | None]], tuple[str | None, ...]], ...] = (
    (
        [
            ("forward", f"{TORCH}/linear.py", 114, None),
            ("_call_impl", f"{TORCH}/module.py", 1790, 1),
            ("forward", "/home/u/model.py", 120, None),
            ("_call_impl", f"{TORCH}/module.py", 1790, 0),
            ("<module>", "/home/u/run.py", 3, None),
        ],
        ("model.py:120 forward", "blocks.0.fc", "Linear"),
    ),
    ([("step", "/home/u/run.py", 9, None)], ("run.py:9 step", None, None)),
    ([("forward", "/home/u/model.py", 121, 0)], ("model.py:121 forward", "Net", "Net")),
)


@dataclass
class Call:
    """A running operator of a thread."""

    number: int
    name: str
    start: int
    touched: bool = False


@dataclass
class Happening:
    """`what`: event, span, stage_begin, stage_end, step_begin, step_end, mark, sample or name.

    Attributes:
        at: its place among all that happened; the clock of a spool is made of it.
        log: that it is written to: of its thread, or 1, the recorder's own.
        calls: of an event: the operators it happened in, outermost first.
        made: of a CUDA event: what the allocator did, and its totals after it.
    """

    what: str
    at: int
    thread: int
    log: int
    device: int | None = None
    action: str = ""
    address: int = 0
    size: int = 0
    value: int = 0  # of a note; or the free bytes of a failed allocation
    around: int = 0
    name: str = ""
    text: str = ""
    order: int = 0
    pinned: bool = False
    stack: int | None = None
    calls: list[Call] = field(default_factory=list)
    made: Made | None = None


class _Maker:
    def __init__(self, random: Random, threads: int, devices: int, *, to_be_cut: bool) -> None:
        self.random, self.threads = random, threads
        self.to_be_cut = to_be_cut
        self.made: list[Happening] = []
        rules: dict[str, Any] = {"expandable": False, "divisions": 0, "max_split": -1}
        if not to_be_cut:  # else what says them may be lost
            rules = {
                "expandable": random.random() < 0.5,
                "divisions": random.choice([0, 4]),
                "max_split": random.choice([-1, 24 * MIB]),
            }
        self.devices = [Device(random, **rules) for _ in range(devices)]
        settings = Device(random, **rules).settings()
        self.add("mark", 0, notes=True, name="settings", text=json.dumps(settings))
        self.orders = [0] * devices
        self.live: list[int] = []
        self.free: list[int] = []
        self.fresh = 1 << 20
        self.open: dict[int, list[Call]] = {t: [] for t in range(1, threads + 1)}
        self.calls = dict.fromkeys(self.open, 0)
        self.blocks: dict[int, list[tuple[int, str]]] = {t: [] for t in range(threads + 1)}
        self.steps: dict[int, list[int]] = {t: [] for t in self.open}
        self.stage_count = self.step_count = 0

    def add(self, what: str, thread: int, *, notes: bool = False, **more: Any) -> Happening:
        log = 1 if notes else thread + 1
        happening = Happening(what, len(self.made), thread, log, **more)
        self.made.append(happening)
        return happening

    def event(self, thread: int, action: str, **more: Any) -> None:
        for call in self.open[thread]:
            call.touched = True
        takes_stack = action in ("alloc", "oom") and self.random.random() < 0.8
        stack = self.random.randrange(len(STACKS)) if takes_stack else None
        calls = list(self.open[thread])
        self.add("event", thread, action=action, stack=stack, calls=calls, **more)

    def happen(self) -> None:
        thread = self.random.randint(1, self.threads)
        kinds = {
            self.cpu_alloc: 5, self.cpu_free: 4, self.cuda: 6, self.begin_call: 5,
            self.end_call: 5, self.stage: 1, self.step: 1, self.mark: 0.5, self.sample: 0.5,
            self.oom: 0.3, self.tensor: 1,
        }  # fmt: skip
        (kind,) = self.random.choices(list(kinds), list(kinds.values()))
        kind(thread)

    def cpu_alloc(self, thread: int) -> None:
        if not self.to_be_cut and self.free and self.random.random() < 0.5:
            address = self.free.pop(self.random.randrange(len(self.free)))
        else:
            address, self.fresh = self.fresh, self.fresh + (1 << 16)
        self.live.append(address)
        pinned = self.random.random() < 0.2
        size = self.random.randint(1, 1 << 16)
        self.event(thread, "alloc", address=address, size=size, pinned=pinned)

    def cpu_free(self, thread: int) -> None:
        if self.live:
            address = self.live.pop(self.random.randrange(len(self.live)))
            self.free.append(address)
            self.event(thread, "free_requested", address=address)

    def cuda(self, thread: int) -> None:
        if not self.devices:
            return
        number = self.random.randrange(len(self.devices))
        device = self.devices[number]
        done = len(device.made)
        device.step()
        for made in device.made[done:]:
            self.orders[number] += 1
            self.event(
                1 if self.to_be_cut else thread, made.action, device=number, address=made.address,
                size=made.size, order=self.orders[number], made=made,
            )  # fmt: skip

    def oom(self, thread: int) -> None:
        number = self.random.randrange(-1, len(self.devices))
        more: dict[str, Any] = {}
        if number >= 0:
            self.orders[number] += 1
            more = {"device": number, "order": self.orders[number]}
            thread = 1 if self.to_be_cut else thread
        size, free = self.random.randint(1, 1 << 40), self.random.randint(1, 1 << 30)
        self.event(thread, "oom", size=size, value=free, **more)

    def begin_call(self, thread: int) -> None:
        if len(self.open[thread]) < 6:
            self.calls[thread] += 1
            call = Call(self.calls[thread], self.random.choice(OPERATORS), len(self.made))
            self.open[thread].append(call)
            # Its beginning is no record; but no two things happen at one time.
            self.add("nothing", thread)

    def end_call(self, thread: int) -> None:
        if self.open[thread]:
            call = self.open[thread].pop()
            if call.touched or self.random.random() < 0.1:  # or it made nodes of autograd
                around = self.open[thread][-1].number if self.open[thread] else 0
                self.add("span", thread, around=around, calls=[call])

    def stage(self, thread: int) -> None:
        blocks = self.blocks[thread]
        if blocks and self.random.random() < 0.4:
            number, name = blocks.pop()
            self.add("stage_end", 0, notes=True, value=number, name=name)
            return
        self.stage_count += 1
        name = f"stage {self.random.randrange(5)}"
        around = blocks[-1][0] if blocks else 0
        more = {"value": self.stage_count, "name": name, "around": around}
        if self.random.random() < 0.5:
            whole = thread if around else 0
            self.add("stage_begin", whole, notes=True, text="user", **more)
        else:
            self.add("stage_begin", thread, notes=True, text="scope", **more)
            blocks.append((self.stage_count, name))

    def step(self, thread: int) -> None:
        steps = self.steps[thread]
        if steps and self.random.random() < 0.5:
            error = self.random.choice(["", "ValueError"])
            self.add("step_end", thread, notes=True, value=steps.pop(), text=error)
            return
        self.step_count += 1
        batch = self.random.randint(1, 64)
        shapes = {"x": [batch, 8]}
        text = {"batch_size": batch, "input_shapes": shapes, "grad_enabled": batch % 2 == 0}
        self.add(
            "step_begin", thread, notes=True, value=self.step_count, name="Net",
            text=json.dumps(text),
        )  # fmt: skip
        steps.append(self.step_count)

    def mark(self, thread: int) -> None:
        kind = self.random.choice(["empty_cache", "capture_begin", "capture_end"])
        self.add("mark", thread, notes=True, name=kind, text="why", device=None)

    def sample(self, thread: int) -> None:
        value = self.random.randint(0, 1 << 40)
        self.add("sample", 0, notes=True, name="rss", value=value, text="period")

    def tensor(self, thread: int) -> None:
        if self.live:
            address = self.random.choice(self.live)
            self.add(
                "name", thread, address=address, name=f"tensor {len(self.made)}",
                value=self.random.randrange(0, 64, 4), text="float32 2x8",
            )  # fmt: skip


def random_stream(
    random: Random,
    *,
    happenings: int,
    threads: int = 3,
    devices: int = 2,
    to_be_cut: bool = False,
) -> list[Happening]:
    """What happens in a program; all of its operators have ended.

    Args:
        to_be_cut: what is left of each log means the same: no address of the CPU is given out
            again, and all that happens on a device is of one thread.
    """
    maker = _Maker(random, threads, devices, to_be_cut=to_be_cut)
    for _ in range(happenings):
        maker.happen()
    for thread in maker.open:
        while maker.open[thread]:
            maker.end_call(thread)
    return maker.made


# ---- writing ------------------------------------------------------------------------------------


class StreamWriter:
    """Writes a stream, all at once or bit by bit. `clock`: its reading at a place in the stream."""

    def __init__(
        self, spool: SpoolWriter, threads: int, clock: Callable[[int], int] = lambda at: 10 * at
    ) -> None:
        self.spool, self.clock = spool, clock
        # The first is the recorder's own.
        self.logs = {1: spool.log(), **{t + 1: spool.log(t) for t in range(1, threads + 1)}}
        modules: list[int] = []
        for class_name, path, root in MODULES:
            root_id = None if root is None else modules[root]
            modules.append(spool.module(class_name, path=path, root=root_id))
        self.stacks = [
            spool.stack(
                [(f, file, line, 0 if m is None else modules[m]) for f, file, line, m in frames]
            )
            for frames, _ in STACKS
        ]
        self.ticks: dict[int, int] = {}

    def write(self, happening: Happening) -> None:
        """It happens now."""
        # Kept: a call's start is written at its end.
        ticks = self.ticks[happening.at] = self.clock(happening.at)
        if happening.what == "event":
            self._event(self.logs[happening.log], happening, ticks)
        elif happening.what == "span":
            (call,) = happening.calls
            self.logs[happening.log].span(
                self.ticks[call.start], ticks, call.number, call.name, parent=happening.around
            )
        elif happening.what == "name":
            self.logs[happening.log].tensor(
                ticks, happening.address, happening.name, "input", happening.text,
                size=1, offset=happening.value,
            )  # fmt: skip
        elif happening.what != "nothing":
            self._note(happening, ticks)

    def _event(self, log: LogWriter, happening: Happening, ticks: int) -> None:
        calls, device = happening.calls, happening.device
        more: dict[str, Any] = {"order": happening.order, "device": device}
        if device is None:
            more["pool"] = 2 if happening.pinned else 1
            if happening.action == "oom":
                more["stream"] = happening.value
            elif happening.pinned:
                more["stream"] = happening.size + 100  # its block
        elif happening.made is not None:
            more["stream"] = happening.made.stream
        else:
            more["stream"] = happening.value
        log.event(
            happening.action, ticks, happening.address, happening.size,
            call=calls[-1].number if calls else 0,
            op=calls[-1].name if calls else "", top=calls[0].name if calls else "",
            stack=0 if happening.stack is None else self.stacks[happening.stack],
            **more,
        )  # fmt: skip

    def _note(self, happening: Happening, ticks: int) -> None:
        words: dict[str, Any] = {"text": happening.text}
        if happening.what == "sample":
            words = {"target": "host", "source": "rss", "reason": happening.text}
        self.logs[1].note(
            happening.what, ticks, happening.name, value=happening.value, value2=happening.around,
            thread=happening.thread, **words,
        )  # fmt: skip


def surviving(stream: list[Happening], kept: dict[int, int]) -> list[Happening]:
    """What is left where of each log only so many records are."""
    left = dict(kept)
    survivors = []
    for happening in stream:
        if happening.what != "nothing":
            left[happening.log] = left.get(happening.log, 0) - 1
            if left[happening.log] < 0:
                continue
        survivors.append(happening)
    return survivors
