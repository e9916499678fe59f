"""Which allocations are told one by one: those at the instants that matter, and the large ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memtrace.analyse.listing import Listing, choose_listings, power_of
from memtrace.trace import Trace, open_trace
from trace_builder import TraceBuilder


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """40 blocks of 1 KiB, the even ones live for one event; then 4 large ones; one of another."""
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    for number in range(40):
        row = p.alloc("cpu", 1024)
        if number % 2 == 0:
            p.free(row)
    for _ in range(4):
        p.free(p.alloc("cpu", 1 << 20))
    p.alloc("cuda:0", 1024)
    return open_trace(builder.write())


def choose(trace: Trace, instants: list[int], needed: int, most_rows: int) -> Listing:
    key = trace.process_list[0].key
    found = choose_listings(
        trace, key, {"cpu": np.array(instants)}, needed={"cpu": needed},
        between={"cpu": (-1, 1000)}, most_rows=most_rows,
    )  # fmt: skip
    return found["cpu"]


def test_a_small_trace_is_told_in_full(trace: Trace) -> None:
    listing = choose(trace, [10, 3], 1, 44)
    assert (listing.large_bytes, listing.floor_bytes) == (0, 0)
    assert listing.instants.tolist() == [3, 10]


def test_large_ones_and_as_many_instants_as_there_is_room_for(trace: Trace) -> None:
    # Live at seq 31: 10 blocks; at 46: 15; at 58: 19.
    listing = choose(trace, [46, 31, 58], 1, 30)
    assert listing.large_bytes == 2048  # all that are larger than 1 KiB: a power of two
    assert listing.instants.tolist() == [31, 46]
    assert listing.floor_bytes == 0
    assert choose(trace, [46, 31, 58], 1, 43).instants.tolist() == [31, 46, 58]


def test_what_is_needed_is_kept_above_a_floor(trace: Trace) -> None:
    listing = choose(trace, [46, 31, 58], 2, 8)
    assert listing.instants.tolist() == [31, 46]
    assert listing.floor_bytes == 2048


def test_rows_are_chosen_by_size_or_by_life() -> None:
    listing = Listing(np.array([10, 20]), floor_bytes=4, large_bytes=100)
    size = np.array([200, 50, 50, 50, 2])
    born = np.array([0, 11, 11, 0, 0])
    end = np.array([1, 20, 21, 10, 11])
    assert listing.chosen(size, born, end).tolist() == [True, False, True, False, False]


def test_powers_of_two() -> None:
    assert power_of(np.array([0, 1, 2, 3, 4, 1023, 1024, 2**40])).tolist() == [
        0, 0, 1, 1, 2, 9, 10, 40,
    ]  # fmt: skip
