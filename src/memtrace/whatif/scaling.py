"""What if every call of the model had another batch size, or another sequence length.

Which allocations follow the shape of their call, and how, is found by comparing calls of different
shapes (`model_calls.py`, `laws.py`); then each is given the size it would have. Nothing else
changes: the program goes the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memtrace.analyse.counters import Flags, Int64s, equals, integers
from memtrace.errors import MemtraceError
from memtrace.replay.outcome import serve_on_host
from memtrace.replay.requests import Requests, read_requests
from memtrace.whatif.change import Change
from memtrace.whatif.laws import Estimate, Evidence, Fit, Shape, fit
from memtrace.whatif.model_calls import NONE, ModelCalls, Pairing, pairings, read_calls

#: What `--NAME` sets -> its place in a shape, and its name in words.
DIMENSIONS = {"batch": (0, "batch size"), "sequence": (1, "sequence length")}
#: Of no call: made once, whatever the shapes.
_LASTING = ("weight", "buffer", "optimizer_state")
#: More than this part of the peak that may be one thing or another is no prediction.
_MOST_AMBIGUOUS = 0.05


@dataclass(frozen=True)
class _Paired:
    """A pairing with the fit of each of its sites.

    Attributes:
        kinds: what rows may differ in: the number of the fit, the call, and the size in bytes.
        kind: of each row, its place there.
    """

    rows: Int64s
    fits: tuple[Fit, ...]
    kinds: tuple[tuple[int, int, int], ...]
    kind: Int64s

    @property
    def number(self) -> Int64s:
        """The number of each row's fit."""
        return np.array([fit for fit, _, _ in self.kinds], np.int64)[self.kind]


def _kinds(
    fit: Int64s, call: Int64s, size_bytes: Int64s
) -> tuple[tuple[tuple[int, int, int], ...], Int64s]:
    """The different combinations, and the place of each row's there."""
    sizes, of_size = np.unique(size_bytes, return_inverse=True)
    calls = int(call.max(initial=0)) + 1
    numbers, kind = np.unique((fit * calls + call) * len(sizes) + of_size, return_inverse=True)
    pair, place = np.divmod(numbers, max(len(sizes), 1))
    columns = (*np.divmod(pair, calls), sizes[place])
    found = zip(*(column.tolist() for column in columns), strict=True)
    return tuple(found), kind


@dataclass(frozen=True)
class Sizes:
    """The sizes of recorded rows at other shapes: arrays of n, in bytes, and an Evidence each."""

    size_bytes: Int64s
    low_bytes: Int64s
    high_bytes: Int64s
    evidence: Int64s


