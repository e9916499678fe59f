"""Numbers as people read them; exact ones are in the JSON."""

from __future__ import annotations

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(total_bytes: int) -> str:
    """Binary units, three or four digits: "512 B", "1.50 KiB", "640 MiB"."""
    if abs(total_bytes) < 1024:
        return f"{total_bytes} B"
    value, unit = float(total_bytes), 0
    # 1023.6 MiB would print as 1024 MiB: it is a GiB.
    while abs(value) >= 1023.5 and unit < len(_BINARY) - 1:
        value /= 1024
        unit += 1
    digits = 2 if abs(value) < 99.995 else 1 if abs(value) < 999.95 else 0
    return f"{value:.{digits}f} {_BINARY[unit]}"


def exact(total_bytes: int) -> str:
    """A size with the bytes themselves: "1.50 KiB (1,536 bytes)"."""
    if abs(total_bytes) < 1024:
        return count(total_bytes, "byte")
    return f"{size(total_bytes)} ({total_bytes:,} bytes)"


def duration(time_ns: int) -> str:
    """A span or an instant: "850 ns", "1.250 ms", "12.345 s", "3 min 04.5 s"."""
    if abs(time_ns) < 1_000:
        return f"{time_ns} ns"
    if abs(time_ns) < 1_000_000:
        return f"{time_ns / 1e3:.3f} us"
    if abs(time_ns) < 1_000_000_000:
        return f"{time_ns / 1e6:.3f} ms"
    seconds = time_ns / 1e9
    if seconds < 120:
        return f"{seconds:.3f} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 120:
        return f"{minutes:.0f} min {seconds:04.1f} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:.0f} h {minutes:02.0f} min {seconds:02.0f} s"


def percent(permille: int) -> str:
    """A share in percent, one decimal."""
    return f"{permille / 10:.1f} %"


def count(number: int, noun: str) -> str:
    """A number of things: "1 block", "1,024 blocks"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
