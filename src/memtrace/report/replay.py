"""`memtrace replay`: what the allocator would have done, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memtrace.analyse.counters import MEASURES
from memtrace.replay.conf import AllocatorConf
from memtrace.replay.device import Device
from memtrace.replay.engine import Failed, Replay, Run, asked_by
from memtrace.replay.least_capacity import LeastCapacity
from memtrace.replay.requests import Requests
from memtrace.replay.sweep import Sweep, Tried
from memtrace.report.losses import lost_lines
from memtrace.report.oom import asked_by as asked_text
from memtrace.report.page import FAINT, GOOD, TITLE, WARNING, Block, Column, Grid, Line
from memtrace.report.units import count, exact, size
from memtrace.whatif.change import Change


@dataclass(frozen=True)
class Answer:
    """All that was asked; `changes`: what of the requests is other than recorded."""

    replay: Replay
    changes: tuple[Change, ...] = ()
    sweep: Sweep | None = None
    least: LeastCapacity | None = None


def replay_page(answer: Answer) -> list[Block]:
    """The whole answer."""
    found = answer.replay
    requests = found.requests
    blocks: list[Block] = [
        Line(
            f"Replay of {count(len(requests), 'allocation')} on {requests.device} of "
            f"{requests.process}",
            TITLE,
        ),
        Line(f"  settings: {conf_text(found.conf)}"),
        Line(f"  device: {device_text(found.device)}"),
    ]
    blocks += [Line(f"  what if: {change.what}") for change in answer.changes]
    blocks += _verified(found)
    blocks += lost_lines(requests.process)
    blocks += [Line(""), _peaks(found), Line(""), *_end(found)]
    caveats = [
        *(found.conf.notes if found.conf is not None else ()),
        *(one for change in answer.changes for one in change.assumptions),
        *found.caveats,
    ]
    blocks += [Line(f"  note: {caveat}", FAINT) for caveat in caveats]
    if answer.sweep is not None:
        blocks += [Line(""), *_sweep(answer.sweep)]
    if answer.least is not None:
        blocks += [Line(""), *_least(answer.least)]
    return blocks


def conf_text(conf: AllocatorConf | None) -> str:
    """The settings in words."""
    if conf is None:
        return "the recording's own"
    return f"PYTORCH_ALLOC_CONF={conf.text}" if conf.text else "torch's defaults"


def device_text(device: Device) -> str:
    """Its size, and what is not torch's of it."""
    outside = f", of it not torch's {size(device.outside_bytes)}" if device.outside_bytes else ""
    return f"{size(device.total_bytes)}{outside}"


def failed_text(requests: Requests, failed: Failed) -> str:
    """A request that fails: "640 MiB at event 1,234, asked for by aten::mm (model.py:88 f)"."""
    asked = asked_by(requests, failed)
    by = "" if asked is None else f", asked for by {asked_text(asked)}"
    return f"{exact(failed.size_bytes)} at event {failed.place:,.0f}{by}"


def bytes_text(low: int, high: int) -> str:
    """A size, or the two that it is between."""
    return size(low) if low == high else f"{size(low)} to {size(high)}"


def _verified(found: Replay) -> Iterator[Line]:
    verification = found.verification
    if verification is None or verification.divergence is not None:
        return  # among the caveats
    yield Line(
        "  verified: under its own settings the recording is reproduced, "
        f"{count(verification.compared, 'segment event')} one for one",
        GOOD,
    )


def _peaks(found: Replay) -> Grid:
    columns = [Column("Peak of"), Column("Recorded", right=True)]
    if not found.as_recorded:
        columns += [Column("Predicted", right=True), Column("Change", right=True)]
    rows = []
    for of in MEASURES:
        low, high = (peak.total_bytes for peak in found.peak(of))
        recorded = found.recorded.get(of)
        row = [of, "" if recorded is None else size(recorded)]
        if not found.as_recorded:
            row += [bytes_text(low, high), "" if recorded is None else _change(recorded, high)]
        rows.append(tuple(row))
    return Grid(tuple(columns), tuple(rows), indent=2)


def _change(before: int, after: int) -> str:
    if after == before:
        return "="
    return f"{'+' if after > before else '-'}{size(abs(after - before))}"


