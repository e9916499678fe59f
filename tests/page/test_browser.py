"""The browser of the tests: a machine without one is told so at once."""

from __future__ import annotations

import pytest

from page.browser import open_browser


@pytest.mark.parametrize("missing", ["chromium", "chromedriver"])
def test_a_browser_that_is_not_there(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None if name == missing else "/bin/false")
    with pytest.raises(RuntimeError, match="tools/install_test_tools"), open_browser():
        pass
