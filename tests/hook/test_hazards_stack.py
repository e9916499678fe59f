"""What could make a walk without the GIL read freed memory, or give an old name to a new object.

Every test here also runs under AddressSanitizer (run_asan.sh).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from address_reuse import Addresses
from fake_module import Leaf, Module


def functions(stacks: Any, stack: int) -> list[str]:
    return [row[0].rpartition(".")[2] for row in stacks.frames(stack)]


def make_function(name: str, file: str = "made.py") -> Callable[[Any], int]:
    space: dict[str, Any] = {}
    exec(compile(f"def {name}(take):\n    return take()\n", file, "exec"), space)
    return space[name]


# ---- identity ---------------------------------------------------------------------------------


def test_thousand_code_objects_at_reused_addresses(stacks: Any) -> None:
    addresses, wrong = Addresses(), []
    for number in addresses.generations(10, reused=100):
        generation = [make_function(f"made_{number:02}{i:02}") for i in range(100)]
        for function in generation:
            addresses.add(function.__code__)
            shown = functions(stacks, function(stacks.take_without_gil))[0]
            if shown != function.__name__:
                wrong.append((function.__name__, shown))
        del generation, function
    assert wrong == []


def test_thousand_modules_at_reused_addresses(stacks: Any) -> None:
    addresses, ids, wrong = Addresses(), set(), []
    for number in addresses.generations(10, reused=100):
        for i in range(100):
            name = f"Kind{number:02}{i:02}"
            kind = type(name, (Leaf,), {})
            module = kind(stacks.take_without_gil)
            addresses.add(module)
            identity = stacks.innermost_module(module())
            ids.add(identity)
            if stacks.module_text(identity) != (name, id(module)):
                wrong.append((name, stacks.module_text(identity)))
            del module, kind
    assert wrong == []
    assert len(ids) == addresses.made


@pytest.mark.parametrize("way", ["init", "new", "copy", "deepcopy", "pickle", "state"])
def test_every_way_to_make_a_module(stacks: Any, way: str) -> None:
    first = Leaf(stacks.take)

    def make() -> Leaf:
        if way == "init":
            return Leaf(stacks.take)
        if way == "copy":
            return copy.copy(first)
        if way == "deepcopy":
            return copy.deepcopy(first)
        if way == "pickle":
            return pickle.loads(pickle.dumps(first))
        module = Leaf.__new__(Leaf)  # no __init__ at all, as torch's replicas are made
        if way == "state":
            module.__setstate__ = None  # type: ignore[attr-defined]
        module.__dict__ = first.__dict__.copy()
        return module

    ids, addresses = set(), Addresses()
    for _ in addresses.generations(3, reused=30):
        generation = [make() for _ in range(100)]
        for module in generation:
            addresses.add(module)
            ids.add(stacks.innermost_module(module()))
        del generation, module
    assert len(ids) == addresses.made


def test_modules_with_slots_and_base_classes_in_c(stacks: Any) -> None:
    class Slotted(Leaf):
        __slots__ = ("extra",)

    class Listed(list, Leaf):
        """Dies through list's dealloc, which memtrace does not see: no name, never a wrong one."""

        def __init__(self, take: Any) -> None:
            list.__init__(self)
            self.take = take

    ids = set()
    for _ in range(50):
        module = Slotted(stacks.take)
        ids.add(stacks.innermost_module(module()))
        del module
        listed = Listed(stacks.take)
        stack = listed()
        assert stacks.innermost_module(stack) == 0
        assert functions(stacks, stack)[0] == "forward"
        assert stacks.module_id(listed) == 0
        del listed
    assert len(ids) == 50


def test_resurrected_module_stays_the_same(stacks: Any) -> None:
    kept: list[Any] = []

    class Phoenix(Leaf):
        def __del__(self) -> None:
            if not kept:
                kept.append(self)

    module = Phoenix(stacks.take)
    before = stacks.innermost_module(module())
    del module
    assert stacks.innermost_module(kept[0]()) == before
    assert stacks.module_object(before) is kept[0]
    kept[0].take = None
    kept[0] = None
    assert stacks.module_object(before) is None


