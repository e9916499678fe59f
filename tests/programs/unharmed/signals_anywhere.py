"""What signal handlers raise is the program's, at whatever line it comes, also in code not its own.

Fresh models in a loop: each is looked at for its parameters soon after its first call.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from functools import partial

import torch
from torch import nn


class Timeout(Exception):
    """What the program's own timeout raises."""


def on_alarm(number, frame):
    raise Timeout


class Handler:
    """A handler that is a method, or an object that is called."""

    def method(self, number, frame):
        raise Timeout

    def __call__(self, number, frame):
        raise Timeout


def work() -> None:
    # Many modules: most of the time passes in looking at them.
    model = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(20)))
    model(torch.zeros(1, 2))


def lost(handler, number: int, expected: type[BaseException], times: int) -> int:
    """How often the exception of a handler did not arrive."""
    signal.signal(number, handler)
    missing = 0
    for _ in range(times):
        try:  # a busy machine may be slow to go on from the line that sets the alarm
            signal.setitimer(signal.ITIMER_REAL, 0.004 if number == signal.SIGALRM else 0)
            for turn in range(3000):
                if number != signal.SIGALRM and turn == 3:
                    os.kill(os.getpid(), number)
                work()
            missing += 1
        except expected:
            shown = traceback.format_exc()
            if "memtrace" in shown:
                print(shown)
    return missing


def main() -> None:
    for handler in (
        on_alarm, Handler().method, Handler(), partial(on_alarm), lambda *_: on_alarm(*_)
    ):  # fmt: skip
        print(lost(handler, signal.SIGALRM, Timeout, 40), "lost")
    print(lost(signal.default_int_handler, signal.SIGINT, KeyboardInterrupt, 10), "lost")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
    os.kill(os.getpid(), signal.SIGTERM)
    work()
    print("SIGTERM had no effect")


main()
