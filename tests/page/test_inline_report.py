"""The report below a notebook's cell, in a browser: drawn inside its frame, and all by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

import memtrace
from notebook_runs import read_html, run_notebook
from page.conftest import Page

pytest.importorskip("torch", exc_type=ImportError)

#: As a notebook's page has it: a dark theme, and outputs below one another.
PAGE = """<!doctype html><html style="color-scheme:dark"><meta charset="utf-8">
<body style="background:#111;color:#ddd">{outputs}</body></html>"""
CELL = """%%memtrace -o x.memtrace --height 500
model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 8))
model(torch.randn(32, 64)).square().mean().backward()
"""


def test_the_report_below_a_cell(browser: WebDriver, tmp_path: Path) -> None:
    load = "%load_ext memtrace\nimport torch\nfrom torch import nn"
    shown = run_notebook(tmp_path, load, CELL)[1].shown
    path = tmp_path / "page.html"
    path.write_text(PAGE.format(outputs="".join(data["text/html"] for data in shown)))
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(path.as_uri())
    outer = Page(browser)
    # The table is read on the notebook's own background.
    cells = browser.find_elements(By.CSS_SELECTOR, "table td")
    assert [c.text for c in cells[:2]] == read_html(shown[0]["text/html"]).tables[0][1][:2]
    assert {c.value_of_css_property("color") for c in cells} == {"rgba(221, 221, 221, 1)"}
    assert {c.value_of_css_property("background-color") for c in cells} == {"rgba(0, 0, 0, 0)"}
    bars = outer.run(
        "return [...document.querySelectorAll('td > div')].map((bar) => bar.clientWidth)"
    )
    assert max(bars) > 40
    (frame,) = browser.find_elements(By.TAG_NAME, "iframe")
    assert frame.size["height"] in (500, 502)
    try:
        browser.switch_to.frame(frame)
        inner = Page(browser)
        WebDriverWait(browser, 10).until(
            lambda b: b.execute_script("return document.getElementById('loading').hidden")
        )
        inner.settle()
        peak = memtrace.open(tmp_path / "x.memtrace").peak("cpu")
        assert inner.run("return scope.headline.peak_bytes") == peak.total_bytes
        assert inner.run(
            "const canvas = document.querySelector('canvas').getContext('2d');"
            "const pixels = canvas.getImageData(0, 0, canvas.canvas.width, canvas.canvas.height);"
            "return new Set(new Uint32Array(pixels.data.buffer)).size > 2"
        )
        assert inner.run("return performance.getEntriesByType('resource').length") == 0
        inner.run("report.jumpToPeak()")
        assert any("In[2]:2" in " ".join(row) for row in inner.rows())
    finally:
        browser.switch_to.default_content()
    assert outer.complaints() == []
    assert outer.run("return performance.getEntriesByType('resource').length") == 0
