"""Row groups and files are worked on by threads: numpy and pyarrow do without the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_A_TIME = 2


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, at_a_time: int = AT_A_TIME
) -> Iterator[Result]:
    """What `work` makes of each item, in their order.

    So many are worked on while the caller has another; no more are in memory. An error of `work` is
    raised in its place, and nothing is begun after it.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(at_a_time, "memtrace-attribute") as pool:
        try:
            for item in items:
                if len(waiting) == at_a_time:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(work, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
