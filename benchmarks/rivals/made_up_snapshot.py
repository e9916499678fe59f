"""A torch memory snapshot of a made-up training, of any number of events, and its true peaks.

    python benchmarks/rivals/made_up_snapshot.py EVENTS FILE.pickle

48 layers of 12 operators: weights stay, activations live from the forward to the backward of a
step, temporaries for one operator; no step is as large as another. Everything lies in segments by
the allocator's rules of rounding and splitting. As in a snapshot of torch (2.11, looked at), an
allocation has a list of its own of 30 frames, a free another for its two events, and the frames in
them are shared.

Prints JSON: events, peak_allocated_bytes (of blocks), peak_requested_bytes (what was asked for).
"""

from __future__ import annotations

import gc
import json
import pickle
import random
import sys
from pathlib import Path
from typing import Any

Frame = dict[str, Any]
_LAYERS, _DEPTH, _MIB = 48, 30, 1 << 20
_PARTS = ("ln_1", "c_attn", "scores", "softmax", "dropout", "c_proj", "add", "ln_2", "c_fc", "gelu",
          "mlp_proj", "add_2")  # fmt: skip
_TORCH = "/usr/lib/python3/dist-packages/torch"


class Segments:
    """Segments of one size, filled and emptied as a stack."""

    def __init__(self, base: int, segment_bytes: int, smallest_rest_bytes: int) -> None:
        self.base, self.segment_bytes = base, segment_bytes
        self._smallest_rest_bytes = smallest_rest_bytes
        self.blocks: list[list[Frame]] = []
        self._used_bytes: list[int] = []
        self._top = 0

    def push(self, size_bytes: int, frames: list[Frame]) -> tuple[Frame, int | None]:
        """The new block, and the address of its segment if that is new."""
        rounded = -(-size_bytes // 512) * 512
        new = None
        if self.blocks and self._used_bytes[self._top] + rounded > self.segment_bytes:
            self._top += 1
        if self._top == len(self.blocks):
            self.blocks.append([])
            self._used_bytes.append(0)
            new = self.base + self._top * self.segment_bytes
        used = self._used_bytes[self._top]
        room = self.segment_bytes - used
        if room - rounded < self._smallest_rest_bytes:
            rounded = room  # so little is not split off
        block = {
            "address": self.base + self._top * self.segment_bytes + used, "size": rounded,
            "requested_size": size_bytes, "state": "active_allocated", "frames": frames,
        }  # fmt: skip
        self.blocks[self._top].append(block)
        self._used_bytes[self._top] += rounded
        return block, new

    def pop(self) -> Frame:
        block = self.blocks[self._top].pop()
        self._used_bytes[self._top] -= block["size"]
        if not self.blocks[self._top] and self._top > 0:
            self._top -= 1
        return block

    def told(self) -> list[Frame]:
        """As a snapshot tells them."""
        return [self._segment(place) for place in range(len(self.blocks))]

    def _segment(self, place: int) -> Frame:
        blocks, used = list(self.blocks[place]), self._used_bytes[place]
        address = self.base + place * self.segment_bytes
        if used < self.segment_bytes:
            rest = {"address": address + used, "size": self.segment_bytes - used}
            blocks.append(rest | {"requested_size": 0, "state": "inactive", "frames": []})
        return {
            "device": 0, "address": address, "total_size": self.segment_bytes,
            "allocated_size": used, "active_size": used,
            "requested_size": sum(block["requested_size"] for block in blocks), "stream": 0,
            "segment_type": "small" if self.segment_bytes == 2 * _MIB else "large",
            "segment_pool_id": (0, 0), "is_expandable": False, "frames": [], "blocks": blocks,
        }  # fmt: skip


class Training:
    """The allocator's events of a training, until there are so many."""

    def __init__(self, events: int) -> None:
        self._random = random.Random(1)
        self._small = Segments(1 << 40, 2 * _MIB, 512)
        self._large = Segments(1 << 41, 20 * _MIB, _MIB + 1)
        self.trace: list[Frame] = []
        self._wanted, self._time_us = events, 1_700_000_000_000_000
        self._allocated = self._requested = 0
        self.peak_allocated_bytes = self.peak_requested_bytes = 0
        calls = [_frame("_call_impl", f"{_TORCH}/nn/modules/module.py", 1787),
                 _frame("_wrapped_call_impl", f"{_TORCH}/nn/modules/module.py", 1776)]  # fmt: skip
        loop = [_frame(f"run_{n}", "/home/u/train.py", 40 + 9 * n) for n in range(_DEPTH)]
        self._setup = _stacks("__init__", 100, calls, loop)
        self._forward = _stacks("forward", 200, calls, loop)
        self._backward = _stacks("backward", 300, calls, loop)

    def run(self) -> None:
        sites = len(self._forward)
        for site in range(sites):
            self._allocate(self._random.randrange(_MIB // 2, 8 * _MIB), self._setup[site])
        while not self._enough():
            self._step(self._random.uniform(0.3, 1))

    def _step(self, scale: float) -> None:
        held: list[tuple[int, Segments]] = []
        for site, stack in enumerate(self._forward):
            if self._enough():
                return
            self._temporary(scale, stack)
            size_bytes = int(scale * (site % 12 + 1) * self._random.uniform(20_000, 400_000))
            held.append((site, self._allocate(size_bytes, stack)))
        for site, segments in reversed(held):
            if self._enough():
                return
            self._temporary(scale, self._backward[site])
            self._free(segments, self._backward[site])

    def _temporary(self, scale: float, stack: list[Frame]) -> None:
        size_bytes = int(scale * self._random.lognormvariate(11.5, 1.5))
        self._free(self._allocate(min(size_bytes, 8 * _MIB) + 1, stack), stack)

    def _allocate(self, size_bytes: int, stack: list[Frame]) -> Segments:
        segments = self._small if size_bytes <= _MIB else self._large
        frames = list(stack)
        block, new = segments.push(size_bytes, frames)
        if new is not None:
            self._event("segment_alloc", new, segments.segment_bytes, frames)
        self._event("alloc", block["address"], size_bytes, frames)
        self._allocated += block["size"]
        self._requested += size_bytes
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self._allocated)
        self.peak_requested_bytes = max(self.peak_requested_bytes, self._requested)
        return segments

    def _free(self, segments: Segments, stack: list[Frame]) -> None:
        block, frames = segments.pop(), list(stack)
        self._event("free_requested", block["address"], block["requested_size"], frames)
        self._event("free_completed", block["address"], block["requested_size"], frames)
        self._allocated -= block["size"]
        self._requested -= block["requested_size"]

    def _event(self, action: str, address: int, size_bytes: int, frames: list[Frame]) -> None:
        self._time_us += self._random.randrange(1, 8)
        self.trace.append(
            {
                "action": action, "addr": address, "size": size_bytes, "stream": 0,
                "time_us": self._time_us, "compile_context": "N/A", "user_metadata": "",
                "frames": frames,
            }
        )  # fmt: skip

    def _enough(self) -> bool:
        return len(self.trace) >= self._wanted

    def snapshot(self) -> Frame:
        return {
            "segments": self._small.told() + self._large.told(), "device_traces": [self.trace],
            "allocator_settings": {}, "external_annotations": [],
        }  # fmt: skip


def _frame(name: str, filename: str, line: int) -> Frame:
    return {"name": name, "filename": filename, "line": line}


def _stacks(name: str, line: int, calls: list[Frame], loop: list[Frame]) -> list[list[Frame]]:
    """One stack of each operator of each layer, innermost frame first."""
    found = []
    for layer in range(_LAYERS):
        outer = _frame(name, "/home/u/model.py", line + layer)
        for place, part in enumerate(_PARTS):
            inner = [_frame(part, "/home/u/layers.py", 100 * layer + place), *calls]
            found.append([*inner, outer, *calls, *loop][:_DEPTH])
    return found


def main() -> None:
    gc.disable()  # of millions of events none is garbage
    training = Training(int(sys.argv[1]))
    training.run()
    with Path(sys.argv[2]).open("wb") as file:
        pickle.dump(training.snapshot(), file)
    told = {"events": len(training.trace), "peak_allocated_bytes": training.peak_allocated_bytes,
            "peak_requested_bytes": training.peak_requested_bytes}  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    main()
