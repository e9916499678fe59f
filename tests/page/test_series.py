"""However a chart is zoomed, no pixel loses a peak."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from page.conftest import Page
from trace_builder import serving_trace

_CHECK = """
const [begin_ns, busy_ns, least, most, last, views] = arguments;
const series = new Series({begin_ns, busy_ns, least, most, last});
return views.map(([start, end, width]) => envelope(series, {start, end}, width)
  .map((at) => at && [at.least, at.most]));
"""


def test_each_pixel_spans_what_the_series_did_there(make_page: Callable[..., Page]) -> None:
    random = np.random.default_rng(5)
    begin = np.cumsum(random.integers(1, 50, 500))
    busy = np.minimum(random.integers(0, 60, 500), np.append(np.diff(begin), 60) - 1)
    last = random.integers(100, 200, 500)
    least, most = last - random.integers(0, 90, 500), last + random.integers(0, 90, 500)
    views = [(0, int(begin[-1]) + 100, 37), (int(begin[100]), int(begin[103]), 60), (50, 900, 11)]
    page = make_page(serving_trace)
    drawn = page.run(_CHECK, *(a.tolist() for a in (begin, busy, least, most, last)), views)
    for (start, end, width), pixels in zip(views, drawn, strict=True):
        step = (end - start) / width
        for x, pixel in enumerate(pixels):
            low, high = start + x * step, start + (x + 1) * step
            inside = (begin > low) & (begin < high)
            before = np.flatnonzero(begin <= low)
            lows, highs = least[inside].tolist(), most[inside].tolist()
            if len(before):
                held = before[-1]
                still = low <= begin[held] + busy[held]
                lows.append(least[held] if still else last[held])
                highs.append(most[held] if still else last[held])
            assert pixel == ([min(lows), max(highs)] if lows else None), (start, x)


def test_the_peak_is_drawn_at_every_zoom(make_page: Callable[..., Page]) -> None:
    page = make_page(serving_trace)
    peak = page.run("return [scope.headline.peak_bytes, scope.headline.peak_ns]")
    for factor in (1, 3, 50, 4000):
        page.run(
            "report.timeline.showAll(); report.timeline.zoom(arguments[0], arguments[1]);"
            "report.timeline.draw()",
            factor, peak[1],
        )  # fmt: skip
        drawn = page.run(
            "return Math.max(...report.timeline.envelopes.get(report.timeline.total)"
            ".map((at) => at ? at.most : 0))"
        )
        assert drawn == peak[0]
