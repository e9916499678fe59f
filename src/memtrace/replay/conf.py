"""PYTORCH_ALLOC_CONF, read as torch reads it: what a replay needs of it, and what it does not.

The limits of each value are torch 2.11's own; tests/replay holds them against torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from memtrace.errors import MemtraceError
from memtrace.plain_json import to_json

MIB = 1 << 20
SIZE_CLASSES = 16

#: Keys that change nothing in where allocations lie, with what they change.
_WITHOUT_EFFECT = {
    "pinned_use_background_threads": "pinned memory of the host",
    "pinned_use_cuda_host_register": "pinned memory of the host",
    "pinned_use_hip_host_register": "pinned memory of the host",
    "pinned_num_register_threads": "pinned memory of the host",
    "pinned_reserve_segment_size_mb": "pinned memory of the host",
    "release_lock_on_cudamalloc": "which threads wait",
    "release_lock_on_hipmalloc": "which threads wait",
    "graph_capture_record_stream_reuse": "captures with record_stream, which are not simulated",
}


@dataclass(frozen=True)
class AllocatorConf:
    """What the allocator is told; each default is torch's own.

    Attributes:
        text: as it was given, without spaces.
        roundup_power2_divisions: by size class from 1 MiB, powers of two; 0: no rounding.
        memory_fraction: of the device, that the process may reserve from the beginning on.
        named: the keys that the text has.
        notes: what of the text a replay leaves out; one line each.
    """

    text: str = ""
    expandable_segments: bool = False
    max_split_bytes: int | None = None
    max_non_split_rounding_bytes: int = 20 * MIB
    large_segment_bytes: int = 20 * MIB
    garbage_collection_threshold: float = 0.0
    roundup_power2_divisions: tuple[int, ...] = (0,) * SIZE_CLASSES
    memory_fraction: float = 1.0
    named: frozenset[str] = field(default=frozenset(), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def changed_by(self, call: AllocatorConf) -> AllocatorConf:
        """After torch.cuda.memory._set_allocator_settings: what that does not name and torch does
        not reset stays as it was.

        Raises:
            MemtraceError: torch refuses the call.
        """
        persist = {
            "expandable_segments": "expandable_segments",
            "large_segment_size_mb": "large_segment_bytes",
            "max_non_split_rounding_mb": "max_non_split_rounding_bytes",
        }
        kept = {name: getattr(self, name) for key, name in persist.items() if key not in call.named}
        after = replace(call, **kept)
        if (after.max_split_bytes or after.large_segment_bytes) < after.large_segment_bytes:
            raise _wrong(
                self.text,
                f"the program then sets {call.text!r} itself, which torch refuses with it",
            )
        return after

    def settings_text(self) -> str:
        """As the text of a `settings` mark (hook/cuda.py), which the native side reads."""
        split = self.max_split_bytes
        return to_json(
            {
                "expandable_segments": self.expandable_segments,
                "max_split_size": -1 if split is None else split,
                "garbage_collection_threshold": self.garbage_collection_threshold,
                "roundup_power2_divisions": list(self.roundup_power2_divisions),
                "large_segment_size": self.large_segment_bytes,
                "max_non_split_rounding": self.max_non_split_rounding_bytes,
            }
        )


def parse_conf(text: str) -> AllocatorConf:
    """A line such as "expandable_segments:True,max_split_size_mb:128"; empty: all defaults.

    Raises:
        MemtraceError: torch would refuse it, or it asks for an allocator that is not this one.
    """
    text = re.sub(r"\s", "", text)
    text = re.sub(r"^(export)?PYTORCH_(CUDA_|HIP_)?ALLOC_CONF=", "", text).strip("\"'")
    words: dict[str, str] = {}
    notes: list[str] = []
    for word in _words(text):
        key, colon, value = word.partition(":")
        if not colon or not value:
            raise _wrong(text, f"{word!r} is not KEY:VALUE")
        words[key] = value
    large = _whole(text, words, "large_segment_size_mb", over=10, default=20)
    split = None
    if "max_split_size_mb" in words:
        split = _whole(text, words, "max_split_size_mb", over=large - 1, default=0) * MIB
    rounding = _whole(text, words, "max_non_split_rounding_mb", over=large - 1, default=20)
    for key in words:
        if key in _WITHOUT_EFFECT:
            notes.append(f"{key} is left out: it is about {_WITHOUT_EFFECT[key]}")
        elif key not in _KNOWN:
            raise _wrong(text, f"there is no key {key!r} (there are {', '.join(_KNOWN)})")
    if words.get("backend", "native") != "native":
        raise _wrong(text, f"the back end {words['backend']} is another allocator, which a replay "
                     "does not know; only backend:native can be replayed")  # fmt: skip
    return AllocatorConf(
        text=text,
        expandable_segments=_flag(text, words.get("expandable_segments", "False")),
        max_split_bytes=split,
        max_non_split_rounding_bytes=rounding * MIB,
        large_segment_bytes=large * MIB,
        garbage_collection_threshold=_share(
            text, words, "garbage_collection_threshold", 0.0, closed=False
        ),
        roundup_power2_divisions=_divisions(text, words.get("roundup_power2_divisions", "[]")),
        memory_fraction=_share(text, words, "per_process_memory_fraction", 1.0, closed=True),
        named=frozenset(words),
        notes=tuple(notes),
    )


_KNOWN = (
    "expandable_segments", "max_split_size_mb", "max_non_split_rounding_mb",
    "roundup_power2_divisions", "garbage_collection_threshold", "large_segment_size_mb",
    "per_process_memory_fraction", "backend",
)  # fmt: skip


def _wrong(text: str, why: str) -> MemtraceError:
    return MemtraceError(f"PYTORCH_ALLOC_CONF {text!r}: {why}")


def _words(text: str) -> list[str]:
    """Split at the commas that are in no list."""
    return re.split(r",(?![^\[]*\])", text.removesuffix(",")) if text else []


def _whole(text: str, words: dict[str, str], key: str, *, over: int, default: int) -> int:
    value = words.get(key, str(default))
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII) or (key in words and int(value) <= over):
        raise _wrong(text, f"{key} is a whole number above {over}, not {value!r}")
    return int(value)


def _flag(text: str, value: str) -> bool:
    if value not in ("True", "False"):
        raise _wrong(text, f"expandable_segments is True or False, not {value!r}")
    return value == "True"


def _share(text: str, words: dict[str, str], key: str, default: float, *, closed: bool) -> float:
    if key not in words:
        return default
    try:
        share = float(words[key])
    except ValueError:
        share = -1.0
    if not (0.0 <= share <= 1.0 if closed else 0.0 < share < 1.0):
        raise _wrong(text, f"{key} is a share of 1, not {words[key]!r}")
    return share


def _divisions(text: str, value: str) -> tuple[int, ...]:
    """One number for all sizes, or [256:1,512:2,>:8]: from how many MiB on, how many."""
    if not value.startswith("["):
        return (_power(text, value, least=1),) * SIZE_CLASSES
    if not value.endswith("]"):
        raise _wrong(text, f"roundup_power2_divisions: the list {value!r} has no end")
    found = [0] * SIZE_CLASSES
    last, first = 0, True
    for word in filter(None, value[1:-1].split(",")):
        size, _, number = word.partition(":")
        divisions = _power(text, number)
        if size == ">":
            found[last + 1 :] = [divisions] * len(found[last + 1 :])
            continue
        last = min(_power(text, size, least=1).bit_length() - 1, SIZE_CLASSES - 1)
        if first:
            found[:last] = [divisions] * last
            first = False
        found[last] = divisions
    return tuple(found)


def _power(text: str, value: str, *, least: int = 0) -> int:
    if re.fullmatch(r"\d{1,9}", value, re.ASCII):
        number = int(value)
        if number >= least and number & (number - 1) == 0:
            return number
    raise _wrong(
        text, f"roundup_power2_divisions: {value!r} is no power of two (8, or [256:1,512:2,>:8])"
    )
