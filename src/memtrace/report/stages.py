"""`memtrace stages`: of each device a table of its stages, then each stage's sum, line by line."""

from __future__ import annotations

from typing import Any

from memtrace.analyse.ledger import BatchPeak, DeviceLedger, Instant, Ledger, StageLedger
from memtrace.analyse.ledger_lines import (
    BESIDE,
    GAP,
    NO_CATEGORY,
    TOTAL,
    Line,
)
from memtrace.categories import CATEGORIES
from memtrace.errors import encodable, readable
from memtrace.report.losses import lost_lines
from memtrace.report.page import FAINT, TITLE, Block, Column, Grid
from memtrace.report.page import Line as Text
from memtrace.report.units import count, duration, size
from memtrace.trace_json import parsed_object

#: The lines in their order, in words. What only one of two instants has stands in its place.
_WORDS = {
    **{category: category.replace("_", " ") for category in CATEGORIES},
    NO_CATEGORY: "no category",
    "unmatched": "in no recorded allocation",
    "allocated": "allocated",
    "tensors": "tensors",
    "awaiting_stream": "freed, a stream still uses it",
    "active": "active",
    "split_remainders": "unused, beside blocks in use",
    "cached_segments": "unused, whole segments (cached)",
    "reserved": "reserved",
    "reserved_between": "reserved until it was sampled",
    "tensors_between": "tensors until it was sampled",
    "not_resident": "mapped, not resident",
    "context": "CUDA context and libraries",
    "process": "this process (NVML)",
    "others": "other processes, driver",
    "context_and_others": "context, libraries, other processes",
    "device_used": "device, used",
    "device_free": "free",
    "device_total": "device, all of it",
    "python_and_other": "Python, libraries and all other",
    "rss": "resident (RSS)",
    "rounding": "rounding to blocks",
    "graph_pools_reserved": "reserved by CUDA graph pools",
    "graph_pools_allocated": "allocated in CUDA graph pools",
    "mempools_reserved": "reserved by other memory pools",
    "mempools_allocated": "allocated in other memory pools",
    "pinned": "pinned host memory",
    "external_host": "not from torch: other allocators",
    "external_mapped": "not from torch: mapped files",
    "external_shared": "not from torch: shared memory",
    "residency_unknown": "residency not known",
    "pss": "PSS: shared pages divided",
    "uss": "USS: without shared pages",
    "container_usage": "container, used",
    "container_inactive_file": "of it file cache, inactive",
    "container_peak": "container, peak",
    "container_limit": "container, limit",
}
_ORDER = {name: place for place, name in enumerate(_WORDS)}
# Memory that was allocated and never written to is not resident.
_UNTOUCHED = "never touched, less Python and other"
_LARGEST = {
    "rss_bytes": "RSS", "process_bytes": "process", "container_usage_bytes": "container",
}  # fmt: skip
# How far off a sample may be without a word. What is in no sum is looked at less often.
_SAME_MOMENT_NS, _SAME_SECOND_NS = 5_000_000, 1_000_000_000
_BATCHES_SHOWN = 20
_NONE = "-"


def ledger_page(ledger: Ledger, path: str) -> list[Block]:
    """Overview, ratio by batch size and every stage's sum, a device at a time."""
    blocks: list[Block] = [Text(f"memtrace: {readable(path)}: stages of {ledger.process}", TITLE)]
    if ledger.others:
        others = ", ".join(str(process.pid) for process in ledger.others[:8])
        more = " and more" if len(ledger.others) > 8 else ""
        blocks.append(Text(f"  other processes (--process): {others}{more}", FAINT))
    blocks += lost_lines(ledger.process)
    for device in ledger.devices:
        blocks += [Text(""), *_device_blocks(device)]
    return blocks


def _device_blocks(device: DeviceLedger) -> list[Block]:
    name = f" ({device.device_name})" if device.device_name else ""
    blocks: list[Block] = [Text(f"{device.device}{name}", TITLE), _overview(device)]
    if device.left_out:
        left = count(device.left_out, "other stage")
        blocks.append(Text(f"  {left} with smaller peaks left out (--top)", FAINT))
    if device.batches:
        blocks += [Text(""), *_batch_blocks(device)]
    for stage in device.stages:
        blocks += [Text(""), *_stage_blocks(device, stage)]
    return blocks


def _overview(device: DeviceLedger) -> Grid:
    cpu = device.device == "cpu"
    held, system = ("tensors", "rss") if cpu else ("allocated", "process")
    columns = (
        Column("Stage", wide=True),
        Column("Lasted", right=True),
        Column("Peak", right=True),
        Column("At the end", right=True),
        *(() if cpu else (Column("Reserved", right=True),)),
        Column("RSS" if cpu else "Process", right=True),
        *((Column("Batch", right=True),) if device.batches else ()),
    )
    rows = []
    for ledger in device.stages:
        reserved = [] if cpu else [_size(ledger.peak.size_bytes("reserved"))]
        batch = (ledger.peak_step or {}).get("batch_size")
        batch_cell = ["" if batch is None else f"{batch:,}"] if device.batches else []
        rows.append(
            (
                _name(ledger),
                duration(ledger.stage.end_time_ns - ledger.stage.start_time_ns),
                _size(ledger.peak.size_bytes(held)),
                _size(ledger.end.size_bytes(held)),
                *reserved,
                _size(ledger.peak.size_bytes(system)),
                *batch_cell,
            )
        )
    return Grid(columns, tuple(rows), indent=2)


