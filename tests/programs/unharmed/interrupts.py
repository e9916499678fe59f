"""Ctrl-C at random moments of training steps, 150 times; the program catches each and goes on.

    python interrupts.py SEED

Says how many a handler raised that arrived nowhere, and in which line each of them came.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import time
import traceback

import torch
from torch import nn

INTERRUPTS = 150
STATES = 3000


class Squares(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.full((8,), float(i))


class Many(torch.optim.Optimizer):
    """Its state is many tensors, new at each step: to look at them takes a good part of it."""

    KEYS = tuple(f"state_{i}" for i in range(STATES))

    def __init__(self, parameters) -> None:
        super().__init__(parameters, {})

    def step(self) -> None:
        (parameter, *_) = self.param_groups[0]["params"]
        self.state[parameter] = dict(zip(self.KEYS, torch.zeros(STATES).unbind(), strict=True))


def step() -> None:
    """A model's whole life: what an interrupt can come into."""
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 1))
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2), Many(model.parameters())]
    for batch in torch.utils.data.DataLoader(Squares(), batch_size=6):
        model(batch).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad(), contextlib.suppress(ValueError):
        model(torch.ones(2, 8))
        raise ValueError


class Alarm:
    """A handler that raises, as Python's for Ctrl-C does, and knows where it did."""

    came = ""

    def __call__(self, number, frame):
        self.came = "".join(traceback.format_stack(frame, 3))
        raise KeyboardInterrupt


def main() -> None:
    chance = random.Random(int(sys.argv[1]))
    alarm = Alarm()
    signal.signal(signal.SIGALRM, alarm)
    # In a callback of a weak reference Python itself can only say that it drops an exception.
    dropped = []
    sys.unraisablehook = lambda what: dropped.append(traceback.format_tb(what.exc_traceback))
    step()
    start_s = time.perf_counter()
    step()
    latest_s = 1.5 * (time.perf_counter() - start_s)
    lost = []
    for _ in range(INTERRUPTS):
        alarm.came, before = "", len(dropped)
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + chance.random() * latest_s)
            while not alarm.came:
                step()
            if len(dropped) == before:
                lost.append(alarm.came)
        except KeyboardInterrupt:
            if "memtrace" in traceback.format_exc():
                traceback.print_exc()
        torch.set_grad_enabled(True)  # an interrupt in no_grad's __exit__ leaves it off
    print(len(lost), "lost", *lost[:3])
    print([text for text in dropped if "memtrace" in str(text)])


main()
