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

    EXACT = 0  # every law of so few terms that is exact says the same
    FITTED = 1  # the simplest of several laws that are exact, or nothing is left to prove it
    NEAR = 2  # no law is exact; the nearest is followed
    AMBIGUOUS = 3  # the simplest laws that are exact differ where they are asked
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
        others: those of as many terms and another form that are exact too.
        shapes: how many different ones it was seen at.
        nearest: the power that its sizes follow best, where no law is exact; from what it was at
            the largest shape, in the mean: `largest`, `mean_bytes`.
    """

    laws: tuple[Law, ...]
    others: tuple[Law, ...]
    shapes: int
    nearest: Shape = _ONE
    largest: Shape = _TOKENS
    mean_bytes: Fraction = Fraction()

    def at(self, target: Shape, *, recorded: Shape, size_bytes: int) -> Estimate:
        """The size at a shape of what had this size at the recorded one."""
        if self.laws and self.shapes > 1:
            sizes = _sizes(self.laws, target)
            if len(sizes) > 1:
                return Estimate(sizes[-1], sizes[0], sizes[-1], Evidence.AMBIGUOUS)
            every = _sizes((*self.laws, *self.others), target)
            proven = len(every) == 1 and len(self.laws[0].terms) < self.shapes
            evidence = Evidence.EXACT if proven else Evidence.FITTED
            return Estimate(sizes[0], every[0], every[-1], evidence)
        if target == recorded:
            return Estimate(size_bytes, size_bytes, size_bytes, Evidence.EXACT)
        if self.shapes < 2:
            return Estimate(size_bytes, *_bounds(size_bytes, target, recorded), Evidence.UNKNOWN)
        size = ceil(self.mean_bytes * _ratio(self.nearest, target, self.largest))
        low, high = _bounds(self.mean_bytes, target, self.largest)
        return Estimate(size, min(size, low), max(size, high), Evidence.NEAR)


def _bounds(size_bytes: Fraction | int, target: Shape, recorded: Shape) -> tuple[int, int]:
    """Where nothing grows, and where all grows with whatever does."""
    ratios = [_ratio(term, target, recorded) for term in _LINEAR]
    return ceil(size_bytes * min(ratios)), ceil(size_bytes * max(ratios))


@lru_cache(maxsize=1 << 16)
def fit(seen: frozenset[tuple[Shape, int]]) -> Fit:
    """The laws that hold for every (shape, size in bytes) that was seen."""
    shapes = {shape for shape, _ in seen}
    if len(shapes) == len(seen):
        laws, others = _exact_laws(dict(seen))
        if laws:
            return Fit(laws, others, len(shapes))
    largest = max(shapes, key=lambda shape: (_value(_TOKENS, shape), shape))
    there = [size for shape, size in seen if shape == largest]
    mean = Fraction(sum(there), len(there))
    return Fit((), (), len(shapes), _nearest(seen), largest, mean)


def _exact_laws(sizes: dict[Shape, int]) -> tuple[tuple[Law, ...], tuple[Law, ...]]:
    """Exact laws of the fewest terms: those of the simplest form that has one, and the others."""
    # Three parts through three shapes would be nothing but a curve drawn through points.
    for count in range(1, min(2 if len(sizes) < 4 else 3, len(sizes)) + 1):
        terms = combinations(_ALL, count)
        laws = [law for chosen in terms if (law := _solved(chosen, sizes))]
        if laws:
            simplest = min(map(_complexity, laws))
            chosen = tuple(law for law in laws if _complexity(law) == simplest)
            return chosen, tuple(law for law in laws if law not in chosen)
    return (), ()


def _complexity(law: Law) -> int:
    """Which form is taken first: sizes that grow with pairs of items, or shrink, are rare."""
    if any(coefficient < 0 for coefficient in law.coefficients):
        return 3
    if _PAIRS in law.terms:
        return 2
    return int(len(law.terms) > 1 and not set(law.terms) <= set(_LINEAR))


def _sizes(laws: tuple[Law, ...], shape: Shape) -> list[int]:
    return sorted({max(ceil(law.at(shape)), 0) for law in laws})


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
