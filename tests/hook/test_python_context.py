"""Values of contexts, read from their memory, against what Python itself says."""

from __future__ import annotations

import contextvars
import threading
from types import ModuleType

import pytest


@pytest.mark.parametrize("number", [1, 2, 16, 17, 33, 1000, 20_000])
def test_every_variable_has_the_value_that_python_says(
    stack_extension: ModuleType, number: int
) -> None:
    variables = [contextvars.ContextVar(f"v{i}") for i in range(number)]
    other = contextvars.ContextVar("never set")

    def look() -> None:
        for i, variable in enumerate(variables):
            assert stack_extension.context_value(variable) is None
            variable.set(("value", i))
        for i, variable in enumerate(variables):
            assert stack_extension.context_value(variable) == ("value", i)
        assert stack_extension.context_value(other) is None
        variables[0].set("changed")
        assert stack_extension.context_value(variables[0]) == "changed"

    contextvars.copy_context().run(look)
    assert stack_extension.context_value(variables[0]) is None


def test_variables_of_one_hash(stack_extension: ModuleType) -> None:
    by_hash: dict[int, contextvars.ContextVar[int]] = {}
    pairs: list[tuple[contextvars.ContextVar[int], contextvars.ContextVar[int]]] = []
    for number in range(1_000_000):
        variable = contextvars.ContextVar[int](f"v{number}")
        whole = hash(variable) % 2**64
        folded = (whole ^ whole >> 32) % 2**32
        if folded in by_hash:
            pairs.append((by_hash[folded], variable))
            if len(pairs) == 3:
                break
        by_hash[folded] = variable
    assert pairs  # as good as certain

    def look() -> None:
        for first, second in pairs:
            first.set(1)
            assert stack_extension.context_value(second) is None
            second.set(2)
            assert stack_extension.context_value(first) == 1
            assert stack_extension.context_value(second) == 2

    contextvars.copy_context().run(look)


def test_a_thread_that_never_had_a_context(stack_extension: ModuleType) -> None:
    variable = contextvars.ContextVar[int]("v")
    found = []

    def look() -> None:
        found.append(stack_extension.context_value(variable))
        variable.set(5)
        found.append(stack_extension.context_value(variable))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [None, 5]
