"""What a report prints, as a piece of HTML: for a notebook, in whose page and theme it stands."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from memtrace.report.page import BAD, FAINT, GOOD, TITLE, WARNING, Block

if TYPE_CHECKING:
    import jinja2

#: Rows of a table; the others are counted.
MOST_ROWS = 50
# Colours that can be read on a light page and on a dark one; all else is the page's own.
_STYLES = {
    TITLE: "font-weight:bold", FAINT: "opacity:.65", WARNING: "color:#d97706",
    GOOD: "color:#16a34a", BAD: "color:#dc2626", "": "",
}  # fmt: skip
_TEMPLATE = """\
<div style="background:transparent;color:inherit;font-size:13px;line-height:1.45;overflow-x:auto">
{%- for block in blocks %}
{%- if block.columns is not defined %}
<div style="white-space:pre-wrap;{{ styles[block.style] }}">{{ block.text or "\N{NO-BREAK SPACE}" }}
{{- "" }}</div>
{%- else %}
<table style="border-collapse:collapse;background:transparent;color:inherit;margin:4px 0 10px">
<thead><tr>
{%- for column in block.columns %}
<th style="{{ cell }}border-bottom:1px solid currentColor;text-align:
{{- "right" if column.right else "left" }}">{{ column.title }}</th>
{%- endfor %}</tr></thead>
<tbody>
{%- for row in block.rows[:most] %}
{%- set number = loop.index0 %}
<tr style="background:transparent;{{ styles["dim"] if number in block.faint }}">
{%- for column in block.columns %}
{%- set text = row[loop.index0] %}
{%- if column.bar %}
<td style="{{ cell }}min-width:90px">
{{- "" }}<div style="{{ bar }}width:{{ (text | int) / 10 }}%"></div></td>
{%- else %}
<td style="{{ cell }}white-space:pre;text-align:{{ "right" if column.right else "left" }};
{{- styles[block.styles.get((number, loop.index0), "")] }}">{{ text }}</td>
{%- endif %}{% endfor %}</tr>
{%- endfor %}
{%- if block.rows | length > most %}
<tr style="background:transparent;{{ styles["dim"] }}">
<td style="{{ cell }}text-align:left" colspan="{{ block.columns | length }}">and {{ "" }}
{{- "{:,}".format(block.rows | length - most) }} more</td></tr>
{%- endif %}
</tbody></table>
{%- endif %}
{%- endfor %}
</div>
"""
_CELL = "padding:1px 10px 1px 0;vertical-align:top;"
_BAR = "margin-top:5px;height:9px;background:currentColor;opacity:.4;"


def html_of(blocks: Sequence[Block]) -> str:
    """A <div> of lines and tables; every text is escaped."""
    return _template().render(blocks=blocks, styles=_STYLES, cell=_CELL, bar=_BAR, most=MOST_ROWS)


@cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_TEMPLATE)
