"""Objects made and dropped, generation after generation, until they lie where others have lain."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator


class Addresses:
    """The addresses of all objects that were made, and how many of them came back."""

    def __init__(self) -> None:
        self.made = 0
        self._seen: set[int] = set()

    def add(self, made: object) -> None:
        self.made += 1
        self._seen.add(id(made))

    @property
    def reused(self) -> int:
        return self.made - len(self._seen)

    def generations(self, least: int, *, reused: int, most: int = 50) -> Iterator[int]:
        """Numbers generations: `least`, then on until so many addresses have come back.

        Whether a freed address comes back is the allocator's choice: no fixed number of generations
        brings the hazard for certain. (AddressSanitizer keeps freed memory back: it looks for other
        faults.)
        """
        for number in range(most):
            if number >= least and (self.reused >= reused or "MEMTRACE_SANITIZE" in os.environ):
                return
            yield number
            gc.collect()  # what dies in a cycle leaves its address as well
        assert self.reused >= reused, "the hazard did not arise"