def test_equal_entries_survive_deaths_elsewhere(stacks: Any) -> None:
    stays = make_function("stays")
    leaf = Leaf(stacks.take)
    ids, modules = set(), set()
    for i in range(3000):
        make_function(f"goes_{i}")(stacks.take)
        ids.add(stays(stacks.take))
        modules.add(stacks.innermost_module(leaf()))
    assert len(ids) == 1
    assert len(modules) == 1


def test_more_stacks_than_the_cache_holds(stacks: Any) -> None:
    """The cache is emptied when it is full; what comes back has the same text, so the same id."""
    functions, calls = 500, 100
    source = []
    for i in range(functions):
        source += [f"def f{i}(take, out):"] + ["    out.append(take())"] * calls
    space: dict[str, Any] = {}
    exec(compile("\n".join(source), "many.py", "exec"), space)
    made = [space[f"f{i}"] for i in range(functions)]

    def run(functions: list[Any]) -> list[int]:
        out: list[int] = []

        def call_all() -> None:
            for function in functions:
                function(stacks.take, out)

        thread = threading.Thread(target=call_all)  # a shallow stack
        thread.start()
        thread.join()
        return out

    first = run(made)
    assert len(set(first)) == functions * calls
    for _ in range(4):
        again = [type(f)(f.__code__.replace(co_flags=3), {}) for f in made]
        assert again[0].__code__ is not made[0].__code__
        assert run(again) == first
    assert run(made) == first
    assert [stacks.frames(stack)[0][2] for stack in first[:calls]] == list(range(2, calls + 2))


# ---- generators, coroutines, exceptions -------------------------------------------------------


def pythons_own(frame: Any) -> list[str]:
    names = []
    while frame:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


def test_generators(stacks: Any) -> None:
    seen: dict[str, list[str]] = {}

    def take(when: str) -> None:
        seen[when] = functions(stacks, stacks.take_without_gil())[1:]
        assert seen[when] == pythons_own(sys._getframe(1))

    def inner() -> Any:
        try:
            take("running")
            yield 1
            take("resumed")
            yield 2
        except ValueError:
            take("thrown into")
            yield 3
        finally:
            take("closed")

    def outer() -> Any:
        yield from inner()

    def user() -> None:
        generator = outer()
        next(generator)
        take("suspended")
        next(generator)
        generator.throw(ValueError())
        generator.close()
        dropped = outer()
        next(dropped)
        del dropped

    user()
    assert seen["suspended"][0] == "user"
    assert seen["running"][:3] == ["inner", "outer", "user"]
    assert set(seen) == {"running", "suspended", "resumed", "thrown into", "closed"}


def test_generator_that_moves_between_threads(stacks: Any) -> None:
    def generator() -> Any:
        while True:
            yield functions(stacks, stacks.take_without_gil())

    def first() -> Any:
        return next(moving)

    def second() -> None:
        out.append(next(moving))

    moving, out = generator(), []
    assert first()[:2] == ["generator", "first"]
    thread = threading.Thread(target=second)
    thread.start()
    thread.join()
    assert out[0][:2] == ["generator", "second"]
    assert first()[:2] == ["generator", "first"]


def test_coroutines(stacks: Any) -> None:
    async def leaf() -> list[str]:
        await asyncio.sleep(0)
        async with manager():
            async for _ in numbers():
                return functions(stacks, stacks.take_without_gil())
        return []

    @contextlib.asynccontextmanager
    async def manager() -> Any:
        yield stacks.take_without_gil()

    async def numbers() -> Any:
        assert functions(stacks, stacks.take_without_gil())[:2] == ["numbers", "leaf"]
        yield 1

    async def middle() -> list[str]:
        return await leaf()

    async def main() -> list[list[str]]:
        return await asyncio.gather(*(middle() for _ in range(20)))

    for shown in asyncio.run(main()):
        assert shown[:2] == ["leaf", "middle"]


