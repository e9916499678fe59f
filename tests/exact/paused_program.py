"""A random program that pauses its recording at random, and says what torch holds after it.

    python paused_program.py SEED OUT.json

At each check: the live blocks and the segments of torch's own snapshot, and which of the blocks
were allocated in a pause; a stage "check N" begins there. Blocks whose free waits for a stream that
is held, a private pool, empty_cache() and another thread are among what may happen at any time.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
from contextlib import nullcontext
from random import Random
from typing import Any

import torch

import memtrace

MIB = 1 << 20


class Program:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.live: list[tuple[torch.Tensor, bool]] = []  # and whether it was born in a pause
        self.in_pause: dict[tuple[int, int], bool] = {}  # device and address -> likewise
        self.side = [torch.cuda.Stream(device) for device in range(2)]
        self.pools = []
        for device in range(2):
            with torch.cuda.device(device):
                self.pools.append(torch.cuda.MemPool())
        self.paused = False
        self.checks: list[dict[str, Any]] = []
        self.ended_in_pause = 0
        self.held = False

    def allocate(self) -> None:
        random = self.random
        device = random.randrange(2)
        size = random.choice([0, 16, random.randrange(1 * MIB), random.randrange(24 * MIB)])
        pooled = random.random() < 0.15
        with (
            torch.cuda.device(device),
            torch.cuda.use_mem_pool(self.pools[device]) if pooled else nullcontext(),
        ):
            tensor = torch.empty(size, dtype=torch.uint8, device=device)
        if random.random() < 0.1:
            tensor.record_stream(self.side[device])
        if size:
            self.live.append((tensor, self.paused))
            self.in_pause[device, tensor.data_ptr()] = self.paused

    def free(self) -> None:
        if self.live:
            _, born_paused = self.live.pop(self.random.randrange(len(self.live)))
            self.ended_in_pause += self.paused and not born_paused

    def hold(self) -> None:
        library = ctypes.CDLL(None)
        call = library.simcuda_release_stream if self.held else library.simcuda_hold_stream
        for stream in self.side:
            call(ctypes.c_void_p(stream.cuda_stream))
        self.held = not self.held

    def in_thread(self) -> None:
        thread = threading.Thread(target=lambda: [self.allocate(), self.free()])
        thread.start()
        thread.join()

    def step(self) -> None:
        what = self.random.random()
        if what < 0.5:
            self.allocate()
        elif what < 0.9:
            self.free()
        elif what < 0.94:
            self.in_thread()
        elif what < 0.97:
            self.hold()
        else:
            torch.cuda.empty_cache()

    def check(self) -> None:
        blocks, segments = [], []
        for segment in torch.cuda.memory._snapshot()["segments"]:
            device, address = segment["device"], segment["address"]
            segments.append((device, segment["total_size"]))
            for block in segment["blocks"]:
                if block["state"] != "inactive":
                    is_live = block["state"] == "active_allocated"
                    sizes = (block["size"], block["requested_size"])
                    born = self.in_pause.get((device, address))
                    blocks.append((device, address, *sizes, is_live, born))
                address += block["size"]
        memtrace.stage(f"check {len(self.checks)}")
        self.checks.append({"blocks": blocks, "segments": segments})

    def run(self) -> None:
        for _ in range(self.random.randrange(4, 10)):
            for _ in range(self.random.randrange(60)):
                self.step()
            if not self.paused:
                self.check()
            if self.random.random() < 0.3:
                torch.cuda.reset_peak_memory_stats(self.random.randrange(2))
            self.paused = not self.paused
            (memtrace.pause if self.paused else memtrace.resume)()
            if not self.paused:
                self.check()
        self.paused = False
        memtrace.resume()
        self.check()
        for _ in range(40):
            self.step()
        self.check()


def main() -> None:
    program = Program(int(sys.argv[1]))
    program.run()
    with open(sys.argv[2], "w") as file:
        json.dump({"checks": program.checks, "ended_in_pause": program.ended_in_pause}, file)


if __name__ == "__main__":
    main()
