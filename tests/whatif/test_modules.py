"""Modules by patterns of their paths."""

from __future__ import annotations

import numpy as np
import pytest

from memtrace.errors import MemtraceError
from memtrace.whatif.modules import choose_modules, named, rows_of
from whatif.layered_runs import requests_of


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("layers.1", ("layers.1",)),
        ("layers.*", ("layers.0", "layers.1", "layers.2", "layers.3")),
        ("layers.[02]", ("layers.0", "layers.2")),
        ("layer?.3", ("layers.3",)),
        ("layers", ("layers",)),
        ("3.up", ("layers.3.up",)),
        ("1", ("layers.1",)),
        ("layers.2.*", ("layers.2.norm", "layers.2.up", "layers.2.down")),
        ("head", ("head",)),
    ],
)
def test_a_pattern_stands_for_outermost_modules(text: str, paths: tuple[str, ...]) -> None:
    assert choose_modules(requests_of(""), text) == paths


def test_what_is_of_a_module_is_of_the_modules_inside_too() -> None:
    requests = requests_of("--train")
    modules = requests.rows["module"].to_pylist()
    found = rows_of(requests, "layers.1")
    expected = [m is not None and (m == "layers.1" or m.startswith("layers.1.")) for m in modules]
    assert found.tolist() == expected
    assert found.any()


def test_no_rows_are_of_a_module_whose_path_only_begins_so() -> None:
    assert not (rows_of(requests_of(""), "layer")).any()
    assert np.count_nonzero(rows_of(requests_of(""), "layers")) > 0


@pytest.mark.parametrize("text", ["", ".", "*.*.*.*", "layers.[", "Model"])
def test_what_stands_for_nothing_is_one_line(text: str) -> None:
    with pytest.raises(MemtraceError, match=r"^no module ") as raised:
        choose_modules(requests_of(""), text)
    assert "\n" not in str(raised.value)


def test_many_are_told_of_by_the_first_and_the_last() -> None:
    assert named(["a", "b"]) == "a, b"
    assert named([f"h.{i}" for i in range(12)]) == "12 modules from h.0 to h.11"
