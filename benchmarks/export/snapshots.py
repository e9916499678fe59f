"""Time, memory and size of importing a memory snapshot and of exporting one again, by events.

    python benchmarks/export/snapshots.py [EVENTS ...]

The snapshot is made up: 2,000 segments, 1,000 to 2,000 live blocks, 500 stacks of 20 frames that
the events share, as torch shares them.
"""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_SEGMENTS, _SEGMENT_BYTES, _BASE = 2000, 2 << 20, 1 << 40
_COMMON = {"stream": 0, "compile_context": "N/A", "user_metadata": ""}


def made_up(events: int) -> dict[str, Any]:
    """A consistent snapshot of so many events: one block at most in each segment."""
    rng = random.Random(1)
    stacks = [
        [{"name": f"f{s}_{d}", "filename": f"/home/u/m{d}.py", "line": d + 1} for d in range(20)]
        for s in range(500)
    ]
    time_us, trace = 1_700_000_000_000_000, []
    for place in range(_SEGMENTS):
        trace.append(_event("segment_alloc", place, _SEGMENT_BYTES, stacks[0], time_us))
    empty, live = list(range(_SEGMENTS)), {}
    while len(trace) < events:
        time_us += 3
        if empty and (len(live) < 1000 or rng.random() < 0.5):
            place = empty.pop(rng.randrange(len(empty)))
            live[place] = (rng.randrange(1, 1 << 20), rng.choice(stacks))
            trace.append(_event("alloc", place, *live[place], time_us))
        else:
            place = next(iter(live))
            empty.append(place)
            block = live.pop(place)
            for action in ("free_requested", "free_completed"):
                trace.append(_event(action, place, *block, time_us))
    segments = [_segment(place, live.get(place)) for place in range(_SEGMENTS)]
    return {"segments": segments, "device_traces": [trace], "allocator_settings": {}}


def _event(action: str, place: int, size: int, frames: Any, time_us: int) -> dict[str, Any]:
    address = _BASE + place * _SEGMENT_BYTES
    told = {"action": action, "addr": address, "size": size, "time_us": time_us, "frames": frames}
    return told | _COMMON


def _segment(place: int, live: tuple[int, Any] | None) -> dict[str, Any]:
    blocks, held = [], 0
    if live is not None:
        held = max(-(-live[0] // 512) * 512, 512)
        blocks.append({"size": held, "requested_size": live[0], "state": "active_allocated"})
        blocks[0]["frames"] = live[1]
    blocks.append({"size": _SEGMENT_BYTES - held, "requested_size": 0, "state": "inactive"})
    return {
        "device": 0, "address": _BASE + place * _SEGMENT_BYTES, "total_size": _SEGMENT_BYTES,
        "stream": 0, "segment_type": "small", "blocks": blocks,
    }  # fmt: skip


def timed(*words: str | Path) -> str:
    """Seconds and most memory of a command, its children's included."""
    command = ["/usr/bin/time", "-f", "%M", sys.executable, "-m", "memtrace", *map(str, words)]
    start_s = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak_mib = int(done.stderr.split()[-1]) / 1024
    return f"{time.perf_counter() - start_s:6.1f} s {peak_mib:7.0f} MiB"


def main() -> None:
    for events in [int(word) for word in sys.argv[1:]] or [100_000, 1_000_000]:
        with tempfile.TemporaryDirectory() as folder:
            source, trace = Path(folder) / "s.pickle", Path(folder) / "s.memtrace"
            source.write_bytes(pickle.dumps(made_up(events), protocol=4))
            told = timed("import", source, "-o", trace)
            again = Path(folder) / "again.pickle"
            wrote = timed("export", trace, "--to", "snapshot", "-o", again)
            sizes = (
                f"{source.stat().st_size / 1e6:.0f} MB, ours {again.stat().st_size / 1e6:.0f} MB"
            )
            print(f"{events:>10,} events, {sizes}: import {told}, export {wrote}")


if __name__ == "__main__":
    main()
