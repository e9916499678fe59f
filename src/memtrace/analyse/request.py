"""A request to the CUDA caching allocator that failed: what would have served it, by its rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memtrace.analyse.allocator_settings import (
    MIB,
    SMALL_PAGE_BYTES,
    allocator_settings,
    large_segment_bytes,
    page_bytes,
)
from memtrace.analyse.counters import Flags, integers
from memtrace.analyse.layout import (
    DEFAULT_POOL,
    Kind,
    Layout,
    Spans,
    free_runs,
    held_in,
)
from memtrace.analyse.owners import encode

SMALL_MOST_BYTES = MIB
#: Requests of this and more get a segment of their own, in steps of 2 MiB.
_OWN_SEGMENT_BYTES = 10 * MIB
#: Why free memory could not be used; the order is that of the report.
REASONS = ("pieces", "size_class", "stream", "pool", "empty")


@dataclass(frozen=True)
class Fit:
    """What would have made it fit, or not, if it alone had been different.

    Attributes:
        what: "device_free" (more memory free on the device), "limit" (a higher limit of the
            process), "outside" (without what other processes and the CUDA context hold),
            "expandable" (expandable_segments:True), "waiting" (without blocks that wait for a
            stream), "step" (without what was allocated since the last step began) or "category".
        size_bytes: how much that is.
        fits: whether the request would have been served; None: perhaps (it depends on which free
            part of a page an expandable segment would have gone on from).
    """

    what: str
    name: str
    size_bytes: int
    fits: bool | None


class Request:
    """The allocator's rules for one request, on a layout.

    Attributes:
        asked_bytes: as the allocator rounded it.
        needed_bytes: what it had to get from the device to serve the request: a whole segment, or
            pages.
        counted_bytes: what it counts for against the limit: a segment, also where pages would do.
        device_free_bytes: None: not known, taken as 0.
        limit_bytes: what the process may reserve; None: no limit.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        asked_bytes: int,
        stream: int,
        pool: str,
        device_free_bytes: int | None,
        total_bytes: int | None,
        limit_bytes: int | None,
    ) -> None:
        self.layout = layout
        self.asked_bytes, self.stream, self.pool = asked_bytes, stream, pool
        self.total_bytes, self.limit_bytes = total_bytes, limit_bytes
        self.device_free_bytes = device_free_bytes
        self.free_bytes = device_free_bytes or 0
        self.reserved_bytes = layout.moment.reserved_bytes or layout.reserved_bytes
        self.small = asked_bytes <= SMALL_MOST_BYTES
        self.expandable = bool(
            allocator_settings(layout.process).get("expandable_segments")
        ) or any(kind.expandable for kind in layout.kinds if kind.pool == pool)
        self.page_bytes = page_bytes(self.small, layout.process)
        if self.small:
            self.counted_bytes = SMALL_PAGE_BYTES
        elif asked_bytes < _OWN_SEGMENT_BYTES:
            self.counted_bytes = large_segment_bytes(layout.process)
        else:
            self.counted_bytes = _round_up(asked_bytes, SMALL_PAGE_BYTES)
        pages = _round_up(asked_bytes, self.page_bytes)
        self.needed_bytes = pages if self.expandable else self.counted_bytes
        self.usable_kinds = np.array(
            [
                kind.pool == pool and kind.small == self.small and kind.stream == stream
                for kind in layout.kinds
            ],
            np.bool_,
        )
        self.returnable_kinds = np.array([k.pool == DEFAULT_POOL for k in layout.kinds], np.bool_)

    @property
    def outside_bytes(self) -> int | None:
        if self.total_bytes is None or self.device_free_bytes is None:
            return None
        return max(self.total_bytes - self.free_bytes - self.reserved_bytes, 0)

    @property
    def short_bytes(self) -> int:
        return max(self.needed_bytes - self.free_bytes, self.over_limit_bytes, 0)

    @property
    def over_limit_bytes(self) -> int:
        if self.limit_bytes is None:
            return 0
        return max(self.reserved_bytes + self.counted_bytes - self.limit_bytes, 0)

    def served(
        self, *, returned: int = 0, freed: int = 0, needed: int | None = None, tail: int = 0
    ) -> bool | None:
        """Whether the device gives it: with segments given back, and others' memory freed.

        Args:
            needed: by default what the request needs.
            tail: what may be free, mapped, where an expandable segment goes on: so much less
                would have to come from the device, but whether there is not known.
        """
        needed = self.needed_bytes if needed is None else needed

        def enough(size: int) -> bool:
            within = self.over_limit_bytes <= returned
            return within and self.free_bytes + returned + freed >= size

        if enough(needed):
            return True
        less = _round_up(max(self.asked_bytes - tail, 0), self.page_bytes)
        return None if tail and enough(less) else False

    def fits_without(self, gone: Flags) -> bool | None:
        """If these blocks had been free: in what they leave, or in what then goes back."""
        layout = self.layout
        blocks = layout.without(gone)
        runs = free_runs(layout.areas, blocks)
        usable = self.usable_kinds[layout.area_kind[runs.home]]
        if runs.size[usable].max(initial=0) >= self.asked_bytes:
            return True
        empty = (held_in(layout.units, blocks) == 0) & self.returnable_kinds[layout.unit_kind()]
        returned = int(layout.units.size[empty].sum())
        return self.served(returned=returned, tail=self._tail(runs) if self.expandable else 0)

    def _tail(self, runs: Spans) -> int:
        """The most that can be free at the end of an area's last page that is partly held."""
        last = self.usable_kinds[self.layout.area_kind[runs.home]]
        last &= runs.end == self.layout.areas.end[runs.home]
        before = (runs.start - self.layout.areas.start[runs.home]) % self.page_bytes
        rest = np.where(before > 0, np.minimum(self.page_bytes - before, runs.size), 0)
        return int(rest[last].max(initial=0))

    def unusable(self) -> dict[str, int]:
        layout = self.layout
        free = np.maximum(layout.units.size - held_in(layout.units, layout.blocks), 0)
        reason_of_kind = np.array([REASONS.index(self._reason(k)) for k in layout.kinds], np.int64)
        reasons = reason_of_kind[layout.unit_kind()]
        empty = (free == layout.units.size) & self.returnable_kinds[layout.unit_kind()]
        reasons = np.where(empty, REASONS.index("empty"), reasons)
        return {
            reason: int(free[reasons == number].sum())
            for number, reason in enumerate(REASONS)
            if free[reasons == number].sum() > 0
        }

    def _reason(self, kind: Kind) -> str:
        if kind.pool != self.pool:
            return "pool"
        if kind.small != self.small:
            return "size_class"
        return "stream" if kind.stream != self.stream else "pieces"

    def largest_usable_bytes(self) -> int:
        runs = free_runs(self.layout.areas, self.layout.blocks)
        usable = self.usable_kinds[self.layout.area_kind[runs.home]]
        return int(runs.size[usable].max(initial=0))

    def whole_pages_bytes(self) -> int:
        """What expandable segments could give back of what is free, with the blocks as they lie."""
        layout = self.layout
        runs = free_runs(layout.areas, layout.blocks)
        kinds = layout.area_kind[runs.home]
        page = np.array([page_bytes(k.small, self.layout.process) for k in layout.kinds], np.int64)
        page = page[kinds]
        base = layout.areas.start[runs.home]
        first = -(-(runs.start - base) // page)
        last = (runs.end - base) // page
        whole = np.maximum(last - first, 0) * page
        return int(whole[self.returnable_kinds[kinds]].sum())

    def fits_expandable(self) -> bool | None:
        runs = free_runs(self.layout.areas, self.layout.blocks)
        return self.served(
            returned=self.whole_pages_bytes(),
            needed=_round_up(self.asked_bytes, self.page_bytes),
            tail=self._tail(runs),
        )


def _round_up(size_bytes: int, step: int) -> int:
    return -(-size_bytes // step) * step


def find_fits(request: Request, step_start: int | None) -> Iterator[Fit]:
    """What would have made it fit, or not, one change at a time."""
    layout = request.layout
    short = request.needed_bytes - request.free_bytes
    over = request.over_limit_bytes
    if short > 0:
        yield Fit("device_free", "", short, over == 0)
    if over > 0:
        yield Fit("limit", "", over, short <= 0)
    outside = request.outside_bytes
    if outside:
        yield Fit("outside", "", outside, request.served(freed=outside))
    if not request.expandable and layout.free_bytes:
        yield Fit("expandable", "", request.whole_pages_bytes(), request.fits_expandable())
    size = layout.blocks.size
    if layout.waiting.any():
        yield Fit(
            "waiting", "", int(size[layout.waiting].sum()), request.fits_without(layout.waiting)
        )
    if step_start is not None:
        of_step = integers(layout.rows, "alloc_seq") >= step_start
        of_step &= layout.moment.seq >= step_start
        if of_step.any():
            yield Fit("step", "", int(size[of_step].sum()), request.fits_without(of_step))
    codes, names = encode(layout.rows, "category")
    sums = np.zeros(len(names), np.int64)
    np.add.at(sums, codes, size)
    for place in np.argsort(-sums, kind="stable").tolist():
        name = names[place]
        if sums[place] > 0 and name is not None:
            yield Fit("category", name, int(sums[place]), request.fits_without(codes == place))
