"""Random allocations and frees, 1 B to 60 MB, on four streams: every rule of the allocator."""

from __future__ import annotations

import random

import torch

MEMORY_MB = 2048
SINGLE_THREADED = True

STEPS = 1500
LIVE_LIMIT_BYTES = 400 << 20

KEPT: list[torch.Tensor] = []


def random_size(generator: random.Random) -> int:
    """Returns a size whose logarithm is evenly spread, with round numbers among them."""
    size = int(2 ** generator.uniform(0, 25.84))
    if generator.random() < 0.2:
        size = 1 << size.bit_length()
    return min(size, 60_000_000)


def main() -> None:
    """Keeps up to 400 MiB alive, and leaves what is alive at the end."""
    generator = random.Random(20)
    streams = [torch.cuda.default_stream(), *(torch.cuda.Stream() for _ in range(3))]
    live: list[torch.Tensor] = []
    live_bytes = 0
    for step in range(STEPS):
        size = random_size(generator)
        while live and live_bytes + size > LIVE_LIMIT_BYTES:
            live_bytes -= live.pop(generator.randrange(len(live))).numel()
        with torch.cuda.stream(generator.choice(streams)):
            live.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        live_bytes += size
        if generator.random() < 0.45:
            live_bytes -= live.pop(generator.randrange(len(live))).numel()
        if generator.random() < 0.1 and live:
            generator.choice(live).record_stream(generator.choice(streams))
        if step % 500 == 499:
            torch.cuda.empty_cache()
    KEPT.extend(live)


if __name__ == "__main__":
    main()
