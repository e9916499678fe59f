"""A signal comes in the middle of the look that an optimizer's step has caused."""

from __future__ import annotations

import os
import signal
import sys

import torch
from torch import nn

import memtrace
from memtrace.hook.scan import Scan


class Timeout(Exception):
    """What the program's own timeout raises."""


def on_signal(number, frame):
    raise Timeout


def interrupt(number: int):
    def look(scan: Scan) -> None:
        os.kill(os.getpid(), number)

    return look


def main() -> None:
    signal.signal(signal.SIGUSR1, on_signal)
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    look = Scan.look
    Scan.look = interrupt(signal.SIGUSR1)
    with memtrace.record(sys.argv[1]):
        parameter.grad = torch.zeros(2)
        try:
            optimizer.step()
            print("lost")
        except Timeout:
            print("arrived")
        Scan.look = look


main()
