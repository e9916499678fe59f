"""One browser for all tests of pages, and pages of made-up traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from memtrace.cli.main import main
from page.browser import open_browser


class Page:
    """A page in the browser: what a person does there, and what is to be seen."""

    def __init__(self, browser: WebDriver) -> None:
        self.browser = browser

    def run(self, script: str, *arguments: Any) -> Any:
        """Runs a function body; `report` and `scope` are there."""
        names = "const report = window.memtraceReport; const scope = report && report.scope;"
        return self.browser.execute_script(names + script, *arguments)

    def text(self, selector: str) -> str:
        return self.browser.find_element(By.CSS_SELECTOR, selector).text

    def texts(self, selector: str) -> list[str]:
        return [found.text for found in self.browser.find_elements(By.CSS_SELECTOR, selector)]

    def click(self, selector: str) -> None:
        self.browser.find_element(By.CSS_SELECTOR, selector).click()

    def press(self, *keys: str) -> None:
        """Keys, wherever the focus is."""
        self.browser.switch_to.active_element.send_keys(*keys)

    def search(self, text: str) -> None:
        field = self.browser.find_element(By.ID, "search")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.DELETE, text)
        self.settle()

    def settle(self) -> None:
        """Two frames: what was asked to be drawn has been."""
        self.browser.execute_async_script(
            "const done = arguments[0];"
            "requestAnimationFrame(() => requestAnimationFrame(() => done()));"
        )

    def rows(self, table: str = "#panel-live .live-mode:not([hidden])") -> list[list[str]]:
        """The cells of the rows in sight, from the top."""
        self.settle()
        rows: list[list[str]] = self.run(
            "return [...document.querySelectorAll(arguments[0] + ' .table-row:not([hidden])')]"
            ".map((row) => [Number(row.getAttribute('aria-rowindex')),"
            " [...row.querySelectorAll('.cell')].map((cell) => cell.textContent)])"
            ".sort((a, b) => a[0] - b[0]).map((row) => row[1])",
            table,
        )
        return rows

    def complaints(self) -> list[str]:
        """What the browser's console says: errors, and what the policy refused."""
        return [entry["message"] for entry in self.browser.get_log("browser")]


@pytest.fixture(scope="session")
def browser() -> Iterator[WebDriver]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def opened(
    browser: WebDriver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Page]:
    """Writes the page of a trace and opens it."""

    def open_page(trace: Path, *options: str) -> Page:
        path = tmp_path / "page.html"
        status = main(["report", str(trace), "-o", str(path), "--force", *options])
        assert status == 0, capsys.readouterr().err
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(path.as_uri())
        WebDriverWait(browser, 10).until(
            lambda b: b.execute_script("return document.getElementById('loading').hidden")
        )
        return Page(browser)

    return open_page


@pytest.fixture
def make_page(opened: Callable[..., Page], tmp_path: Path) -> Callable[..., Page]:
    """Opens the page of what a function of trace_builder makes."""

    def make(build: Callable[[Path], Path], *options: str) -> Page:
        return opened(build(tmp_path / "x.memtrace"), *options)

    return make
