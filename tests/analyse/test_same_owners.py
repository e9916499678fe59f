"""Owners that have another name in the other trace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.analyse.same_owners import same_owners

LINES = st.sets(st.integers(1, 40), max_size=8)


def lines(numbers: list[int] | set[int], function: str = "f") -> list[str]:
    return [f"m.py:{number} {function}" for number in numbers]


def moved(a: list[int], b: list[int]) -> dict[int, int]:
    found = same_owners("source", lines(a), lines(b))
    number = {name: int(name.partition(":")[2].partition(" ")[0]) for name in lines([*a, *b])}
    return {number[old]: number[new] for old, new in found.items()}


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([10], [13], {10: 13}),
        ([10, 20], [10, 20], {}),
        ([10, 20, 30], [12, 22, 32], {10: 12, 20: 22, 30: 32}),
        # Line 120 is in both, but everything moved by three.
        ([117, 120], [120, 123], {117: 120, 120: 123}),
        # Something was put in between 20 and 30.
        ([10, 20, 30, 40], [10, 20, 35, 45], {30: 35, 40: 45}),
        # Of more lines than before one is new: the shift that most have is believed.
        ([10, 20], [5, 12, 22], {10: 12, 20: 22}),
        ([], [1], {}),
    ],
)
def test_lines_that_moved(a: list[int], b: list[int], expected: dict[int, int]) -> None:
    assert moved(a, b) == expected


def test_only_within_the_function() -> None:
    a, b = lines([10], "f"), lines([12], "g")
    assert same_owners("source", a, b) == {}
    assert same_owners("source", ["a.py:1 f"], ["b.py:1 f"]) == {}
    assert same_owners("source", ["no line"], ["no other"]) == {}
    odd = same_owners("source", ["<string>:1 A.<locals>.f"], ["<string>:7 A.<locals>.f"])
    assert odd == {"<string>:1 A.<locals>.f": "<string>:7 A.<locals>.f"}


@given(a=LINES, b=LINES)
def test_pairs_are_one_to_one_in_order_and_the_same_backwards(a: set[int], b: set[int]) -> None:
    there, back = moved(sorted(a), sorted(b)), moved(sorted(b), sorted(a))
    assert {new: old for old, new in there.items()} == back
    assert len(set(there.values())) == len(there)
    assert [there[old] for old in sorted(there)] == sorted(there.values())
    # As many as can: with the lines that stayed, all of the smaller side, unless they would cross.
    if len(a) == len(b) and {y - x for x, y in zip(sorted(a), sorted(b), strict=True)} <= {3}:
        assert there == {x: x + 3 for x in a}


def test_modules_with_another_wrapper() -> None:
    a = ["h.0.mlp", "head", "wte", "module"]
    b = ["_orig_mod.h.0.mlp", "module.head", "wte", "h.1"]
    assert same_owners("module", a, b) == {"h.0.mlp": "_orig_mod.h.0.mlp", "head": "module.head"}
    assert same_owners("label", ["h.w"], ["h._fsdp_wrapped_module.w"]) == {
        "h.w": "h._fsdp_wrapped_module.w"
    }
    # Two of the same bare name: which of them it is cannot be told.
    assert same_owners("module", ["h"], ["module.h", "_orig_mod.h"]) == {}
    assert same_owners("operator", ["module.x"], ["x"]) == {}
