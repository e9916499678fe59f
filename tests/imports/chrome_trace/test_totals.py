"""torch's order and what was there before, from the totals after each event."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.imports.chrome_trace.events import NOT_TOLD, Changes
from memtrace.imports.chrome_trace.totals import device_totals

Row = tuple[int, int, int, int]  # time, address, bytes, total


def changes(rows: list[Row], device: int = 0) -> Changes:
    found = Changes()
    for time_ns, address, size, total in rows:
        found.thread.append(0)
        found.time_ns.append(time_ns)
        found.device.append(device)
        found.address.append(address)
        found.size_bytes.append(size)
        found.total_bytes.append(total)
        found.reserved_bytes.append(NOT_TOLD)
    return found


def test_what_was_there_before() -> None:
    rows = [(1, 64, 10, 110), (2, 128, -30, 80), (3, 64, -10, 70)]
    (device,) = device_totals(changes(rows))
    assert (device.before, device.before_bytes) == ({128: 30}, 70)
    assert (device.jumps, device.differs_bytes) == (0, 0)


def test_two_threads_whose_clocks_differ_are_put_in_torchs_order() -> None:
    rows = [(1, 64, 10, 10), (3, 128, 20, 30), (2, 192, 40, 70)]
    (device,) = device_totals(changes(rows))
    assert device.order == [0, 1, 2]
    assert (device.jumps, device.before_bytes) == (0, 0)


def test_an_address_may_be_freed_and_taken_again() -> None:
    """Though a later event goes on from the same total."""
    rows = [(1, 64, 4, 104), (2, 128, -4, 100), (3, 128, 4, 104), (4, 192, 50, 154)]
    (device,) = device_totals(changes(rows))
    assert device.order == [0, 1, 2, 3]
    assert (device.jumps, device.before, device.before_bytes) == (0, {128: 4}, 96)


def test_memory_of_threads_that_were_not_profiled_is_told() -> None:
    rows = [(1, 64, 10, 10), (2, 128, 20, 130), (3, 64, -10, 120)]
    (device,) = device_totals(changes(rows))
    assert (device.jumps, device.differs_bytes) == (1, 100)


def test_a_free_of_what_was_never_seen_again_counts_once() -> None:
    rows = [(1, 64, 10, 10), (2, 64, -10, 0), (3, 64, -10, 0)]
    (device,) = device_totals(changes(rows))
    assert device.before == {}
    assert device.differs_bytes == 0


def test_totals_that_are_not_told_are_not_compared() -> None:
    rows = [(2, 64, 10, NOT_TOLD), (1, 128, -30, NOT_TOLD)]
    (device,) = device_totals(changes(rows))
    assert device.order == [1, 0]
    assert (device.before, device.before_bytes, device.jumps) == ({128: 30}, 0, 0)


@settings(deadline=None)
@given(st.integers(0, 1 << 40), st.integers())
def test_any_program_is_found_again(before: int, seed: int) -> None:
    """Where no total comes twice, times that are wrong by a few events do no harm."""
    rng = random.Random(seed)
    total, live, rows = before, {}, []
    totals = {before}
    while len(rows) < 200:
        address = rng.choice(list(live)) if live and rng.random() < 0.4 else 64 * (len(rows) + 1)
        size = -live[address] if address in live else rng.randrange(1, 1 << 30)
        if total + size in totals:
            continue
        if size > 0:
            live[address] = size
        else:
            del live[address]
        total += size
        totals.add(total)
        late_ns = rng.randrange(3000) if rows else 0
        rows.append((1000 * len(rows) + late_ns, address, size, total))
    (device,) = device_totals(changes(rows, device=1))
    assert device.order == list(range(200))
    assert (device.jumps, device.differs_bytes) == (0, 0)
    assert device.before_bytes + sum(device.before.values()) == before