class Scaling:
    """How the sizes of requests follow the shapes of the calls that they were made for.

    Raises:
        MemtraceError: no model was called.
    """

    def __init__(self, requests: Requests) -> None:
        if requests.changed:  # laws are those of what was recorded
            requests = read_requests(
                requests.trace, device=requests.device, process=requests.process.key
            )
        self.recorded = requests
        self.calls: ModelCalls = read_calls(requests)
        self._ids = integers(requests.rows, "allocation_id")

    def recorded_values(self, dimension: str) -> tuple[int, ...]:
        """The batch sizes, or the sequence lengths, of the recorded calls, each once."""
        place = DIMENSIONS[dimension][0]
        shapes = zip(self.calls.shapes, self.calls.decoding, strict=True)
        return tuple(sorted({shape[place] for shape, decodes in shapes if not decodes}))

    def at(self, requests: Requests, dimensions: Mapping[str, int]) -> Change:
        """The requests with these dimensions, others as they are.

        Args:
            requests: the recorded ones, or what other what-ifs have made of them.
            dimensions: name (of DIMENSIONS) -> its value, 1 to LARGEST.

        Raises:
            MemtraceError: the recorded calls don't tell.
        """
        for name in dimensions:
            self._check_recorded(name)
        sizes = self._sizes({**requests.dimensions, **dimensions})
        changed, row = self._resized(requests, sizes, dimensions)
        what = ", ".join(f"{DIMENSIONS[name][1]} {value:,}" for name, value in dimensions.items())
        return Change(changed, what, self._assumptions(changed, sizes, row, dimensions))

    def _resized(
        self, requests: Requests, then: Sizes, dimensions: Mapping[str, int]
    ) -> tuple[Requests, Int64s]:
        """The requests at other sizes, and the recorded row of each."""
        row = self._rows_of(requests)
        was, new = self._sizes(requests.dimensions).size_bytes[row], then.size_bytes[row]
        # What another what-if has made of a size stays in proportion.
        ratio = requests.size_bytes * (new / np.maximum(was, 1))
        size = np.where(requests.size_bytes == was, new, np.ceil(ratio).astype(np.int64))
        changed = requests.resized(size)
        return replace(changed, dimensions={**requests.dimensions, **dimensions}), row

    def _check_recorded(self, name: str) -> None:
        values = self.recorded_values(name)
        if len(values) > 1:
            return
        words = DIMENSIONS[name][1]
        raise MemtraceError(
            f"every call of {self.calls.root} has {words} {values[0]:,}, so nothing tells what "
            f"follows it: record a run that calls the model with two of them, or measure: "
            f"memtrace sweep --{name} {values[0]},{2 * values[0]} SCRIPT"
        )

    def _rows_of(self, requests: Requests) -> Int64s:
        """Each request's row among the recorded ones: what was added is like one of them."""
        order = np.argsort(self._ids, kind="stable")
        wanted = integers(requests.rows, "allocation_id")
        found: Int64s = order[np.searchsorted(self._ids[order], wanted)]
        return found

    def _targets(self, dimensions: Mapping[str, int]) -> tuple[Shape, ...]:
        """The shape that each call would have."""
        targets, prompt = [], 0
        for shape, decodes in zip(self.calls.shapes, self.calls.decoding, strict=True):
            batch = dimensions.get("batch", shape[0])
            length = dimensions.get("sequence", shape[1])
            if decodes:  # its context: a longer prompt, and as many tokens since
                length = shape[1] + (dimensions.get("sequence", prompt) - prompt)
            else:
                prompt = shape[1]
            targets.append((batch, length))
        return tuple(targets)

    def _sizes(self, dimensions: Mapping[str, int]) -> Sizes:
        """Of each recorded row, by the best evidence that any pairing has."""
        size = self.recorded.size_bytes
        best = Sizes(size.copy(), size.copy(), size.copy(), np.full(len(size), len(Evidence)))
        if dimensions:
            targets = self._targets(dimensions)
            for paired in self._paired:
                self._improve(best, paired, targets)
        no_call = best.evidence == len(Evidence)
        # What was there before the first call, and is found at no other, is the program's load;
        # a kernel's workspace is made once.
        once = self.recorded.start < self.calls.start[0]
        once &= ~equals(self.recorded.rows, "category", "input")
        once |= equals(self.recorded.rows, "category", "workspace")
        no_call |= once & (best.evidence == Evidence.UNKNOWN)
        best.evidence[no_call] = Evidence.EXACT
        return best

    def _improve(self, best: Sizes, paired: _Paired, targets: tuple[Shape, ...]) -> None:
        rows = paired.rows
        known: dict[tuple[object, ...], Estimate] = {}
        values = np.empty((len(paired.kinds), 4), np.int64)
        for i, (number, call, size_bytes) in enumerate(paired.kinds):
            recorded, target = self.calls.shapes[call], targets[call]
            law = paired.fits[number]
            # A law's size is that of the target, wherever it was recorded.
            key = (number, target, *(() if law.laws else (recorded, size_bytes)))
            found = known.get(key)
            if found is None:
                found = law.at(target, recorded=recorded, size_bytes=size_bytes)
                known[key] = found
            values[i] = (found.size_bytes, found.low_bytes, found.high_bytes, found.evidence)
        each = values[paired.kind]
        better = each[:, 3] < best.evidence[rows]
        at = rows[better]
        best.size_bytes[at], best.low_bytes[at] = each[better, 0], each[better, 1]
        best.high_bytes[at], best.evidence[at] = each[better, 2], each[better, 3]

    @cached_property
    def _paired(self) -> tuple[_Paired, ...]:
        """Sites with a law; then, of the rows that none explains, every site as it is."""
        rows = self.recorded.rows
        lasting = pc.is_in(rows.column("category"), pa.array(_LASTING))
        left = ~np.asarray(lasting.to_numpy(), np.bool_) & ~equals(rows, "phase", "optimizer")
        follows = left.copy()
        lawful, lawless = [], []
        for pairing in pairings(self.recorded, self.calls):
            paired = self._fitted(pairing, follows)
            has_law = np.array([bool(f.laws) and f.shapes > 1 for f in paired.fits], np.bool_)
            kept = has_law[paired.number]
            left[paired.rows[kept]] = False
            lawful.append(replace(paired, rows=paired.rows[kept], kind=paired.kind[kept]))
        for pairing in pairings(self.recorded, self.calls):
            lawless.append(self._fitted(pairing, left))
        return (*lawful, *lawless)

    def _fitted(self, pairing: Pairing, chosen: Flags) -> _Paired:
        """The fit of each site, over the chosen rows."""
        distinct = {shape: i for i, shape in enumerate(dict.fromkeys(self.calls.shapes))}
        shape_of_call = np.array([distinct[shape] for shape in self.calls.shapes], np.int64)
        shapes = list(distinct)
        rows = np.flatnonzero((pairing.site != NONE) & chosen)
        site, call = pairing.site[rows], pairing.call[rows]
        seen = np.stack([site, shape_of_call[call], self.recorded.size_bytes[rows]], axis=1)
        seen = np.unique(seen, axis=0)
        starts = np.flatnonzero(seen[1:, 0] != seen[:-1, 0]) + 1
        fits: dict[Fit, int] = {}
        fit_of_site = np.full(int(site.max(initial=NONE)) + 1, NONE, np.int64)
        for group in np.split(seen, starts) if len(seen) else ():
            sizes = frozenset((shapes[shape], size) for _, shape, size in group.tolist())
            fit_of_site[group[0, 0]] = fits.setdefault(fit(sizes), len(fits))
        kinds, kind = _kinds(fit_of_site[site], call, self.recorded.size_bytes[rows])
        return _Paired(rows, tuple(fits), kinds, kind)

    def _assumptions(
        self, changed: Requests, sizes: Sizes, row: Int64s, dimensions: Mapping[str, int]
    ) -> tuple[str, ...]:
        outcome = serve_on_host(changed)
        peak = outcome.peak()
        live = changed.live_at(peak.place)
        evidence = sizes.evidence[row]
        lines = []
        for name, value in dimensions.items():
            told = ", ".join(f"{v:,}" for v in self.recorded_values(name)[:6])
            lines.append(
                f"every call of {self.calls.root} has {DIMENSIONS[name][1]} {value:,} "
                f"(recorded: {told}), and what happens between calls goes with it"
            )
        lines.append(
            "the program goes the same way: no kernel is another one, or needs another workspace"
        )
        for kind, words in _WORDS.items():
            chosen = live & (evidence == kind)
            total = int(changed.size_bytes[chosen].sum())
            if not total:
                continue
            low, high = (int(of[row][chosen].sum()) for of in (sizes.low_bytes, sizes.high_bytes))
            if kind == Evidence.AMBIGUOUS and high - low > _MOST_AMBIGUOUS * peak.total_bytes:
                raise MemtraceError(
                    f"the calls of {self.calls.root} don't tell: {high - low:,} of "
                    f"{peak.total_bytes:,} bytes may follow the batch size or the sequence length; "
                    f"record calls that differ in the {DIMENSIONS[next(iter(dimensions))][1]} alone"
                )
            bounds = f", between {low:,} and {high:,} bytes" if high > low else ""
            lines.append(f"{total:,} bytes at the peak {words}{bounds}")
        return tuple(lines)


_WORDS = {
    Evidence.FITTED: "follow a law that nothing proves, for want of shapes",
    Evidence.NEAR: "follow no law exactly and grow as the nearest one",
    Evidence.AMBIGUOUS: "may follow either dimension, and are taken at the largest",
    Evidence.UNKNOWN: "were seen at one shape only and stay as recorded",
}


def scaled(requests: Requests, name: str, text: str) -> Change:
    """What `--NAME TEXT` does; `name`: one of DIMENSIONS.

    Raises:
        MemtraceError: the text is no number of 1 or more, or the trace doesn't tell.
    """
    words = text.strip()
    is_number = words.isascii() and words.isdigit() and len(words) < _MOST_DIGITS
    if not is_number or not 0 < int(words) <= LARGEST:
        raise MemtraceError(f"--{name} {text}: write a whole number from 1 to {LARGEST:,}")
    return Scaling(requests).at(requests, {name: int(words)})


#: Of a dimension; sizes stay far below 2^63 bytes.
LARGEST = 1 << 24
_MOST_DIGITS = 20
