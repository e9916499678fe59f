"""A stack whose frames around a module's call are known already is the one that Python shows."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import fake_module
import pytest
from fake_module import Module

DEEP = 80  # more calls in each other than are kept


@pytest.fixture
def watched(stacks: Any) -> Iterator[Any]:
    assert stacks.watch_calls(Module, [])
    yield stacks
    stacks.unwatch_calls()


def shown(frame: Any) -> list[tuple[str, str, int]]:
    """As a stack shows it: without the frames that a module's call needs."""
    rows = []
    while frame:
        code = frame.f_code
        if code.co_filename != fake_module.__file__:
            name = getattr(code, "co_qualname", code.co_name)
            rows.append((name, code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return rows


class Check(Module):
    """Takes stacks in several places, and between them calls others."""

    def __init__(self, stacks: Any) -> None:
        self.stacks = stacks

    def take(self) -> None:
        stack, expected = self.stacks.take(), shown(sys._getframe())
        assert [row[:3] for row in self.stacks.frames(stack)] == expected

    def forward(self, work: Callable[[Check], None]) -> None:
        self.take()
        work(self)
        self.take()


def test_each_line_around_a_call(watched: Any) -> None:
    check = Check(watched)

    def twice(of: Check) -> None:
        of(Check.take)
        of(Check.take)

    for _ in range(3):
        check(twice)
        check(twice)
        check.take()


def test_after_a_call_has_returned(watched: Any) -> None:
    check = Check(watched)

    def call(of: Check, take: Callable[[Check], None]) -> None:
        of(take)

    def plain(of: Check, take: Callable[[Check], None]) -> None:
        through(of, take)

    def through(of: Check, take: Callable[[Check], None]) -> None:
        take(of)  # this frame lies where the caller of the call was

    def work(of: Check) -> None:
        call(of, Check.take)
        plain(of, Check.take)
        plain(of, Check.take)

    check(work)


@pytest.mark.parametrize("seed", range(5))
def test_calls_in_each_other(watched: Any, seed: int) -> None:
    rng = random.Random(seed)
    modules = [Check(watched) for _ in range(3)]

    def work(of: Check, depth: int = 0) -> None:
        for _ in range(rng.randrange(1, 4)):
            if depth < 6 and rng.random() < 0.6:
                rng.choice(modules)(lambda inner: work(inner, depth + 1))
            else:
                (of.take if rng.random() < 0.5 else rng.choice(modules).take)()

    for _ in range(10):
        modules[0](work)


def test_more_calls_than_are_kept(watched: Any) -> None:
    check, depth = Check(watched), 0

    def deeper(of: Check) -> None:
        nonlocal depth
        depth += 1
        if depth < DEEP:
            of(deeper)
        of.take()

    for _ in range(2):
        depth = 0
        check(deeper)
    check.take()


def test_calls_that_raise(watched: Any) -> None:
    check, outer = Check(watched), Check(watched)

    def fail(_: Check) -> None:
        raise KeyError

    def caught(of: Check) -> None:
        for _ in range(2):
            with pytest.raises(KeyError):
                check(fail)
            of.take()

    outer(caught)
    outer.take()


def test_generators_between(watched: Any) -> None:
    check = Check(watched)

    def steps() -> Iterator[None]:
        for _ in range(4):
            check(Check.take)
            yield
            check.take()

    def alternately(of: Check) -> None:
        first, second = steps(), steps()
        for _ in range(4):
            next(first)
            of.take()
            next(second)

    check(alternately)


@pytest.mark.parametrize("seed", range(6))
def test_greenlets_that_leave_in_the_middle(watched: Any, seed: int) -> None:
    greenlet = pytest.importorskip("greenlet")
    rng = random.Random(seed)
    check, main = Check(watched), greenlet.getcurrent()
    running: list[Any] = []

    def elsewhere() -> None:
        others = [one for one in running if not one.dead and one is not greenlet.getcurrent()]
        rng.choice([main, *others]).switch()

    def work(of: Check, depth: int = 0) -> None:
        for _ in range(3):
            of.take()
            if rng.random() < 0.4:
                elsewhere()
            of.take()
            if depth < 4 and rng.random() < 0.7:
                of(lambda inner: work(inner, depth + 1))

    for _ in range(60):
        if len(running) < 5:
            running.append(greenlet.greenlet(lambda: check(work), parent=main))
        rng.choice(running).switch()
        check(Check.take)
        running = [one for one in running if not one.dead]
        if rng.random() < 0.05 and running:
            running.remove(rng.choice(running))  # ends in the middle of its calls
