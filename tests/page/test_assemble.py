"""A page in one file: data that cannot end its element, a policy that names what may run."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.page.assemble import json_for_html, write_html
from memtrace.page.report import SCRIPTS, STYLES

ASSETS = Path(str(files("memtrace.page"))) / "assets"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON)
def test_the_document_reads_back_and_holds_no_markup(document: object) -> None:
    text = json_for_html(document)
    assert json.loads(text) == document
    assert not re.search("[<>&\u2028\u2029]", text)


def test_halves_of_surrogate_pairs_are_escapes() -> None:
    assert json.loads(json_for_html(["a\ud800b"])) == ["a\ud800b"]
    json_for_html(["a\ud800b"]).encode()


def page(document: object, title: str = "t") -> str:
    out = io.BytesIO()
    write_html(
        out, template="report.html", title=title, document=document, styles=STYLES, scripts=SCRIPTS
    )
    return out.getvalue().decode()


def test_the_policy_names_each_script_and_style_and_nothing_else() -> None:
    text = page({"a": "</script><script>alert(1)</script>"})
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert found is not None
    policy = found[1].replace("&#39;", "'")
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert parts["default-src"] == "'none'"
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        hashes = [
            f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"
            for body in bodies
        ]
        assert parts[directive].split() == hashes
        assert len(hashes) > 1


def test_the_title_is_escaped() -> None:
    assert "<title>&lt;b&gt;</title>" in page({}, "<b>")


@pytest.mark.parametrize("path", sorted(ASSETS.iterdir()), ids=lambda path: path.name)
def test_assets_fetch_nothing_and_make_no_markup_of_text(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"https?://|@import|url\(|\bimport\(|fetch\(|XMLHttpRequest", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    if path.suffix == ".html":
        assert not re.search(r"\bon\w+=|\bstyle=|\|\s*safe", text)
    else:
        assert "</" not in text.replace("*/", "")  # would end its element
    assert len(text.splitlines()) <= 600
