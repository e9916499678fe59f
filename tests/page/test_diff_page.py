"""The page of a diff in a browser: the figures of the JSON, in every grouping, and nothing run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from memtrace.analyse.allowance import parse_allowance
from memtrace.analyse.diff import Diff, make_diff
from memtrace.page.diff import DIFF_PAGE_BY, write_diff_page
from memtrace.report.units import size
from memtrace.trace import Trace, open_trace
from trace_builder import TraceBuilder, failing_trace, serving_trace

MARKUP = '</script><img src=x onerror="window.ran=1"><b>"&'

Show = Callable[..., None]


@pytest.fixture
def show(browser: WebDriver, tmp_path: Path) -> Show:
    def opened(diff: Diff, **how: Any) -> None:
        page = tmp_path / "page.html"
        with page.open("wb") as out:
            write_diff_page(diff, out, **how)
        browser.get_log("browser")
        browser.get(page.as_uri())
        assert browser.get_log("browser") == []

    return opened


def training(path: Path, *, line: int, width: int, stage: str = "idle") -> Trace:
    """Two steps of a model, after a stage."""
    builder = TraceBuilder(path)
    process = builder.process()
    with process.stage(stage):
        process.alloc("cuda:0", width, category="weight", label="h.w", source="m.py:3 load")
    for _ in range(2):
        with process.step(kind="training") as step:
            held = process.alloc(
                "cuda:0", 10 * width, step=step["step"], category="activation", module="h.0",
                operator="aten::mm", source=f"m.py:{line} forward",
            )  # fmt: skip
        process.free(held)
    process.alloc("cpu", 100, category="other", source=MARKUP, operator=MARKUP)
    return open_trace(builder.write())


@pytest.fixture
def diff(tmp_path: Path) -> Diff:
    a = training(tmp_path / "a.memtrace", line=20, width=512)
    b = training(tmp_path / "b.memtrace", line=23, width=1024, stage="idle")
    return make_diff(a, b, by=DIFF_PAGE_BY)


def table(browser: WebDriver, name: str) -> list[list[str]]:
    """The cells of a table's body, but for bars."""
    rows = browser.find_elements(By.CSS_SELECTOR, f"#{name} tbody tr")
    return [
        [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "td:not(.bars)")] for row in rows
    ]


def press(browser: WebDriver, group: str, word: str) -> None:
    buttons = browser.find_elements(By.CSS_SELECTOR, f"#{group} button")
    next(button for button in buttons if button.text == word).click()


def title(browser: WebDriver) -> str:
    return browser.find_element(By.ID, "title").text


def test_what_is_compared(show: Show, browser: WebDriver, diff: Diff) -> None:
    show(diff)
    assert title(browser) == (
        "cuda:0: peak of allocated memory 5.50 KiB → 11.00 KiB, +5.50 KiB (+100.0 %)"
    )
    assert table(browser, "comparisons") == [
        ["peak", "5.50 KiB", "11.00 KiB", "+5.50 KiB", "+100.0 %"],
        ["end of idle", "512 B", "1.00 KiB", "+512 B", "+100.0 %"],
        ["each training step", "5.00 KiB", "10.00 KiB", "+5.00 KiB", "+100.0 %"],
    ]
    sides = browser.find_element(By.ID, "sides").text
    assert f"{diff.a.path}, process 100, peak at " in sides
    press(browser, "devices", "cpu")
    assert title(browser) == "cpu: peak of allocated memory 100 B → 100 B, the same"
    assert table(browser, "owners") == [["Nothing changed."]]


