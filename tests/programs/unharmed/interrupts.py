"""Ctrl-C at a random moment of a training step, 200 times; the program catches it and goes on.

    python interrupts.py SEED

Says how many did not arrive, and what a step gives after each: the same as before.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import traceback

import torch
from torch import nn

INTERRUPTS = 200
LATEST_S = 0.006


class Squares(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.full((8,), float(i))


def step() -> float:
    """A model's whole life: what an interrupt can come into. Always the same result.

    Not checkpoint(): interrupted, it leaves its hooks behind, and the next step fails.
    """
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    total = 0.0
    for batch in torch.utils.data.DataLoader(Squares(), batch_size=3):
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item()
    with torch.no_grad(), contextlib.suppress(ValueError):
        model(torch.ones(2, 8))
        raise ValueError(total)
    return total


class Alarm:
    """A handler that raises, as Python's for Ctrl-C does, and knows that it was called."""

    rang = False

    def __call__(self, number, frame):
        self.rang = True
        raise KeyboardInterrupt


def main() -> None:
    chance = random.Random(int(sys.argv[1]))
    alarm = Alarm()
    signal.signal(signal.SIGALRM, alarm)
    # In a callback of a weak reference Python itself can only say that it drops an exception.
    dropped = []
    sys.unraisablehook = lambda what: dropped.append(traceback.format_tb(what.exc_traceback))
    expected, arrived, wrong = step(), 0, 0
    for _ in range(INTERRUPTS):
        try:
            alarm.rang = False
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + chance.random() * LATEST_S)
            while not alarm.rang:
                step()
        except KeyboardInterrupt:
            arrived += 1
            if "memtrace" in traceback.format_exc():
                traceback.print_exc()
        torch.set_grad_enabled(True)  # an interrupt in no_grad's __exit__ leaves it off
        wrong += step() != expected
    print(INTERRUPTS - arrived - len(dropped), "lost,", wrong, "other results", expected.hex())
    print([text for text in dropped if "memtrace" in str(text)])


main()
