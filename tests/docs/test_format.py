"""docs/format.md names every dataset and column of a trace, with its type."""

from __future__ import annotations

import re
from pathlib import Path

from doc_pages import DOCS
from memtrace.finalise import finalise
from memtrace.schema import FORMAT_VERSION, SCHEMAS
from spool_writer import SpoolWriter, rows

TEXT = (DOCS / "format.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| (.*) \|$", re.MULTILINE)


def sections() -> dict[str, str]:
    parts = re.split(r"^## (\w+)$", TEXT, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def told() -> dict[str, list[tuple[str, str]]]:
    return {
        name: [(column, type_) for column, type_, _ in ROW.findall(body)]
        for name, body in sections().items()
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


def test_the_columns_that_the_cpu_has_not(tmp_path: Path) -> None:
    spool = SpoolWriter(tmp_path)
    log = spool.log()
    log.alloc(10, 0x1000, 512)
    log.alloc(20, 0x2000, 700, pool=2, stream=1024)  # pinned: a block of a cache
    log.free(30, 0x1000)
    spool.finish()
    finalise(tmp_path)
    said = {
        (name, column)
        for name, body in sections().items()
        for column, _, meaning in ROW.findall(body)
        if "null on the CPU" in meaning
    }
    assert said == {("allocations", "pool")}
    assert [row["pool"] for row in rows(tmp_path, "allocations")] == [None, None]
    totals = [
        [row[f"{of}_bytes"] for of in ("allocated", "active", "reserved")]
        for row in rows(tmp_path, "events")
    ]
    assert totals == [[512] * 3, [1536] * 3, [1024] * 3]
    assert {row["metric"] for row in rows(tmp_path, "timeline") if row["device"] == "cpu"} <= {
        "allocated", "category", "process",
    }  # fmt: skip
