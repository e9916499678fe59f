"""Laws of sizes: found where they are, and never said to be proven where they are not."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.whatif.laws import Evidence, fit

ONE, BATCH, SEQUENCE, TOKENS, SQUARE, ATTENTION = (0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)
LINEAR = (ONE, BATCH, SEQUENCE, TOKENS)

coefficients = st.integers(1, 10**6)
single = st.tuples(st.sampled_from((*LINEAR, SQUARE, ATTENTION)), coefficients).map(
    lambda term: (term,)
)
sums = st.lists(
    st.tuples(st.sampled_from(LINEAR), coefficients),
    min_size=2,
    max_size=2,
    unique_by=lambda t: t[0],
).map(tuple)
values = st.lists(st.integers(1, 400), min_size=3, max_size=3, unique=True)


def size_at(law, shape):
    return sum(c * shape[0] ** i * shape[1] ** j for (i, j), c in law)


@given(st.one_of(single, sums), values, values, st.integers(1, 4096), st.integers(1, 4096))
def test_a_law_is_found_from_a_grid_of_shapes(law, batches, lengths, batch, length):
    shapes = list(product(batches, lengths))
    found = fit(frozenset((shape, size_at(law, shape)) for shape in shapes))
    size = size_at(law, shapes[0])
    estimate = found.at((batch, length), recorded=shapes[0], size_bytes=size)
    assert estimate.size_bytes == size_at(law, (batch, length))
    assert estimate.low_bytes == estimate.high_bytes == estimate.size_bytes
    assert estimate.evidence == Evidence.EXACT


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(3, 64))
def test_two_batch_sizes_prove_no_sum(fixed, each, batch):
    seen = frozenset(((b, 64), fixed + each * b) for b in (2, 3))
    estimate = fit(seen).at((batch, 64), recorded=(3, 64), size_bytes=fixed + 3 * each)
    assert estimate.low_bytes <= estimate.size_bytes <= estimate.high_bytes
    assert estimate.size_bytes == fixed + each * batch
    if fixed and each and batch > 3:
        assert estimate.evidence == Evidence.FITTED


def test_what_grew_with_both_at_once_is_ambiguous() -> None:
    seen = frozenset({((2, 64), 1000), ((4, 128), 2000)})
    estimate = fit(seen).at((8, 128), recorded=(4, 128), size_bytes=2000)
    assert estimate.evidence == Evidence.AMBIGUOUS
    assert (estimate.low_bytes, estimate.high_bytes) == (2000, 4000)
    assert fit(seen).at((8, 256), recorded=(4, 128), size_bytes=2000).size_bytes == 4000


def test_a_batch_size_that_never_varied_is_no_evidence_of_a_constant() -> None:
    seen = frozenset({((2, 64), 1000), ((2, 128), 1000)})
    estimate = fit(seen).at((8, 128), recorded=(2, 128), size_bytes=1000)
    assert estimate.evidence == Evidence.AMBIGUOUS
    assert estimate.low_bytes == 1000
    assert estimate.high_bytes >= 4000


@pytest.mark.parametrize("sizes", [(100, 150, 170), (100, 120, 190)])
def test_without_a_law_the_nearest_is_followed_between_bounds(sizes: tuple[int, ...]) -> None:
    seen = frozenset(zip([(2, 8), (3, 8), (4, 8)], sizes, strict=True))
    estimate = fit(seen).at((8, 8), recorded=(4, 8), size_bytes=sizes[-1])
    assert estimate.evidence == Evidence.NEAR
    assert estimate.low_bytes == sizes[-1]
    assert estimate.size_bytes == estimate.high_bytes == 2 * sizes[-1]


def test_one_shape_tells_nothing() -> None:
    estimate = fit(frozenset({((4, 8), 100)})).at((8, 8), recorded=(4, 8), size_bytes=100)
    assert estimate.evidence == Evidence.UNKNOWN
    assert (estimate.low_bytes, estimate.size_bytes, estimate.high_bytes) == (100, 100, 200)


def test_a_convolution_without_padding_shrinks_by_a_constant() -> None:
    seen = frozenset(((2, s), 8 * (s - 2)) for s in (16, 32, 48))
    assert fit(seen).at((2, 100), recorded=(2, 16), size_bytes=112).size_bytes == 8 * 98
