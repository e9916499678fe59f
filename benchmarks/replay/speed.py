"""How fast the allocator is replayed: events per second, and a sweep of settings.

    python benchmarks/replay/speed.py [--events 1000000]

The requests are made up: sizes from a byte to 64 MiB, two streams, some frees that wait, so many
allocations live at once. Seconds of one core, and of the wall for the sweep on two threads.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from memtrace import _core
from memtrace.replay.conf import parse_conf
from memtrace.replay.sweep import CONFS

KIND = {name: number for number, name in enumerate(_core.REQUEST_KINDS)}
TOTAL_BYTES = 1 << 40


def made_up(events: int, live: int) -> _core.ReplayRequests:
    """A third of the events are allocations, of which so many are live at once."""
    count = events // 3
    random = np.random.default_rng(0)
    small = random.integers(1, 1 << 20, count)
    large = np.exp(random.uniform(np.log(1 << 20), np.log(64 << 20), count)).astype(np.int64)
    size = np.where(random.random(count) < 0.5, small, large).astype(np.uint64)
    start = np.arange(count, dtype=float)
    free = start + np.minimum(random.geometric(1 / live, count), count) + 0.5
    release = free + np.where(random.random(count) < 0.02, 5.0, 0.01)
    names = ("malloc", "free_requested", "free_completed")
    kind = np.repeat([KIND[name] for name in names], count).astype(np.uint8)
    allocation = np.tile(np.arange(count), 3).astype(np.uint32)
    order = np.argsort(np.concatenate([start, free, release]), kind="stable")
    stream = (random.random(count) < 0.1).astype(np.uint16)
    return _core.ReplayRequests(
        kind=kind[order],
        detail=allocation[order],
        size_bytes=size[allocation[order]],
        stream=stream[allocation[order]],
        pool=np.zeros(3 * count, np.uint16),
        address=np.zeros(0, np.uint64),
        settings=[],
        fractions=[],
        ranges={},
        blocks={},
        segment_events={},
        allocations=count,
        streams=2,
        pools=1,
    )


def replay(requests: _core.ReplayRequests, conf: str, addresses: Any = "rising") -> dict[str, Any]:
    """One replay on a device that is never full."""
    return requests.replay(
        addresses=addresses,
        total_bytes=TOTAL_BYTES,
        capacity_bytes=TOTAL_BYTES,
        first_settings=parse_conf(conf).settings_text(),
    )


def main() -> None:
    """Prints events per second by settings and live allocations, and the sweep's seconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    events = parser.parse_args().events
    for live in (50, 500, 5000):
        requests = made_up(events, live)
        for conf in ("", "expandable_segments:True", "max_split_size_mb:32"):
            start = time.process_time()
            found = replay(requests, conf)
            rate = events / (time.process_time() - start) / 1e6
            reserved = found["reserved"]["bytes"] >> 20
            print(f"{live:>6,} live  {conf or 'defaults':28} {rate:6.2f} M events/s of one core, "
                  f"{reserved:,} MiB reserved")  # fmt: skip
        runs = [(conf, order) for conf in CONFS for order in ("rising", "falling")]
        start, own = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda run, r=requests: replay(r, *run), runs))  # type: ignore[misc]
        wall, cpu = time.perf_counter() - start, time.process_time() - own
        print(f"{live:>6,} live  sweep of {len(CONFS)} settings, both address orders: {wall:.2f} s "
              f"of the wall on two threads, {cpu:.2f} s of cores")  # fmt: skip


if __name__ == "__main__":
    main()
