"""Every outermost call of a module is seen, however it is made, and nothing else changes.

Runs without torch, on every CPython that the hook is for.
"""

from __future__ import annotations

import copy
import functools
import inspect
import operator
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_module import Module


class Add(Module):
    def forward(self, x: int, *, more: int = 0) -> int:
        return x + more


class Call(Module):
    """A module that runs a function."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def forward(self, *_: Any) -> Any:
        return self.function()


class Explicit(Module):
    def __call__(self, x: int) -> Any:
        return super().__call__(x)

    def forward(self, x: int) -> int:
        return x


class ExplicitAny(Explicit):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # as torch._dynamo's OptimizedModule
        return super().__call__(*args, **kwargs)


@pytest.fixture
def calls(stack_extension: Any) -> Iterator[list[Any]]:
    """What is seen, in order."""
    found: list[Any] = []
    assert stack_extension.watch_calls(Module, found)
    yield found
    stack_extension.unwatch_calls()


def begun(calls: list[Any]) -> list[Any]:
    return [call[1] for call in calls if call[0] == "begin"]


WAYS: dict[str, Callable[[Any], Any]] = {
    "the instance": lambda m: m(1),
    "__call__": lambda m: m.__call__(1),
    "of the class": lambda m: Module.__call__(m, 1),
    "unpacked": lambda m: Module.__call__(*[m, 1]),
    "bound before": lambda m: [call := m.__call__, call(1)][1],
    "functools.partial": lambda m: functools.partial(m, 1)(),
    "map": lambda m: next(map(m, [1])),
    "operator.methodcaller": lambda m: operator.methodcaller("__call__", 1)(m),
    "in another thread": lambda m: in_thread(lambda: m(1)),
}


def in_thread(call: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Add, Explicit, ExplicitAny])
def test_every_way_to_call(calls: list[Any], way: str, kind: type[Module]) -> None:
    module = kind()
    assert WAYS[way](module) == 1
    assert [(call[0], call[1] is module) for call in calls] == [("begin", True), ("end", True)]


@pytest.mark.parametrize("way", WAYS)
def test_call_sites_that_ran_hot_before(stack_extension: Any, way: str) -> None:
    module, call = Add(), WAYS[way]
    for _ in range(100):
        call(module)  # CPython has specialised it now
    for _ in range(3):
        found: list[Any] = []
        assert stack_extension.watch_calls(Module, found)
        for _ in range(20):
            call(module)
        stack_extension.unwatch_calls()
        assert len(begun(found)) == 20
        for _ in range(100):
            call(module)
        assert len(begun(found)) == 20


def test_inner_calls_are_not_outermost(calls: list[Any]) -> None:
    inner, explicit = Add(), Explicit()
    outer = Call(lambda: inner(1) + inner.__call__(2, more=3) + explicit(4))
    assert outer() == 10
    assert outer(1, 2) == 10
    assert begun(calls) == [outer, outer]
    assert inner(1) == 1
    assert begun(calls)[2:] == [inner]


def test_exceptions_pass_untouched(calls: list[Any]) -> None:
    error = KeyboardInterrupt("here")

    def fail() -> None:
        raise error

    inner = Call(fail)
    outer = Call(inner)
    with pytest.raises(KeyboardInterrupt) as caught:
        outer()
    assert caught.value is error
    assert error.__context__ is None
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-1] == "fail"
    assert names[1:-1] == ["_wrapped_call_impl", "_call_impl", "forward"] * 2
    assert [call[0] for call in calls] == ["begin", "end"]
    assert Add()(1) == 1  # the next one is seen
    assert len(begun(calls)) == 2


def test_nothing_shows(stack_extension: Any) -> None:
    def shown() -> list[Any]:
        function = Module._call_impl
        facts = [type(function), function.__code__, function.__dict__, Module.__dict__.keys(),
                 sys.getsizeof(function), inspect.signature(function), inspect.getsource(function),
                 function.__qualname__, pickle.dumps(function), function.__defaults__]  # fmt: skip
        frames = Call(lambda: [frame.function for frame in inspect.stack()])()
        return [id(function), id(Module.__call__), *map(repr, facts), frames]

    before = shown()
    assert stack_extension.watch_calls(Module, [])
    during = shown()
    module = copy.deepcopy(Add())
    assert pickle.loads(pickle.dumps(module))(1, more=2) == 3
    stack_extension.unwatch_calls()
    assert before == during == shown()


def test_recursion_ends_as_before(stack_extension: Any, calls: list[Any]) -> None:
    def depth_reached() -> int:
        depth = 0

        def deeper() -> None:
            nonlocal depth
            depth += 1
            module()

        module = Call(deeper)
        with pytest.raises(RecursionError):
            module()
        return depth

    during = depth_reached()
    assert len(begun(calls)) == 1
    stack_extension.unwatch_calls()
    assert during == depth_reached()


def test_each_thread_has_its_own(calls: list[Any]) -> None:
    module = Add()
    outer = Call(lambda: in_thread(lambda: module(1)))
    outer()
    assert begun(calls) == [outer, module]


def test_generators_that_take_turns(calls: list[Any]) -> None:
    module = Add()

    def work() -> Iterator[int]:
        for x in range(3):
            yield module(x)

    def inside() -> Iterator[int]:
        yield module(1)

    turns = [work(), work()]
    assert [next(turn) for _ in range(3) for turn in turns] == [0, 0, 1, 1, 2, 2]
    assert begun(calls) == [module] * 6
    started = inside()
    outer = Call(lambda: next(started))  # a generator's frame hangs below whoever runs it
    outer()
    assert begun(calls)[6:] == [outer]


def test_started_inside_a_call(stack_extension: Any) -> None:
    found: list[Any] = []
    module = Add()

    def forward() -> None:
        assert stack_extension.watch_calls(Module, found)
        module(1)
        module(2)

    Call(forward)()
    assert begun(found) == []  # parts of a call that began before
    module(3)
    assert begun(found) == [module]
    stack_extension.unwatch_calls()


def test_stopped_inside_a_call(stack_extension: Any) -> None:
    found: list[Any] = []
    module = Add()
    assert stack_extension.watch_calls(Module, found)
    Call(lambda: [stack_extension.unwatch_calls(), module(1)])()
    module(1)
    assert [call[0] for call in found] == ["begin", "end"]
    assert stack_extension.watch_calls(Module, found)
    module(1)
    assert begun(found)[1:] == [module]
    stack_extension.unwatch_calls()


def test_a_forked_child(calls: list[Any]) -> None:
    module = Add()

    def forward() -> int:
        pid = os.fork()
        if pid == 0:
            module(1)  # still inside the call
            os._exit(len(calls))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert Call(forward)() == 1
    calls.clear()
    pid = os.fork()
    if pid == 0:
        module(1)
        os._exit(len(calls))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2


def test_greenlets(calls: list[Any]) -> None:
    greenlet = pytest.importorskip("greenlet")
    inner = Add()
    main = greenlet.getcurrent()

    def forward() -> None:
        inner(1)
        main.switch()
        inner(2)

    waits = Call(forward)
    first, second = greenlet.greenlet(waits), greenlet.greenlet(waits)
    first.switch()
    inner(3)  # of the main greenlet, while the first one is inside its call
    second.switch()
    assert begun(calls) == [waits, inner, waits]
    first.switch()  # goes on, and its inner calls are inner ones
    inner(4)
    second.switch()
    inner(5)
    assert begun(calls) == [waits, inner, waits, inner, inner]
    assert len(calls) == 10


def test_a_greenlet_that_never_goes_on(calls: list[Any]) -> None:
    greenlet = pytest.importorskip("greenlet")
    module, main = Add(), greenlet.getcurrent()
    left = greenlet.greenlet(Call(main.switch))
    left.switch()
    for _ in range(3):
        module(1)
        greenlet.greenlet(module).switch(1)
    assert begun(calls)[1:] == [module] * 6


def through_c(depth: int, function: Callable[[], Any]) -> Any:
    """Calls it so many frames of C further down."""
    if depth == 0:
        return function()
    return next(map(functools.partial(through_c, depth - 1), [function]))


def test_calls_far_below_those_of_greenlets_that_were_left(calls: list[Any]) -> None:
    greenlet = pytest.importorskip("greenlet")
    inner, main = Add(), greenlet.getcurrent()
    waits = Call(main.switch)
    left = [greenlet.greenlet(waits) for _ in range(3)]
    for one in left:
        one.switch()
    outer = Call(lambda: through_c(30, lambda: inner(1)))
    for _ in range(3):
        assert through_c(60, outer) == 1  # a lower address than theirs, and outermost
    assert begun(calls) == [waits] * 3 + [outer] * 3
    for one in left:
        one.switch()
    assert [call[0] for call in calls].count("end") == 6
