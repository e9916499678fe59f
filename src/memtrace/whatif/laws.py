"""How a size follows a batch size and a sequence length: the simplest law that is exact.

Sizes are integers, so a law that meets every one of them is met by chance hardly ever, as long as
it has fewer terms than there are shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from math import ceil

#: A batch size and a sequence length.
Shape = tuple[int, int]

#: Powers of the batch size and of the sequence length.
_ONE, _BATCH, _SEQUENCE, _TOKENS = (0, 0), (1, 0), (0, 1), (1, 1)
_SQUARE, _ATTENTION, _PAIRS = (0, 2), (1, 2), (2, 0)
_LINEAR = (_ONE, _BATCH, _SEQUENCE, _TOKENS)
_SINGLE = (*_LINEAR, _SQUARE, _ATTENTION)
_ALL = (*_SINGLE, _PAIRS)
#: Shapes that a law is made from, where there are more; the others it is held against.
_SOLVED_FROM = 6


class Evidence(IntEnum):
    """What a predicted size rests on; the best first."""

    EXACT = 0  # a law of fewer terms than there are shapes
    FITTED = 1  # a law of as many terms as there are shapes: nothing is left to prove it
    NEAR = 2  # no law is exact; the nearest is followed
    AMBIGUOUS = 3  # laws that are exact differ where they are asked
    UNKNOWN = 4  # one shape only


@dataclass(frozen=True)
class Estimate:
    """A size at another shape, in bytes; `low` and `high` bound it as far as is known."""

    size_bytes: int
    low_bytes: int
    high_bytes: int
    evidence: Evidence


@dataclass(frozen=True)
class Law:
    """A sum of terms: coefficient x batch^i x sequence^j."""

    terms: tuple[Shape, ...]
    coefficients: tuple[Fraction, ...]

    def at(self, shape: Shape) -> Fraction:
        """The size at a shape."""
        parts = zip(self.terms, self.coefficients, strict=True)
        return sum((c * _value(term, shape) for term, c in parts), Fraction())


@dataclass(frozen=True)
class Fit:
    """What was found of a site.

    Attributes:
        laws: all of the simplest form that are exact; none: no law is.
        shapes: how many different ones it was seen at.
        nearest: the power that its sizes follow best, where no law is exact.
    """

    laws: tuple[Law, ...]
    shapes: int
    nearest: Shape = _ONE

    def at(self, target: Shape, *, recorded: Shape, size_bytes: int) -> Estimate:
        """The size at a shape of what had this size at the recorded one."""
        ratios = [_ratio(term, target, recorded) for term in _LINEAR]
        bounds = (ceil(size_bytes * min(ratios)), ceil(size_bytes * max(ratios)))
        if self.laws and self.shapes > 1:
            sizes = sorted({max(ceil(law.at(target)), 0) for law in self.laws})
            if len(sizes) > 1:
                return Estimate(sizes[-1], sizes[0], sizes[-1], Evidence.AMBIGUOUS)
            proven = len(self.laws[0].terms) < self.shapes
            evidence = Evidence.EXACT if proven else Evidence.FITTED
            return Estimate(sizes[0], sizes[0], sizes[0], evidence)
        if self.shapes < 2:
            evidence = Evidence.EXACT if target == recorded else Evidence.UNKNOWN
            return Estimate(size_bytes, *bounds, evidence)
        size = ceil(size_bytes * _ratio(self.nearest, target, recorded))
        return Estimate(size, min(size, bounds[0]), max(size, bounds[1]), Evidence.NEAR)


@lru_cache(maxsize=1 << 16)
def fit(seen: frozenset[tuple[Shape, int]]) -> Fit:
    """The laws that hold for every (shape, size in bytes) that was seen."""
    shapes = {shape for shape, _ in seen}
    if len(shapes) == len(seen):
        laws = _exact_laws(dict(seen))
        if laws:
            return Fit(laws, len(shapes))
    return Fit((), len(shapes), _nearest(seen))


def _exact_laws(sizes: dict[Shape, int]) -> tuple[Law, ...]:
    """All exact laws of the first form that has one: few terms before many, low powers first."""
    count = len(sizes)
    pairs = [pair for pair in combinations(_ALL, 2) if count >= 2]
    linear = [pair for pair in pairs if set(pair) <= set(_LINEAR)]
    rising = [law for pair in linear if (law := _solved(pair, sizes)) and _grows(law)]
    forms = [
        [law for term in _SINGLE if (law := _solved((term,), sizes))],
        [law for law in [_solved((_PAIRS,), sizes)] if law],
        rising,
        [law for pair in pairs if (law := _solved(pair, sizes))],
        [law for triple in combinations(_ALL, 3) if count > 3 and (law := _solved(triple, sizes))],
    ]
    return next((tuple(laws) for laws in forms if laws), ())


def _grows(law: Law) -> bool:
    return all(coefficient >= 0 for coefficient in law.coefficients)


def _solved(terms: tuple[Shape, ...], sizes: dict[Shape, int]) -> Law | None:
    """The law of these terms that meets every size, if there is exactly one.

    A coefficient may be below 0 (a convolution without padding), the constant's alone.
    """
    chosen = sorted(sizes)[:: -(-len(sizes) // _SOLVED_FROM)]
    rows = [
        [Fraction(_value(term, shape)) for term in terms] + [Fraction(sizes[shape])]
        for shape in chosen
    ]
    done = 0
    for column in range(len(terms)):
        pivot = next((i for i in range(done, len(rows)) if rows[i][column]), None)
        if pivot is None:
            return None  # these terms can't be told apart by the shapes seen
        rows[done], rows[pivot] = rows[pivot], rows[done]
        rows[done] = [value / rows[done][column] for value in rows[done]]
        for i, row in enumerate(rows):
            if i != done and row[column]:
                factor = row[column]
                rows[i] = [a - factor * b for a, b in zip(row, rows[done], strict=True)]
        done += 1
    if any(row[-1] for row in rows[done:]):
        return None
    law = Law(terms, tuple(row[-1] for row in rows[:done]))
    if not _possible(law) or any(law.at(shape) != size for shape, size in sizes.items()):
        return None
    return law


def _possible(law: Law) -> bool:
    parts = list(zip(law.terms, law.coefficients, strict=True))
    if len(parts) == 1:
        return law.coefficients[0] >= 0
    return all(c > 0 or (c < 0 and term == _ONE) for term, c in parts)


def _nearest(seen: frozenset[tuple[Shape, int]]) -> Shape:
    """The power after which the sizes, divided by it, differ least."""

    def spread(term: Shape) -> float:
        scaled = [size / _value(term, shape) for shape, size in seen]
        mean = sum(scaled) / len(scaled)
        return sum((value / mean - 1) ** 2 for value in scaled) if mean else 0.0

    return min(_SINGLE, key=spread)


def _ratio(term: Shape, target: Shape, recorded: Shape) -> Fraction:
    return Fraction(_value(term, target), _value(term, recorded))


def _value(term: Shape, shape: Shape) -> int:
    return int(shape[0] ** term[0] * shape[1] ** term[1])
