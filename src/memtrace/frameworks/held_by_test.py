"""What a stretch of a program that was recorded for itself held at once, and left behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Int64s, equals, integers
from memtrace.analyse.live_set import BYTES
from memtrace.analyse.owners import encode
from memtrace.replay.outcome import serve_on_host
from memtrace.replay.requests import NEVER, Requests, read_requests
from memtrace.trace import open_trace

_TOLD = ("source", "module", "operator", "category")


@dataclass(frozen=True)
class Owner:
    """Bytes of one place. `told`: its line, module, operator and category, those that are known."""

    told: str
    total_bytes: int


@dataclass(frozen=True)
class HeldByTest:
    """A device, of what was allocated within the recording alone.

    Attributes:
        peak_bytes: the most that was held at once; blocks, as the allocator counts them.
        left_bytes: what had not been freed at the end.
        peak_owners, left_owners: the largest first.
    """

    device: str
    peak_bytes: int
    peak_owners: tuple[Owner, ...]
    left_bytes: int
    left_owners: tuple[Owner, ...]


def held_by_test(trace_dir: Path) -> list[HeldByTest]:
    """Of each device that was used; of all processes of the recording together the largest one."""
    trace = open_trace(trace_dir)
    found: dict[str, HeldByTest] = {}
    for process in trace.process_list:
        for device in trace.devices_by_process[process.key]:
            held = _held(read_requests(trace, device=device, process=process.key))
            if device not in found or held.peak_bytes > found[device].peak_bytes:
                found[device] = held
    return list(found.values())


def _held(requests: Requests) -> HeldByTest:
    own = requests.chosen(~equals(requests.rows, "origin", "preexisting"))
    blocks = integers(own.rows, "block_bytes", missing=-1)
    own = own.resized(np.where(blocks < 0, own.size_bytes, blocks))
    outcome = serve_on_host(own)
    peak = outcome.peak()
    left = own.free == NEVER
    return HeldByTest(
        device=own.device,
        peak_bytes=peak.total_bytes,
        peak_owners=_owners(outcome.held(peak.place)) if len(own) else (),
        left_bytes=int(own.size_bytes[left].sum()),
        left_owners=_owners(own.held(left, own.size_bytes)),
    )


def _owners(held: pa.Table) -> tuple[Owner, ...]:
    weight: Int64s = integers(held, BYTES)
    sums: dict[tuple[str | None, ...], int] = {}
    columns = [encode(held, name) for name in _TOLD]
    for row, size in enumerate(weight.tolist()):
        key = tuple(names[codes[row]] for codes, names in columns)
        sums[key] = sums.get(key, 0) + size
    ordered = sorted(sums.items(), key=lambda item: (-item[1], str(item[0])))
    return tuple(Owner(_words(key), total) for key, total in ordered)


def _words(key: tuple[str | None, ...]) -> str:
    source, module, operator, category = key
    said = [operator, f"module {module}" if module else None, category]
    details = ", ".join(word for word in said if word)
    return " · ".join(word for word in (source or "no Python line", details) if word)
