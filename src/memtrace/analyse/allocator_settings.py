"""The settings of torch's CUDA caching allocator, as a recording has them.

A trace may be of anyone's making. The limits are those that csrc/analyse/allocator_settings.cpp
reads with, and have to be changed in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memtrace.trace import Process
from memtrace.trace_json import parsed_object

MIB = 1 << 20
SMALL_PAGE_BYTES = 2 * MIB
_LARGE_SEGMENT_BYTES = 20 * MIB
_LEAST_OWN_SEGMENT_BYTES = 10 * MIB
_MOST_BYTES = 1 << 48
_MOST_DIVISIONS = 1 << 30


def allocator_settings(process: Process) -> dict[str, Any]:
    """By the names of a `settings` mark; without what is not there, null, or torch would refuse."""
    found = parsed_object(process.row.get("allocator_settings"))
    return {
        name: found[name] for name, is_possible in _POSSIBLE.items() if is_possible(found.get(name))
    }


def large_segment_bytes(process: Process) -> int:
    """What the allocator takes of the device for a request of more than 1 and less than 10 MiB."""
    return int(allocator_settings(process).get("large_segment_size", _LARGE_SEGMENT_BYTES))


def page_bytes(small: bool, process: Process) -> int:
    """How much an expandable segment grows and shrinks by."""
    return SMALL_PAGE_BYTES if small else large_segment_bytes(process)


def _bytes_from(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= _MOST_BYTES


def _are_divisions(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(n) is int and 0 <= n <= _MOST_DIVISIONS and n & (n - 1) == 0 for n in value
    )


_POSSIBLE: dict[str, Callable[[Any], bool]] = {
    "conf": lambda value: isinstance(value, str),
    "blocks_only": lambda value: isinstance(value, bool),
    "expandable_segments": lambda value: isinstance(value, bool),
    "max_split_size": _bytes_from(0),
    "large_segment_size": _bytes_from(_LEAST_OWN_SEGMENT_BYTES),
    "max_non_split_rounding": _bytes_from(1),
    "garbage_collection_threshold": lambda value: isinstance(value, float) and 0 < value < 1,
    "roundup_power2_divisions": _are_divisions,
}