def test_every_owner_of_every_grouping(show: Show, browser: WebDriver, diff: Diff) -> None:
    show(diff)
    browser.find_element(By.ID, "unchanged").click()
    for number, device in enumerate(diff.devices):
        if number:
            press(browser, "devices", device.device)
        found = (device.peak, *device.stage_ends, *device.steps)
        for place, comparison in enumerate(found):
            browser.find_elements(By.CSS_SELECTOR, "#comparisons tbody tr")[place].click()
            for by in DIFF_PAGE_BY:
                press(browser, "groupings", by)
                changes = comparison.changes[by]
                expected = [(size(round(c.a_bytes)), size(round(c.b_bytes))) for c in changes]
                rows = table(browser, "owners")
                if not expected:
                    assert rows == [["Nothing in either."]]
                else:
                    assert [(row[1], row[2]) for row in rows] == expected


def test_lines_that_moved_are_one_owner(show: Show, browser: WebDriver, diff: Diff) -> None:
    show(diff)
    press(browser, "groupings", "source")
    first, second = table(browser, "owners")
    assert first[0] == "m.py:23 forward was m.py:20 forward"
    assert second[0] == "m.py:3 load"
    note = browser.find_element(By.ID, "note").text
    assert note == "1 matched: lines that moved within their function."


def test_search_and_sort(show: Show, browser: WebDriver, tmp_path: Path) -> None:
    a = open_trace(serving_trace(tmp_path / "a.memtrace"))
    b = open_trace(failing_trace(tmp_path / "b.memtrace"))
    show(make_diff(a, b, by=DIFF_PAGE_BY))
    notes = browser.find_element(By.ID, "notes").text
    assert notes == "cpu: only in A, with a peak of 3.00 MiB (3,145,728 bytes)"
    press(browser, "groupings", "module")
    modules = [row[0] for row in table(browser, "owners")]
    assert modules[0] == "(outside any module)"
    assert "Net" in modules
    browser.find_element(By.CSS_SELECTOR, "#owners th button").click()
    names = [row[0].strip("()").lower() for row in table(browser, "owners")]
    assert names == sorted(names)
    assert {row[4] for row in table(browser, "owners")} == {"gone", "new"}
    search = browser.find_element(By.ID, "search")
    search.send_keys("ATTN")
    assert len(table(browser, "owners")) == 6
    search.send_keys("x")
    assert table(browser, "owners") == [["No owner of that name changed."]]


def test_keys_choose_what_is_compared(show: Show, browser: WebDriver, diff: Diff) -> None:
    show(diff)
    row = browser.find_element(By.CSS_SELECTOR, "#comparisons tbody tr")
    row.send_keys(Keys.ARROW_DOWN)
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    heading = browser.find_element(By.ID, "heading").text
    assert heading == "Per training step (2 and 2), by category"
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)  # there is none further down
    assert browser.find_element(By.ID, "heading").text == heading


@pytest.mark.parametrize(("allowed", "sign"), [("2%", "✗"), ("100%", "✓")])
def test_the_verdict(allowed: str, sign: str, show: Show, browser: WebDriver, diff: Diff) -> None:
    show(diff, allowed=parse_allowance(allowed))
    told = browser.find_element(By.ID, "verdict").text
    assert told.startswith(sign)
    assert allowed in told
    show(diff)
    assert not browser.find_element(By.ID, "verdict").is_displayed()


def test_names_are_shown_and_never_run(show: Show, browser: WebDriver, diff: Diff) -> None:
    show(diff)
    press(browser, "devices", "cpu")
    browser.find_element(By.ID, "unchanged").click()
    for by in ("operator", "source"):
        press(browser, "groupings", by)
        assert table(browser, "owners")[0][0] == MARKUP
    assert browser.execute_script("return window.ran === undefined")
    assert browser.get_log("browser") == []


def test_no_device_in_common(show: Show, browser: WebDriver, tmp_path: Path) -> None:
    traces = []
    for name, device in (("a", "cpu"), ("b", "cuda:0")):
        builder = TraceBuilder(tmp_path / f"{name}.memtrace")
        builder.process().alloc(device, 512)
        traces.append(open_trace(builder.write()))
    show(make_diff(*traces, by=DIFF_PAGE_BY))
    assert title(browser) == "Traces compared: a.memtrace and b.memtrace"
    assert "no device in common" in browser.find_element(By.ID, "notes").text
