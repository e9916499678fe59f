"""docs/format.md names every dataset and column of a trace, with its type."""

from __future__ import annotations

import re

from doc_pages import DOCS
from memtrace.schema import FORMAT_VERSION, SCHEMAS

TEXT = (DOCS / "format.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| (.*) \|$", re.MULTILINE)


def told() -> dict[str, list[tuple[str, str]]]:
    sections = re.split(r"^## (\w+)$", TEXT, flags=re.MULTILINE)[1:]
    pairs = zip(sections[::2], sections[1::2], strict=True)
    return {
        name: [(column, type_) for column, type_, _ in ROW.findall(body)] for name, body in pairs
    }


def test_every_column_is_there_with_its_type() -> None:
    written = {
        name: [(field.name, str(field.type).replace("list<item: ", "list of ").rstrip(">"))
               for field in schema]
        for name, schema in SCHEMAS.items()
    }  # fmt: skip
    assert told() == written


def test_every_column_is_explained() -> None:
    assert [column for column, _, meaning in ROW.findall(TEXT) if not meaning.strip()] == []


def test_the_version_is_this_one() -> None:
    assert f"Format version {FORMAT_VERSION}." in TEXT
