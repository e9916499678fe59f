"""A stack whose frames around a module's call are known already is the one that Python shows.

A hash that is out of date gives the stack that was seen under it first, so only the second of two
stacks can be wrong that differ in the frames around and in nothing else. Each test takes them from
one and the same line of `Check.take`, which the frame in question calls on several lines of its
own. That frame calls a module by `call_here`: it is then the frame that the call takes to stand
still, and unlike that of `_wrapped_call_impl` it goes on afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import fake_module
import pytest
from fake_module import Module

DEEP = 68  # more calls in each other than are kept


@pytest.fixture
def watched(stacks: Any) -> Iterator[Any]:
    stacks.take()  # calls of a thread are known from its first stack on
    assert stacks.watch_calls(Module, [])
    yield stacks
    stacks.unwatch_calls()
    assert stacks.known_calls() == 0


Row = tuple[str, str, int, tuple[str, int] | None]


def shown(frame: Any) -> list[Row]:
    """As a stack shows it, innermost first: function, file, line; module called (class, address).

    Without the frames that a module's call needs.
    """
    rows: list[Row] = []
    called_here = False
    while frame:
        code = frame.f_code
        if code.co_filename != fake_module.__file__:
            name = getattr(code, "co_qualname", code.co_name)
            rows.append((name, code.co_filename, frame.f_lineno, None))
            called_here = True
        elif code is Module._wrapped_call_impl.__code__ and called_here:
            called = frame.f_locals["self"]
            rows[-1] = (*rows[-1][:3], (type(called).__name__, id(called)))
            called_here = False
        frame = frame.f_back
    return rows


class Check(Module):
    """Takes stacks in several places, and between them calls others."""

    def __init__(self, stacks: Any) -> None:
        self.stacks = stacks
        # Called by C (CPython 3.11 runs self._call_impl(x) without its pointer), from any frame.
        self.call_here = functools.partial(self._call_impl)

    def take(self) -> None:
        cut = self.stacks.counts()["lost"]
        stack, expected = self.stacks.take(), shown(sys._getframe())
        taken = [
            (*row[:3], self.stacks.module_text(row[3]) if row[3] else None)
            for row in self.stacks.frames(stack)
        ]
        if self.stacks.counts()["lost"] > cut:
            # More frames than a stack keeps: from 3.12 on, the entry frames of C calls count too.
            # Whose call the outermost one is, the next would say.
            assert len(taken) > 150
            taken.pop()
            expected = expected[: len(taken)]
        assert taken == expected

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

    def through(of: Check) -> None:
        of.take()  # this frame lies where that of _wrapped_call_impl was

    def work(of: Check) -> None:
        of(Check.take)
        through(of)
        through(of)
        of.call_here(Check.take)
        of.take()
        of.take()

    check(work)
    work(check)
    check.take()
    check.take()


def test_the_call_around_after_one_inside_has_returned(watched: Any) -> None:
    check = Check(watched)

    def inner(of: Check) -> None:
        of.call_here(Check.take)
        of.take()
        of.take()

    def outer(of: Check) -> None:
        of.call_here(inner)
        of.take()
        of.call_here(inner)
        of.take()

    for _ in range(2):
        check(outer)
        check.call_here(outer)
        check.take()
        check.take()


def test_the_same_call_from_other_lines_and_other_callers(watched: Any) -> None:
    check = Check(watched)

    def first(work: Callable[[Check], None]) -> None:
        check.call_here(work)
        check.call_here(work)

    def second(work: Callable[[Check], None]) -> None:
        check.call_here(work)

    for call in (first, second, first):
        call(Check.take)
        call(Check.take)

    def within(of: Check) -> None:
        for call in (first, second, of):
            call(Check.take)
            call(Check.take)

    check(within)


def test_a_caller_that_goes_on_inside_a_later_call(watched: Any) -> None:
    check = Check(watched)

    def steps() -> Iterator[None]:
        check.call_here(Check.take)
        yield
        check.take()
        check.take()
        check.call_here(Check.take)
        yield
        check.take()
        check.take()

    going_on = steps()
    next(going_on)
    check.call_here(lambda _: next(going_on))
    check.call_here(lambda _: next(going_on, None))


@pytest.mark.parametrize("fails_at", [None, 2, 3, DEEP])
def test_the_innermost_call_is_known_at_any_time(watched: Any, fails_at: int | None) -> None:
    check = Check(watched)

    def work(of: Check, depth: int = 2) -> None:
        assert watched.known_calls() == min(depth, 64)
        if depth == fails_at:
            raise KeyError
        if depth < DEEP:
            of(lambda inner: work(inner, depth + 1))
            assert watched.known_calls() == min(depth, 64)

    def outer(of: Check) -> None:
        with pytest.raises(KeyError) if fails_at else contextlib.nullcontext():
            of(work)
        assert watched.known_calls() == 1

    check(outer)
    assert watched.known_calls() == 0


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


@pytest.mark.parametrize("deepest", [50, 64, 65, DEEP])
def test_a_module_that_calls_itself(watched: Any, deepest: int) -> None:
    check, depth = Check(watched), 0

    def deeper(of: Check) -> None:
        nonlocal depth
        depth += 1
        if depth < deepest:
            of.take()
            of.call_here(deeper)
            of.take()
        of.take()

    def called_as_usual(of: Check) -> None:
        nonlocal depth
        depth += 1
        if depth < deepest:
            of(called_as_usual)
            of.take()
        of.take()

    for _ in range(2):
        for work in (deeper, called_as_usual):
            depth = 0
            check(work)
            check.take()
            check.take()
    if sys.version_info < (3, 12):  # from there on the entry frames of C calls count too
        assert watched.counts()["lost"] == 0


def test_the_outermost_of_many_calls_tells_stacks_apart(watched: Any) -> None:
    """What is far out stays in the hash, however many calls are in each other."""
    modules = [Check(watched) for _ in range(200)]
    seen: set[int] = set()

    def work(of: Check, depth: int = 1) -> None:
        if depth == 64:
            seen.add(watched.take())
        else:
            modules[0].call_here(lambda inner: work(inner, depth + 1))

    for module in modules:
        module(work)
    assert len(seen) == len(modules)


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, GeneratorExit])
def test_calls_that_raise(watched: Any, error: type[BaseException]) -> None:
    check, outer = Check(watched), Check(watched)

    def fail(of: Check) -> None:
        of.take()
        raise error

    def caught(of: Check) -> None:
        for call in (check, check.call_here):
            with pytest.raises(error):
                call(fail)
            of.take()
            of.take()

    def through_two(of: Check) -> None:
        with pytest.raises(error):
            of.call_here(lambda inside: inside.call_here(fail))
        of.take()
        of.take()

    for work in (caught, through_two):
        outer(work)
        work(outer)
        outer.take()
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


def test_threads_begun_within_a_call(watched: Any) -> None:
    check, other = Check(watched), Check(watched)
    failed: list[BaseException] = []
    inside, go_on = threading.Event(), threading.Event()

    def of_thread() -> None:
        def wait(of: Check) -> None:
            of.take()
            inside.set()
            assert go_on.wait(60)
            of.take()

        try:
            other.take()
            other.take()
            other.call_here(wait)
            other.take()
            other.take()
            other(Check.take)
        except BaseException as error:
            failed.append(error)

    def begin(of: Check) -> None:
        thread.start()
        assert inside.wait(60)
        of.take()
        of.call_here(Check.take)
        of.take()

    for _ in range(3):  # a later thread takes the place of an earlier one
        inside.clear()
        go_on.clear()
        thread = threading.Thread(target=of_thread)
        check.call_here(begin)
        check.take()
        go_on.set()
        check.take()
        thread.join()
        check.take()
        assert not failed


def test_recording_stopped_and_begun_within_calls(watched: Any) -> None:
    check = Check(watched)

    def stop(of: Check) -> None:
        of.take()
        watched.unwatch_calls()
        of.take()
        of.call_here(Check.take)
        of.take()

    def begin(of: Check) -> None:
        of.take()
        assert watched.watch_calls(Module, [])
        of.take()
        of.call_here(Check.take)
        of.take()
        of.take()

    def stop_and_begin(of: Check) -> None:
        of.call_here(stop)
        of.take()
        of.take()
        of.call_here(begin)
        of.take()
        of.take()

    for outer in (check, check.call_here):
        outer(stop)
        check.take()
        check.take()
        outer(begin)
        check.take()
        check.take()
        outer(stop_and_begin)
        check.take()
        check.take()


def test_a_greenlet_whose_call_returns_within_that_of_another(watched: Any) -> None:
    greenlet = pytest.importorskip("greenlet")
    check, main = Check(watched), greenlet.getcurrent()

    def leave(of: Check) -> None:
        of.take()
        main.switch()
        of.take()

    def elsewhere() -> None:
        check.call_here(leave)  # begins before the main greenlet's call, returns within it
        check.take()
        main.switch()  # it comes back when its call has returned too
        check.take()  # here, if that had been gone back to, this frame would stand still
        check.take()
        check.call_here(leave)  # once more, where the main greenlet has been in a call before
        check.take()
        check.take()

    def go_on(of: Check) -> None:
        of.take()
        other.switch()
        of.take()

    other = greenlet.greenlet(elsewhere)
    other.switch()
    check.call_here(go_on)
    other.switch()
    check.take()
    check.take()
    check.call_here(go_on)
    check.take()
    check.take()
    assert other.dead


def test_a_greenlet_that_ends_in_the_middle_of_a_call(watched: Any) -> None:
    greenlet = pytest.importorskip("greenlet")
    check, main, ended = Check(watched), greenlet.getcurrent(), []

    def elsewhere() -> None:
        try:
            check.call_here(lambda _: main.switch())
        except greenlet.GreenletExit:
            check.take()
            check.take()
            ended.append(True)

    def drop(of: Check) -> None:
        nonlocal other
        other.switch()
        of.take()
        del other
        of.take()
        of.take()

    other = greenlet.greenlet(elsewhere)
    check.call_here(drop)
    check.take()
    check.take()
    assert ended


@pytest.mark.parametrize("seed", range(6))
def test_greenlets_that_leave_in_the_middle(watched: Any, seed: int) -> None:
    greenlet = pytest.importorskip("greenlet")
    rng = random.Random(seed)
    check, main = Check(watched), greenlet.getcurrent()
    running: list[Any] = []
    begun: weakref.WeakSet[Any] = weakref.WeakSet()

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
            begun.add(running[-1])
        rng.choice(running).switch()
        check(Check.take)
        running = [one for one in running if not one.dead]
        if rng.random() < 0.05 and running:
            running.remove(rng.choice(running))  # ends in the middle of its calls
    for one in list(begun):  # suspended ones that hold each other would stay for ever
        one.throw()