def _end(found: Replay) -> Iterator[Line]:
    run = max(found.runs, key=lambda run: run.peaks["reserved"].total_bytes)
    peak = run.peaks["reserved"]
    yield Line(
        f"  when most was reserved (event {peak.place:,.0f}): "
        f"{count(run.segments, 'segment')}, {size(run.unused_bytes)} of them unused, the largest "
        f"piece {size(run.largest_unused_bytes)}"
    )
    retries = sorted({run.retries for run in found.runs})
    if retries != [0]:
        yield Line(f"  the device was full {_times(retries)}, and cached memory went back to it")
    yield from _failures(found, run)


def _failures(found: Replay, run: Run) -> Iterator[Line]:
    failed = found.first_failed
    if failed is not None:
        where = "" if all(run.failed for run in found.runs) else " (with some addresses)"
        yield Line(
            f"  out of memory{where}: {failed_text(found.requests, failed)}; nothing is known of "
            "what comes after it",
            WARNING,
        )
    elif not found.as_recorded:
        yield Line("  every other request is served" if run.repeated_failures else
                   "  every request is served", GOOD)  # fmt: skip
    if run.repeated_failures:
        yield Line(f"  {count(run.repeated_failures, 'request')} that failed in the recording fail")
    for passed in run.passed[:1]:
        yield Line(
            f"  {count(len(run.passed), 'request')} that failed in the recording would be served, "
            f"the first of {failed_text(found.requests, passed)}; it is freed at once here",
            GOOD,
        )


def _times(numbers: Sequence[int]) -> str:
    """How often, by all predictions: "once", "3 to 4 times"."""
    return "once" if [*numbers] == [1] else " to ".join(f"{one:,}" for one in numbers) + " times"


def _sweep(found: Sweep) -> Iterator[Block]:
    yield Line("Settings:", TITLE)
    columns = (
        Column("PYTORCH_ALLOC_CONF", wide=True),
        Column("Reserved", right=True),
        Column("Change", right=True),
        Column("Retries", right=True),
        Column("Out of memory", wide=True),
    )
    own = found.own
    rows = [_tried(found, one) for one in (own, *found.tried)]
    yield Grid(columns, tuple(rows), indent=2)
    best = found.best
    if best is None or best.conf is None:
        yield Line("  none reserves less than the recording's own settings", GOOD)
        return
    what = f"PYTORCH_ALLOC_CONF={best.conf.text}" if best.conf.text else "no PYTORCH_ALLOC_CONF"
    if own.completes:
        of = f"{size(found.saved_bytes)} less reserved than {size(own.reserved_bytes)}"
    else:
        of = "every request is served"
    yield Line(f"  {what}: {of}", GOOD)


def _tried(found: Sweep, one: Tried) -> tuple[str, ...]:
    low = min(run.peaks["reserved"].total_bytes for run in one.runs)
    failed = min((run.failed[0] for run in one.runs if run.failed), key=lambda f: f.request,
                 default=None)  # fmt: skip
    conf = one.conf
    return (
        "(the recording's own)" if conf is None else conf.text or "(torch's defaults)",
        bytes_text(low, one.reserved_bytes),
        "" if conf is None else _change(found.own.reserved_bytes, one.reserved_bytes),
        f"{one.retries:,}",
        "no" if failed is None else f"at event {failed.place:,.0f}",
    )


def _least(found: LeastCapacity) -> Iterator[Line]:
    low, high = found.low, found.high
    sizes = (
        exact(high.total_bytes)
        if low.total_bytes == high.total_bytes
        else f"{exact(low.total_bytes)} to {exact(high.total_bytes)}"
    )
    outside = f", of it not torch's {size(found.outside_bytes)}" if found.outside_bytes else ""
    yield Line(f"The smallest device that serves every request: {sizes}{outside}", TITLE)
    run = high.run
    if run.retries:
        yield Line(
            f"  there the device is full {_times([run.retries])}, and cached memory goes back to it"
        )
    if high.fails is not None:
        yield Line(f"  with 1 MiB less it fails at {failed_text(found.requests, high.fails)}")