def test_while_an_exception_unwinds(stacks: Any) -> None:
    seen: list[str] = []

    class Manager:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: Any) -> None:
            seen.extend(functions(stacks, stacks.take())[:2])

    def raises() -> None:
        tensor = stacks.Tensor()
        try:
            raise ValueError(tensor)
        finally:
            seen.append(functions(stacks, stacks.take())[0])

    def catches() -> None:
        try:
            with Manager():
                raises()
        except ValueError:
            seen.append(functions(stacks, stacks.take())[0])

    catches()
    assert seen == ["raises", "__exit__", "catches", "catches"]
    # The tensor went with the traceback, when `catches` was already left or about to be.
    assert functions(stacks, stacks.last_at_dealloc())[0] in (
        "catches",
        "test_while_an_exception_unwinds",
    )


def test_tensors_that_die_with_their_frame(stacks: Any) -> None:
    def holds(depth: int) -> None:
        tensor = stacks.Tensor()
        if depth:
            holds(depth - 1)
        assert tensor

    def generator() -> Any:
        tensor = stacks.Tensor()
        yield tensor

    for _ in range(200):
        holds(20)
        assert functions(stacks, stacks.last_at_dealloc())[0] in (
            "holds",
            "test_tensors_that_die_with_their_frame",
        )
        half = generator()
        next(half)
        del half
        assert stacks.last_at_dealloc() != 0


def test_inside_the_garbage_collector(stacks: Any) -> None:
    def cycle() -> None:
        a: list[Any] = [stacks.Tensor()]
        a.append(a)

    def collect() -> None:
        gc.collect()

    cycle()
    collect()
    assert functions(stacks, stacks.last_at_dealloc())[0] == "collect"


