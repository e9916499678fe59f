"""What take() says of a stack, against Python's own frames."""

from __future__ import annotations

import _thread
import sys
import time
from typing import Any

import pytest
from fake_module import Chain, Leaf, Module


def python_frames(frame: Any) -> list[tuple[str, str, int]]:
    rows = []
    while frame:
        code = frame.f_code
        rows.append((getattr(code, "co_qualname", code.co_name), code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return rows


def seen(stacks: Any, stack: int) -> list[tuple[str, str, int]]:
    return [row[:3] for row in stacks.frames(stack)]


def functions(stacks: Any, stack: int) -> list[str]:
    return [row[0].rpartition(".")[2] for row in stacks.frames(stack)]


def test_frames_are_pythons_own(stacks: Any) -> None:
    stack, expected = stacks.take(), python_frames(sys._getframe())
    assert seen(stacks, stack) == expected


def test_lines_of_expressions_over_many_lines(stacks: Any) -> None:
    class Body:
        stack, expected = stacks.take(), python_frames(sys._getframe())

    rows = [
        (lambda: (stacks.take(), python_frames(sys._getframe())))(),
        *[(stacks.take(), python_frames(sys._getframe())) for _ in range(1)],
        (
            stacks.take_without_gil(), python_frames(sys._getframe()),
        ),
        (Body.stack, Body.expected),
        *(
            (stacks.take(), python_frames(sys._getframe()))
            for _ in range(2)
        ),
    ]  # fmt: skip
    for stack, expected in rows:
        assert seen(stacks, stack) == expected


def test_every_line_of_a_long_function(stacks: Any) -> None:
    lines = ["def long(take, out):"]
    for i in range(600):
        lines += ["    x = [", "", f"        {i}, out.append(take()),", "    ]"] + [""] * (i % 300)
    space: dict[str, Any] = {}
    exec(compile("\n".join(lines), "long.py", "exec"), space)
    out: list[int] = []
    space["long"](stacks.take, out)
    expected = [n for n, line in enumerate(lines, 1) if "take()" in line and n > 1]
    assert [stacks.frames(stack)[0][2] for stack in out] == expected


def test_one_place_one_id(stacks: Any) -> None:
    ids = [stacks.take() for _ in range(5)]
    assert len(set(ids)) == 1
    assert stacks.take() != ids[0]


def test_text_is_written_once_for_equal_stacks(stacks: Any) -> None:
    source = "def f(take):\n    return take()\n"
    ids = set()
    for _ in range(20):
        space: dict[str, Any] = {}
        exec(compile(source, "again.py", "exec"), space)
        ids.add(space["f"](stacks.take))
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("name", "file", "shown"),
    [
        ("f", "plain.py", ("f", "plain.py")),
        ("é", "naïve.py", ("é", "naïve.py")),
        ("漢字", "ファイル.py", ("漢字", "ファイル.py")),
        ("f", "snake-🐍.py", ("f", "snake-🐍.py")),
        ("f", "bad-\udc80.py", ("f", "bad-?.py")),
    ],
)
def test_names_in_any_script(stacks: Any, name: str, file: str, shown: tuple[str, str]) -> None:
    space: dict[str, Any] = {}
    exec(compile(f"def {name}(take):\n    return take()\n", file, "exec"), space)
    assert stacks.frames(space[name](stacks.take))[0][:2] == shown


def test_module_goes_to_its_forward(stacks: Any) -> None:
    leaf = Leaf(stacks.take)
    (stack,) = Chain(leaf)()
    rows = stacks.frames(stack)
    assert functions(stacks, stack)[:3] == ["forward", *functions(stacks, stack)[1:3]]
    assert "_call_impl" not in functions(stacks, stack)
    assert "_wrapped_call_impl" not in functions(stacks, stack)
    named = [(row[0].rpartition(".")[2], stacks.module_text(row[3])) for row in rows if row[3]]
    assert [(function, text[0]) for function, text in named] == [
        ("forward", "Leaf"),
        ("forward", "Chain"),
    ]
    assert named[0][1][1] == id(leaf)
    assert stacks.innermost_module(stack) == rows[0][3]


def test_module_with_hooks(stacks: Any) -> None:
    leaf = Leaf(stacks.take)
    leaf.hooked = True
    stack = leaf()
    assert functions(stacks, stack)[:2] == ["forward", "test_module_with_hooks"]
    assert stacks.module_text(stacks.innermost_module(stack))[0] == "Leaf"


def test_forward_that_is_no_python_function(stacks: Any) -> None:
    module = Module()
    module.forward = stacks.take  # type: ignore[attr-defined]
    stack = module()
    assert functions(stacks, stack)[0] == "_wrapped_call_impl"
    assert stacks.module_text(stacks.frames(stack)[0][3])[0] == "Module"


def test_two_instances_are_two_modules(stacks: Any) -> None:
    one, two = Leaf(stacks.take), Leaf(stacks.take)
    ids = [stacks.innermost_module(module()) for module in (one, two, one)]
    assert ids[0] == ids[2] != ids[1]


def test_roots_and_their_objects(stacks: Any) -> None:
    chain = Chain(Leaf(stacks.take))
    chain()
    (root,) = stacks.take_new_roots()
    assert stacks.module_object(root) is chain
    chain()
    assert stacks.take_new_roots() == []
    leaf_id = stacks.module_id(chain.parts[0])
    assert stacks.module_object(leaf_id) is chain.parts[0]
    references = sys.getrefcount(chain)
    stacks.module_object(root)
    assert sys.getrefcount(chain) == references
    del chain
    assert stacks.module_object(root) is None
    assert stacks.module_object(leaf_id) is None
    assert stacks.module_object(10**6) is None


def test_module_that_dies_is_not_given_out(stacks: Any) -> None:
    given = []

    class Dying(Leaf):
        def __del__(self) -> None:  # alive once more: its count is not 0
            given.append(stacks.module_object(identity) is self)

    class Holder:
        def __del__(self) -> None:  # runs while the module's __dict__ is taken apart
            given.append(stacks.module_object(identity))

    module = Dying(stacks.take)
    module.holder = Holder()  # type: ignore[attr-defined]
    identity = stacks.innermost_module(module())
    del module
    assert given == [True, None]


def test_module_id_of_what_is_no_module(stacks: Any) -> None:
    assert stacks.module_id(3) == 0
    assert stacks.module_id("text") == 0


def test_runner_is_left_out_at_the_outer_end(stacks: Any) -> None:
    def function(source: str, file: str) -> Any:
        space: dict[str, Any] = {}
        exec(compile(source, file, "exec"), space)
        return next(value for name, value in space.items() if name != "__builtins__")

    call = "(call, *args):\n    return call(*args)\n"
    program = function("def program(take, keep):\n    keep.append(take())\n", "/user/serve.py")
    runner = function("def runner" + call, "/site/memtrace/run/script.py")
    runpy = function("def _run_code" + call, "<frozen runpy>")

    def outermost(*entry: Any) -> list[str]:
        """As `python -m` has it: no frame of this test further out."""
        keep: list[int] = []
        _thread.start_new_thread(entry[0], (*entry[1:], stacks.take, keep))
        while not keep:
            time.sleep(0.001)
        return functions(stacks, keep[0])

    stacks.start("/site/memtrace/run/")
    assert outermost(runpy, runner, runpy, program) == ["program"]
    assert outermost(runner, program) == ["program"]
    # runpy alone is the program's own, and so is a runner that was called by the program.
    assert outermost(runpy, program) == ["program", "_run_code"]
    keep: list[int] = []
    runner(program, stacks.take, keep)
    assert functions(stacks, keep[0])[:2] == ["program", "runner"]
    stacks.start("/elsewhere/")
    assert outermost(runpy, runner, program) == ["program", "runner", "_run_code"]


def test_deep_stacks_are_cut_at_the_outer_end(stacks: Any) -> None:
    def deep(left: int) -> int:
        return deep(left - 1) if left else stacks.take()

    whole = stacks.frames(deep(300))
    assert len([row for row in whole if row[0].endswith("deep")]) == 301
    assert stacks.counts()["lost"] == 0
    rows = stacks.frames(deep(900))
    # From 3.12 on, the entry frames of C calls count too.
    assert 500 <= len(rows) <= 512
    assert {row[0].rpartition(".")[2] for row in rows} == {"deep"}
    assert stacks.counts()["lost"] == 1


def test_cut_stack_names_no_root(stacks: Any) -> None:
    leaf = Leaf(stacks.take)

    def deep(left: int) -> int:
        return deep(left - 1) if left else leaf()

    deep(800)
    assert stacks.take_new_roots() == []


def test_no_python_no_stack(stacks: Any) -> None:
    assert stacks.take_in_foreign_thread() == 0
    before, inside, after = stacks.call_in_foreign_thread(lambda: stacks.take_without_gil())
    assert (before, after) == (0, 0)
    assert functions(stacks, inside) == ["<lambda>"]


def test_stop_and_start_again(stacks: Any) -> None:
    leaf = Leaf(stacks.take)
    assert leaf() != 0
    stacks.uninstall()
    assert stacks.take() == 0
    assert leaf() == 0
    stacks.start()
    stacks.install_modules(Module)
    stack = leaf()
    assert stacks.module_text(stacks.innermost_module(stack))[0] == "Leaf"
    assert stacks.counts()["stacks"] == 1


def test_module_class_that_does_not_fit_is_refused(stacks: Any) -> None:
    class NoCall: ...

    class Cell:
        def _wrapped_call_impl(self) -> Any:
            return lambda: self

        def _call_impl(self) -> None: ...

    with pytest.raises(RuntimeError, match="_wrapped_call_impl"):
        stacks.install_modules(NoCall)
    with pytest.raises(RuntimeError, match="another signature"):
        stacks.install_modules(Cell)
    with pytest.raises(RuntimeError, match="not a Python class"):
        stacks.install_modules(int)


def test_nothing_that_a_program_sees_changes(stacks: Any) -> None:
    before = {name: getattr(Module, name) for name in dir(Module)}
    stacks.uninstall()
    after = {name: getattr(Module, name) for name in dir(Module)}
    assert before.keys() == after.keys()
    for name in ("__init__", "__new__", "_wrapped_call_impl", "__call__", "__reduce_ex__"):
        assert before[name] is after[name] or before[name] == after[name]
