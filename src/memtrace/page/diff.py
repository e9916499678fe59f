"""The page of `memtrace diff`: everything that changed, by each grouping that is worth a look."""

from __future__ import annotations

from typing import IO

from memtrace.analyse.allowance import Allowance
from memtrace.analyse.diff import Diff
from memtrace.page.assemble import write_html
from memtrace.report.as_json import diff_document
from memtrace.report.diff import comparison_name, grown_too_much

DIFF_PAGE_BY = ("category", "module", "operator", "source", "label")


def write_diff_page(diff: Diff, out: IO[bytes], *, allowed: Allowance | None = None) -> None:
    """Writes the page.

    Args:
        allowed: how much the peak may grow: the page says whether it did.
    """
    document = diff_document(diff)
    for told, device in zip(document["devices"], diff.devices, strict=True):
        found = (device.peak, *device.stage_ends, *device.steps)
        told["comparisons"] = [told.pop("peak"), *told.pop("stage_ends"), *told.pop("steps")]
        for comparison, each in zip(told["comparisons"], found, strict=True):
            comparison["title"] = comparison_name(each)
    failure = None if allowed is None else grown_too_much(diff, allowed)
    document["verdict"] = None if allowed is None else {
        "failed": failure is not None,
        "text": failure or f"no peak of {diff.of} memory grew by more than {allowed.text}",
    }  # fmt: skip
    name = f"{diff.a.path.name} and {diff.b.path.name}"
    write_html(
        out,
        template="diff.html",
        title=f"{name} compared - memtrace",
        document=document,
        styles=["diff.css"],
        scripts=["diff.js"],
    )
