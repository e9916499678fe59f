"""What the terminal shows of a device, as styled text of a given size."""

from __future__ import annotations

from itertools import groupby

from rich.text import Text

from memtrace.analyse.live_view import DeviceView
from memtrace.errors import without_controls
from memtrace.report.live import HEADINGS, holder_name
from memtrace.report.units import size

#: Columns of the chart that its scale takes.
SCALE_COLUMNS = 10
_NUMBER_COLUMNS = 9
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_FULL = 8
_ALLOCATED, _RESERVED, _FAINT = "cyan", "grey37", "dim"


def chart(device: DeviceView, *, width: int, height: int) -> Text:
    """Allocated bytes as a filled curve, reserved ones behind it; time goes to the right."""
    columns = max(width - SCALE_COLUMNS - 1, 1)
    allocated = _fitted(device.allocated_curve, columns)
    reserved = _fitted(device.reserved_curve, columns)
    most = max(*allocated, *reserved, 1)
    text = Text(no_wrap=True)
    for row in reversed(range(height)):
        label = size(most) if row == height - 1 else "0 B" if row == 0 else ""
        text.append(f"{label:>{SCALE_COLUMNS}} ", _FAINT)
        cells = [
            _cell(held, kept, most=most, row=row, height=height)
            for held, kept in zip(allocated, reserved, strict=True)
        ]
        for style, run in groupby(cells, key=lambda cell: cell[1]):
            text.append("".join(sign for sign, _ in run), style)
        if row:
            text.append("\n")
    return text


def _cell(held: int, kept: int, *, most: int, row: int, height: int) -> tuple[str, str]:
    below = _eighths(held, most, height) - row * _FULL
    behind = _eighths(kept, most, height) - row * _FULL
    if below >= _FULL:
        return _EIGHTHS[_FULL], _ALLOCATED
    if below > 0:
        style = f"{_ALLOCATED} on {_RESERVED}" if behind >= _FULL else _ALLOCATED
        return _EIGHTHS[below], style
    return _EIGHTHS[max(min(behind, _FULL), 0)], _RESERVED


def _eighths(total_bytes: int, most: int, height: int) -> int:
    # What holds anything is seen.
    return -(-total_bytes * height * _FULL // most)


def _fitted(curve: tuple[int, ...], columns: int) -> list[int]:
    """As many values as columns: the most in each."""
    if not curve:
        return [0] * columns
    ends = [max((column + 1) * len(curve) // columns, 1) for column in range(columns)]
    starts = [min(column * len(curve) // columns, len(curve) - 1) for column in range(columns)]
    return [max(curve[a : max(b, a + 1)]) for a, b in zip(starts, ends, strict=True)]


def holders_table(device: DeviceView, by: str, *, at_peak: bool, width: int, height: int) -> Text:
    """The largest holders of a grouping, a line each, now and at the peak so far."""
    name_columns = max(width - 2 * (_NUMBER_COLUMNS + 1), 1)
    now, peak = ("Now", "Peak ▼") if at_peak else ("Now ▼", "Peak")
    text = Text(no_wrap=True)
    text.append(_line(HEADINGS[by], now, peak, name_columns), "bold")
    holders = device.top(by, at_peak=at_peak)
    room = max(height - 1, 0)
    shown = holders if len(holders) <= room else holders[: max(room - 1, 0)]
    for holder in shown:
        line = _line(
            without_controls(holder_name(holder, by)),
            size(holder.now_bytes),
            size(holder.peak_bytes),
            name_columns,
        )
        text.append("\n" + line, _FAINT if holder.name is None else "")
    if len(shown) < len(holders) and room:
        rest = holders[len(shown) :]
        line = _line(
            f"… {len(rest):,} more",
            size(sum(holder.now_bytes for holder in rest)),
            size(sum(holder.peak_bytes for holder in rest)),
            name_columns,
        )
        text.append("\n" + line, _FAINT)
    return text


def _line(name: str, now: str, peak: str, name_columns: int) -> str:
    # Of a long path the end says more: "…encoder.layers.3.mlp".
    cut = name if len(name) <= name_columns else "…" + name[len(name) - name_columns + 1 :]
    return f"{cut:<{name_columns}} {now:>{_NUMBER_COLUMNS}} {peak:>{_NUMBER_COLUMNS}}"
