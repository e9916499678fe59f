"""What oneDNN allocates for a product of matrices in half precision: copies of blocks, per thread.

By its rules for CPUs with AVX-512, without AMX (oneDNN 3.12, src/cpu/x64/matmul,
brgemm_matmul_utils.cpp): rows are cut into blocks so that threads get even shares; each thread
copies a block of the right-hand matrix into the layout of its kernel, of a left-hand one that lies
badly too (transposed, as for a weight's gradient), and sums a block of the result in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_SUM_BYTES, _HALF_BYTES = 4, 2
#: Rows of a block at most; its columns.
_ROWS, _COLUMNS = 256, 64
#: Of what is summed over, in one block; where it is long and nothing is transposed, the second.
_DEPTH, _LONG_DEPTH = 512, 1024
#: Lines of so many elements, a power of two, are copied too where there are so many rows.
_LONG_LINE, _MANY_ROWS = 4096, 1024
#: Column blocks that share a copy of the left-hand matrix, at most.
_MOST_SHARING = 16
#: Of each thread and of each buffer, for what oneDNN notes of them.
_THREAD_BYTES, _BUFFER_BYTES = 640, 128


@dataclass(frozen=True)
class Product:
    """Rows x depth times depth x columns; transposed: the left-hand matrix lies so in memory."""

    rows: int
    columns: int
    depth: int
    transposed: bool = False

    @property
    def copies_left(self) -> bool:
        """Whether blocks of the left-hand matrix are copied too."""
        long = self.depth >= _LONG_LINE and not self.depth & (self.depth - 1)
        return self.transposed or (long and self.rows >= _MANY_ROWS)


@dataclass(frozen=True)
class _Blocks:
    rows: int
    sharing: int  # blocks of columns that are one thread's at a time
    splits: int  # parts of the depth that have threads of their own


@lru_cache(maxsize=4096)
def scratch_bytes(product: Product, threads: int) -> int:
    """Of one call, for all threads."""
    blocks = _blocks(product, threads)
    depth = _depth(product)
    right = _COLUMNS * _up(depth, 32) * _HALF_BYTES
    rows = product.rows if blocks.splits > 1 else blocks.rows
    sums = min(product.columns, _COLUMNS) * rows * _SUM_BYTES
    if depth < product.depth and blocks.splits == 1:
        sums *= blocks.sharing
    left = 0
    if product.copies_left:
        line = _up(depth, 32)
        # Lines of a power of two would share their place in the cache.
        line += 32 if line >= 512 and not line & (line - 1) else 0
        left = blocks.rows * line * _HALF_BYTES
    buffers = 4 if product.copies_left else 3
    return threads * (_THREAD_BYTES + left + right + sums) + buffers * _BUFFER_BYTES


def _depth(product: Product) -> int:
    # One row lies as a transposed column does.
    long = product.depth > _LONG_DEPTH and not product.transposed and product.rows > 1
    return min(product.depth, _LONG_DEPTH if long else _DEPTH)


def _blocks(product: Product, threads: int) -> _Blocks:
    """The first of the blockings, largest blocks first, that leaves threads least uneven."""
    column_blocks = -(-product.columns // _COLUMNS)
    least, splits = 32, 1
    if threads > column_blocks:  # more threads than work
        least = 16
        power = not product.depth & (product.depth - 1)
        if product.transposed and product.depth >= 2048 and power:
            splits = min(threads, 4)
    least = min(product.rows, least)
    sharing = min(_MOST_SHARING if product.copies_left else 1, column_blocks)
    best, chosen = 1.0, _Blocks(least, 1, 1)
    for parts in range(splits, 0, -1):
        found = False
        for blocks in _candidates(product, sharing, least, parts):
            uneven, work = _unevenness(product, blocks, threads)
            each = threads // parts
            if work < 3 * each and work % each and splits == 1:
                continue
            if uneven < best:
                best, chosen, found = uneven, blocks, True
        if not found:
            blocks = _Blocks(least, 1, parts)
            uneven, _ = _unevenness(product, blocks, threads)
            if uneven < best:
                best, chosen = uneven, blocks
    return chosen


def _candidates(product: Product, sharing: int, least: int, parts: int) -> Iterator[_Blocks]:
    for shared in range(sharing, 0, -1):
        for rows in range(min(_ROWS, product.rows), least - 1, -1):
            yield _Blocks(rows, shared, parts)


def _unevenness(product: Product, blocks: _Blocks, threads: int) -> tuple[float, int]:
    """How uneven the shares are, and how many there are."""
    each = threads // blocks.splits
    rows = -(-product.rows // blocks.rows)
    columns = -(-product.columns // _COLUMNS)
    shared = -(-columns // blocks.sharing)
    parts = (
        _left_over(rows * shared, each),
        (blocks.rows * rows) % product.rows / product.rows,
        (shared * blocks.sharing - columns) / columns,
        (threads - each * blocks.splits) / threads,
        _left_over(product.depth, blocks.splits * _depth(product)),
    )
    return sum(parts) / len(parts), rows * shared


def _left_over(work: int, share: int) -> float:
    over = work % share
    return (share - over if work < share else min(share - over, over)) / share


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
