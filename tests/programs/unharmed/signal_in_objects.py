"""A signal comes in code that belongs to the objects that a look meets: it arrives, or never comes.

python signal_in_objects.py TRACE     (not under memtrace)
"""

from __future__ import annotations

import os
import signal
import sys

import torch
from torch import nn

import memtrace


class Timeout(Exception):
    """What the program's own timeout raises."""


class Alarm:
    """A handler that raises, and knows that it was called."""

    came = False

    def __call__(self, number, frame):
        self.came = True
        raise Timeout


alarm = Alarm()


class Key(str):
    """Of an optimizer's state; to ask it for its text runs code of the program."""

    def __str__(self) -> str:
        os.kill(os.getpid(), signal.SIGUSR1)
        return "text"


class Wrapper(torch.Tensor):
    """Its shard, which is asked for as a DTensor's is, is found by code."""

    @staticmethod
    def __new__(cls):
        return torch.Tensor._make_wrapper_subclass(cls, (2, 2))

    @property
    def _local_tensor(self):
        os.kill(os.getpid(), signal.SIGUSR1)
        return None

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError


class Given(nn.Module):
    def forward(self, x):
        return torch.zeros(3)


class Keeps(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter][Key("momentum")] = torch.zeros(2)


def told(action) -> str:
    alarm.came = False
    try:
        action()
    except Timeout:
        return "arrived"
    return "lost" if alarm.came else "nothing came"


def main() -> None:
    signal.signal(signal.SIGUSR1, alarm)
    model, optimizer = Given(), Keeps([nn.Parameter(torch.zeros(2))], lr=0.1)
    with memtrace.record(sys.argv[1]):
        print("state:", told(optimizer.step))
        print("shard:", told(lambda: model(Wrapper())))


main()
