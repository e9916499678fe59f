"""One self-contained page: template, styles, scripts and data in a file that fetches nothing.

The page's policy names the hash of each script and style that is in it, and forbids all else: no
text of a trace can run, even if it got into the markup, and nothing is asked of any network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

#: What every page begins with: base.css, and the scripts that the others are built upon.
STYLES = ("base.css",)
SCRIPTS = ("dom.js", "format.js", "theme.js", "payload.js")
# In JSON these stand only inside of strings, where an escape means the same. Without them, no text
# can end the element that holds the data.
_ESCAPES = {
    ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"
}  # fmt: skip


def write_html(
    out: IO[bytes],
    *,
    template: str,
    title: str,
    document: Any,
    columns: bytes = b"",
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
) -> None:
    """Writes a page.

    Args:
        template: a file of assets/ that fills the block `body` of page.html.
        title: of the window.
        document: what `readDocument()` of payload.js gives: anything that JSON can say.
        columns: what `readColumns()` gives: numbers, as page.columns packs them.
        styles, scripts: files of assets/, after those of every page, in this order.
    """
    css = [asset(name) for name in (*STYLES, *styles)]
    code = [asset(name) for name in (*SCRIPTS, *scripts)]
    page = _templates().get_template(template)
    stream = page.stream(
        title=title,
        policy=policy(code, css),
        styles=[_markup(text) for text in css],
        scripts=[_markup(text) for text in code],
        document=_markup(json_for_html(document)),
        columns=_markup(base64.b64encode(columns).decode("ascii")),
    )
    for text in stream:
        out.write(text.encode("utf-8", "backslashreplace"))


def json_for_html(document: Any) -> str:
    """JSON that may stand in a <script> of data, whatever its strings hold."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Halves of surrogate pairs have no UTF-8: said as an escape.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text.translate(_ESCAPES)


def policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """The page's Content-Security-Policy: these scripts and styles, and nothing else."""
    allowed = {"script-src": scripts, "style-src": styles}
    rules = [
        f"{what} {' '.join(_hash(text) for text in texts) or chr(39) + 'none' + chr(39)}"
        for what, texts in allowed.items()
    ]
    return "; ".join(["default-src 'none'", *rules, "base-uri 'none'", "form-action 'none'"])


@cache
def asset(name: str) -> str:
    """The text of a file of assets/."""
    return (files("memtrace.page") / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


@cache
def _templates() -> jinja2.Environment:
    # Imported only now: no other command needs it.
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(asset), autoescape=True, undefined=jinja2.StrictUndefined
    )


def _markup(text: str) -> Any:
    import markupsafe

    return markupsafe.Markup(text)
