"""Scratch of products in bfloat16, as measured with oneDNN 3.12 on a CPU with AVX-512, no AMX."""

from __future__ import annotations

import pytest

from memtrace.whatif.onednn_products import Product, scratch_bytes


@pytest.mark.parametrize(
    ("rows", "depth", "columns", "threads", "size_bytes"),
    [
        (1, 512, 512, 1, 66_816),
        (64, 300, 300, 1, 58_368),
        (8, 2048, 512, 1, 134_144),  # long lines are summed by 1,024
        (1, 2048, 512, 1, 66_816),  # not those of a single row
        (700, 777, 48, 1, 100_160),
        (4096, 4096, 200, 1, 935_040),  # lines of a power of two are copied
        (512, 512, 512, 2, 263_808),
        (64, 512, 64, 2, 149_120),  # fewer rows a thread
        (3, 96, 96, 3, 41_472),
        (3, 1000, 130, 8, 535_936),
    ],
)
def test_a_product(rows: int, depth: int, columns: int, threads: int, size_bytes: int) -> None:
    assert scratch_bytes(Product(rows, columns, depth), threads) == size_bytes


@pytest.mark.parametrize(
    ("rows", "depth", "columns", "threads", "size_bytes"),
    [
        (512, 512, 512, 1, 410_752),
        (1024, 2048, 1024, 1, 1_393_792),
        (512, 512, 512, 2, 820_992),
        (256, 2048, 256, 2, 673_536),
        (96, 3, 96, 3, 45_440),
        (96, 100, 96, 8, 235_008),
    ],
)
def test_a_weights_gradient(
    rows: int, depth: int, columns: int, threads: int, size_bytes: int
) -> None:
    assert scratch_bytes(Product(rows, columns, depth, transposed=True), threads) == size_bytes
