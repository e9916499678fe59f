"""One browser for all tests of pages: starting it takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver.remote.webdriver import WebDriver

from page.browser import open_browser


@pytest.fixture(scope="session")
def browser() -> Iterator[WebDriver]:
    with open_browser() as found:
        yield found
