"""Columns of numbers come out of the browser as they went in."""

from __future__ import annotations

import base64
from collections.abc import Callable

import numpy as np
import pytest

from memtrace.errors import MemtraceError
from memtrace.page.columns import MOST, ColumnPacker, Words
from page.conftest import Page
from trace_builder import serving_trace


def test_the_browser_reads_what_was_packed(make_page: Callable[..., Page]) -> None:
    random = np.random.default_rng(3)
    given = [
        ([], False), ([0], False), ([255, 256, 0], False), ([MOST - 1, 0, 1], False),
        ([5, 3, -7, 2**40, -(2**40)], True), (random.integers(0, 2**33, 3000).tolist(), False),
        (np.cumsum(random.integers(-5, 2**20, 3000)).tolist(), True),
    ]  # fmt: skip
    packer = ColumnPacker()
    places = [packer.add(values, delta=delta) for values, delta in given]
    text = packer.add_json(["\u2028ü", {"a": 1}])
    page = make_page(serving_trace)
    read = page.browser.execute_async_script(
        "const [packed, places, text, done] = arguments;"
        "document.getElementById('memtrace-columns').textContent = packed;"
        "readColumns().then((columns) => done("
        "[places.map((place) => Array.from(columns.numbers(place))), columns.json(text)]));",
        base64.b64encode(packer.packed()).decode(), places, text,
    )  # fmt: skip
    assert read == [[values for values, _ in given], ["\u2028ü", {"a": 1}]]


@pytest.mark.parametrize("values", [[MOST], [-1]])
def test_numbers_that_a_page_does_not_hold_are_refused(values: list[int]) -> None:
    with pytest.raises(MemtraceError, match=r"the trace is damaged: .* a page holds 0 to"):
        ColumnPacker().add(values)


def test_words_are_numbered_from_one() -> None:
    words = Words()
    assert [words.number(word) for word in ("b", None, "a", "", "b")] == [1, 0, 2, 0, 1]
    assert words.listed() == ["b", "a"]