@pytest.mark.parametrize("depth", [900])
def test_deep_recursion(stacks: Any, depth: int) -> None:
    def deep(left: int) -> int:
        return deep(left - 1) if left else stacks.take_without_gil()

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 300)
    try:
        for left in (depth, 0, depth // 2, depth):
            assert functions(stacks, deep(left))[0] == "deep"
    finally:
        sys.setrecursionlimit(limit)


# ---- others that look at frames ---------------------------------------------------------------


def lines_of(stacks: Any) -> list[tuple[int, int]]:
    pairs = []
    for _ in range(30):
        pairs.append((stacks.take(), sys._getframe().f_lineno))
        pairs.append((
            stacks.take(),
            sys._getframe().f_lineno - 1,
        ))  # fmt: skip
    return pairs


@pytest.mark.parametrize("way", ["settrace", "setprofile", "monitoring", "coverage"])
def test_while_a_tracer_runs(stacks: Any, way: str) -> None:
    taken: list[int] = []

    def tracer(frame: Any, event: str, argument: Any) -> Any:
        taken.append(stacks.take())
        return tracer

    if way == "settrace":
        previous = sys.gettrace()
        sys.settrace(tracer)
        pairs = lines_of(stacks)
        sys.settrace(previous)
    elif way == "setprofile":
        sys.setprofile(tracer)
        pairs = lines_of(stacks)
        sys.setprofile(None)
    elif way == "coverage":
        coverage = pytest.importorskip("coverage")
        measure = coverage.Coverage(data_file=None)
        measure.start()
        pairs = lines_of(stacks)
        measure.stop()
        taken.append(1)
    else:
        if sys.version_info < (3, 12):
            pytest.skip("sys.monitoring is new in 3.12")
        monitoring = sys.monitoring
        events = monitoring.events
        monitoring.use_tool_id(3, "memtrace-test")
        for event in (events.LINE, events.INSTRUCTION, events.PY_RETURN, events.CALL):
            monitoring.register_callback(3, event, lambda *_: taken.append(stacks.take()))
        monitoring.set_events(3, events.LINE | events.INSTRUCTION | events.PY_RETURN | events.CALL)
        pairs = lines_of(stacks)
        monitoring.set_events(3, 0)
        monitoring.free_tool_id(3)
    assert taken
    for stack, line in pairs:
        name, _, shown, _ = stacks.frames(stack)[0]
        assert name == "lines_of"
        assert shown == line
    for stack in set(taken):
        assert stack


def test_frames_looked_at_by_another_thread(stacks: Any) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            for frame in sys._current_frames().values():
                while frame:
                    frame.f_locals, frame.f_lineno  # noqa: B018
                    frame = frame.f_back

    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(20):
        stack, same = stacks.take_for(5)
        assert same
        assert functions(stacks, stack)[0] == "test_frames_looked_at_by_another_thread"
    stop.set()
    watcher.join()


def test_greenlets(stacks: Any) -> None:
    greenlet = pytest.importorskip("greenlet")

    def worker(label: str) -> None:
        for _ in range(50):
            shown = functions(stacks, stacks.take_without_gil())
            assert shown[0] == "worker"
            main.switch(label)

    main = greenlet.getcurrent()
    workers = [greenlet.greenlet(worker) for _ in range(5)]
    for _ in range(50):
        for i, one in enumerate(workers):
            assert one.switch(str(i)) == str(i) or True
            assert functions(stacks, stacks.take())[0] == "test_greenlets"


# ---- threads ----------------------------------------------------------------------------------


def test_threads_that_come_and_go(stacks: Any) -> None:
    local = threading.local()
    wrong: list[Any] = []

    def work(i: int) -> None:
        local.tensor = stacks.Tensor()  # dies while the thread's state is torn down
        function = make_function(f"thread_{i}")
        shown = functions(stacks, function(stacks.take_without_gil))
        if shown[0] != f"thread_{i}" or "work" not in shown:
            wrong.append(shown)

    for i in range(200):
        threads = [threading.Thread(target=work, args=(i * 10 + k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_walks_while_other_threads_make_and_drop(stacks: Any) -> None:
    """Threads in C without the GIL walk on; their stacks must not change under them."""
    stop = threading.Event()
    wrong: list[Any] = []

    def walk(label: str) -> None:
        function = make_function(label)
        while not stop.is_set():
            stack, same = function(lambda: stacks.take_for(2))
            if not same or label not in functions(stacks, stack):
                wrong.append((label, same))

    def churn() -> None:
        i = 0
        while not stop.is_set():
            i += 1
            function = make_function(f"churn_{i}")
            if functions(stacks, function(stacks.take_without_gil))[0] != f"churn_{i}":
                wrong.append(i)
            module = type(f"Kind{i}", (Leaf,), {})(stacks.take_without_gil)
            name, _ = stacks.module_text(stacks.innermost_module(module()))
            if name != f"Kind{i}":
                wrong.append(name)

    stacks.start_foreign_hammer()
    threads = [threading.Thread(target=walk, args=(f"walk_{k}",)) for k in range(3)]
    threads += [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    stop.wait(2)
    stop.set()
    for thread in threads:
        thread.join()
    assert stacks.stop_foreign_hammer() > 0
    assert wrong == []


def test_stop_and_start_while_threads_walk(stacks: Any) -> None:
    stop = threading.Event()

    def walk() -> None:
        leaf = Leaf(lambda: stacks.take_for(1))
        while not stop.is_set():
            leaf()

    threads = [threading.Thread(target=walk) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        stacks.uninstall()
        stacks.start()
        stacks.install_modules(Module)
        module = Leaf(stacks.take)
        assert stacks.module_text(stacks.innermost_module(module()))[0] == "Leaf"
    stop.set()
    for thread in threads:
        thread.join()


# ---- whole programs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program", ["hazard_stack_exit.py", "hazard_stack_daemons.py", "hazard_stack_fork.py"]
)
def test_program(run_stack_program: Callable[[str], str], program: str) -> None:
    assert "ok" in run_stack_program(program).splitlines()


def test_subinterpreter(run_stack_program: Callable[[str], str]) -> None:
    out = run_stack_program("hazard_stack_subinterpreter.py")
    if "skip" in out:
        pytest.skip(out)
    assert "ok" in out.splitlines()
