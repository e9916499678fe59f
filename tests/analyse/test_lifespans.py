"""Sums between cuts give what counting allocations one by one gives, also with few cuts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.analyse.curve import _Bins
from memtrace.analyse.layers import MOST_LAYERS, LayerSums
from memtrace.analyse.lifespans import Cuts, Lifespans, LifespanSums, Sites, make_cuts

NEVER = np.iinfo(np.int64).max

Lives = st.lists(
    st.tuples(st.integers(0, 60), st.one_of(st.none(), st.integers(1, 40)), st.integers(0, 5),
              st.integers(1, 9)),
    min_size=1, max_size=60,
)  # fmt: skip


def cuts_at(seqs: list[int], ranks: list[int]) -> Cuts:
    seq = np.array(seqs, np.int64)
    return Cuts(seq, seq * 10, np.array(ranks, np.int64))


def sums_of(lives: list[tuple[int, int | None, int, int]], cuts: Cuts, most_rows: int) -> Lifespans:
    sums = LifespanSums(cuts, most_rows)
    born = np.array([life[0] for life in lives])
    died = np.array([NEVER if life[1] is None else life[0] + life[1] for life in lives])
    site, size = (np.array([life[place] for life in lives]) for place in (2, 3))
    half = len(lives) // 2
    for part in (slice(0, half), slice(half, None)):
        sums.add(site[part], born[part], died[part], size[part])
    return sums.lifespans()


@settings(max_examples=200, deadline=None)
@given(Lives, st.integers(3, 1000), st.data())
def test_live_and_changed_are_exact_at_every_cut_that_is_left(
    lives: list[tuple[int, int | None, int, int]], most_rows: int, data: st.DataObject
) -> None:
    inner = data.draw(st.lists(st.integers(0, 99), max_size=20, unique=True).map(sorted))
    ranks = [0, *data.draw(st.lists(st.integers(0, 3), min_size=len(inner), max_size=len(inner)))]
    cuts = cuts_at([-1, *inner, 100], [*ranks, 0])
    found = sums_of(lives, cuts, most_rows)
    assert set(cuts.seq[cuts.rank == 0].tolist()) <= set(found.cuts.seq.tolist())
    assert len(found) <= most_rows or not found.cuts.rank.any()
    ends = [(life[0], NEVER if life[1] is None else life[0] + life[1]) for life in lives]
    for cut, seq in enumerate(found.cuts.seq.tolist()):
        live = sum(life[3] for life, (a, b) in zip(lives, ends, strict=True) if a <= seq < b)
        assert found.live_bytes(cut) == live
    i, j = 0, len(found.cuts) - 1
    if j > 1:
        i, j = data.draw(st.lists(st.integers(0, j), min_size=2, max_size=2).map(sorted))
    low, high = found.cuts.seq[i], found.cuts.seq[j]
    born, died, size = found.born, found.died, found.block_bytes
    was_born, has_died = (born > i) & (born <= j), (died > i) & (died <= j)
    inside = [(life[3], low < a <= high, low < b <= high)
              for life, (a, b) in zip(lives, ends, strict=True)]  # fmt: skip
    assert size[was_born].sum() == sum(s for s, new, _ in inside if new)
    assert size[has_died].sum() == sum(s for s, _, gone in inside if gone)
    assert size[was_born & (died > j)].sum() == sum(
        s for s, new, gone in inside if new and not gone
    )
    assert found.blocks[was_born].sum() == sum(new for _, new, _ in inside)


def test_cuts_of_the_highest_rank_go_first() -> None:
    lives = [(seq, 2, seq % 3, 1) for seq in range(60)]
    cuts = cuts_at([-1, 10, 20, 30, 100], [0, 2, 1, 2, 0])
    assert sums_of(lives, cuts, 10_000).cuts.seq.tolist() == [-1, 10, 20, 30, 100]
    assert sums_of(lives, cuts, 10).cuts.seq.tolist() == [-1, 20, 100]
    assert sums_of(lives, cuts, 1).cuts.seq.tolist() == [-1, 100]


def test_sites_are_numbered_over_tables() -> None:
    sites = Sites()

    def table(*rows: tuple[str | None, ...]) -> pa.Table:
        names = ["category", "module", "operator", "source"]
        return pa.table(
            [pa.array(column, pa.string()) for column in zip(*rows, strict=True)], names
        )

    one, other = ("weight", None, "aten::mm", "a.py:1 f"), ("weight", "h.0", "aten::mm", None)
    assert sites.numbers(table(one, other, one)).tolist() in ([0, 1, 0], [1, 0, 1])
    third = ("input", None, None, None)
    again = sites.numbers(table(third, other)).tolist()
    assert again[0] == 2
    assert sites.rows[again[1]] == other


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=200), st.integers(8, 64))
def test_the_peak_of_every_stretch_is_a_cut(deltas: list[int], most_bins: int) -> None:
    allocated = np.cumsum(deltas) + 10_000
    seq = np.arange(len(deltas))
    bins = _Bins(most_bins)
    bins.add(seq, seq * 100, allocated, allocated)
    cuts = make_cuts(bins.curve(), np.array([-1, len(seq) - 1]), np.array([0, seq[-1] * 100]))
    assert np.all(np.diff(cuts.seq) > 0)
    assert np.all(np.diff(cuts.time_ns) >= 0)
    assert allocated[cuts.seq[cuts.seq >= 0]].max() == allocated.max()
    if len(seq) <= most_bins:  # each event is a bin: each is a cut
        assert cuts.seq.tolist() == [-1, *seq.tolist()]


def test_layers_name_the_largest_and_sum_to_everything() -> None:
    sites = Sites()
    number = MOST_LAYERS + 6
    rows = [("weight", f"m{i}", None, None) for i in range(number)]
    names = ["category", "module", "operator", "source"]
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    site = sites.numbers(pa.table(columns, names))
    size = np.array([int(rows[i][1][1:]) + 1 for i in range(number)])
    sums = LayerSums(cuts_at([-1, 5, 9], [0, 0, 0]), sites)
    sums.add(site, np.zeros(number, np.int64), np.where(size > 1, NEVER, 7), size)
    found = sums.layers(1)
    modules = found["module"]
    assert modules.names[0] == f"m{number - 1}"
    assert (len(modules.names), modules.others) == (MOST_LAYERS, 6)
    assert modules.size_bytes.sum(axis=0).tolist() == [0, size.sum(), size.sum() - 1]
    assert found["category"].names == ("weight",)
    assert found["operator"].names == (None,)
    assert found["category"].size_bytes.tolist() == [[0, size.sum(), size.sum() - 1]]