def _name(ledger: StageLedger) -> str:
    name = ledger.stage.name
    return name if ledger.count == 1 else f"{name} (largest of {ledger.count:,})"


def _batch_blocks(device: DeviceLedger) -> list[Block]:
    idle = device.idle_bytes
    since = "at the end of idle" if device.idle_is_stage else "before the first call"
    over = "" if idle is None else f", over idle ({size(idle)}, {since})"
    shown = device.batches[-_BATCHES_SHOWN:]
    blocks: list[Block] = [
        Text(f"{device.device}: peak allocated by batch size{over}", TITLE),
        Grid(
            (
                Column("Batch", right=True),
                Column("Calls", right=True),
                Column("Peak", right=True),
                Column("Over idle", right=True),
                Column("Peak : idle", right=True),
            ),
            tuple(_batch_row(batch, idle) for batch in shown),
            indent=2,
        ),
    ]
    if len(shown) < len(device.batches):
        left = count(len(device.batches) - len(shown), "smaller size")
        blocks.append(Text(f"  {left} left out", FAINT))
    return blocks


def _batch_row(batch: BatchPeak, idle: int | None) -> tuple[str, ...]:
    return (
        "not known" if batch.batch_size is None else f"{batch.batch_size:,}",
        f"{batch.steps:,}",
        size(batch.peak_bytes),
        "" if idle is None else _signed(batch.peak_bytes - idle),
        f"{batch.peak_bytes / idle:.2f}" if idle else "",
    )


def _stage_blocks(device: DeviceLedger, ledger: StageLedger) -> list[Block]:
    title = f"{device.device}, {_name(ledger)}: peak at {duration(ledger.peak.time_ns)}"
    blocks: list[Block] = [Text(title, TITLE)]
    if ledger.peak_step:
        blocks.append(Text(f"  in {_step_text(ledger.peak_step)}"))
    blocks.append(_sum_grid(ledger.peak, ledger.end))
    largest = ", ".join(f"{_LARGEST[name]} {size(value)}" for name, value in ledger.largest.items())
    if largest:
        blocks.append(Text(f"  largest sampled in the stage: {largest}", FAINT))
    return blocks


def _step_text(step: dict[str, Any]) -> str:
    words = [f"call {step['step']:,} of {step['root_module'] or 'a model'}"]
    if step["name"]:
        words = [f"{step['name']}, step {step['step']:,}"]
    if step["batch_size"] is not None:
        words.append(f"batch {step['batch_size']:,}")
    words += [
        encodable(f"{name} {'x'.join(map(str, shape))}")
        for name, shape in list(parsed_object(step["input_shapes"]).items())[:4]
        if isinstance(shape, list)
    ]
    return ", ".join(words)


def _sum_grid(peak: Instant, end: Instant) -> Grid:
    at_peak, at_end = ({line.name: line for line in instant.lines} for instant in (peak, end))
    names = sorted({**at_peak, **at_end}, key=lambda name: _ORDER.get(name, _ORDER["other"]))
    rows: list[tuple[str, ...]] = []
    faint: set[int] = set()
    notes: set[str] = set()  # that of the process holds for its device
    for name in names:
        lines = [lines[name] for lines in (at_peak, at_end) if name in lines]
        kind = lines[0].kind
        if kind != TOTAL and not any(line.size_bytes or line.why for line in lines):
            continue
        if kind == BESIDE:
            faint.add(len(rows))
        cells = [_cell(lines.get(name), kind) for lines in (at_peak, at_end)]
        note = _note(at_peak.get(name), at_end.get(name))
        rows.append((_label(name, kind, lines), *cells, "" if note in notes else note))
        notes.add(note)
    columns = (
        Column("", wide=True),
        Column("At the peak", right=True),
        Column("At the end", right=True),
        Column("", wide=True),
    )
    return Grid(columns, tuple(rows), frozenset(faint), indent=2)


def _label(name: str, kind: str, lines: list[Line]) -> str:
    words = _WORDS.get(name, name.replace("_", " "))
    if name == "python_and_other" and all((line.size_bytes or 0) < 0 for line in lines):
        words = _UNTOUCHED
    if kind == BESIDE:
        words = f"({words})"
    return f"{'=' if kind == TOTAL else ' '} {words}"


def _cell(line: Line | None, kind: str) -> str:
    if line is None:
        return ""
    if line.size_bytes is None:
        return _NONE
    return _signed(line.size_bytes) if kind == GAP else size(line.size_bytes)


def _note(peak: Line | None, end: Line | None) -> str:
    why = next((line.why for line in (peak, end) if line is not None and line.why), None)
    if why:
        return f"not sampled: {why}" if "not recorded" not in why else why
    if peak is not None and peak.kind == GAP:
        return ""  # the total below says it
    told = []
    for word, line in (("peak", peak), ("end", end)):
        if line is not None and line.off_ns is not None:
            untold_ns = _SAME_SECOND_NS if line.kind == BESIDE else _SAME_MOMENT_NS
            told += [f"{word}{_off(line.off_ns)}"] if abs(line.off_ns) > untold_ns else []
    return f"sampled {', '.join(told)}" if told else ""


def _off(off_ns: int) -> str:
    milliseconds = round(off_ns / 1e6)
    if abs(milliseconds) < 10_000:
        return f" {milliseconds:+,} ms"
    return f" {milliseconds / 1e3:+,.0f} s"


def _size(value: int | None) -> str:
    return _NONE if value is None else size(value)


def _signed(value: int) -> str:
    return f"+{size(value)}" if value > 0 else size(value)
