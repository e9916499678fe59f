"""`memtrace report`: one page with the timeline, live sets, lifetimes, segments and the ledger."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import IO, Any

from memtrace.analyse.failures import list_ooms
from memtrace.analyse.history import DeviceHistory, History, Limits, read_history
from memtrace.analyse.ledger import make_ledger
from memtrace.analyse.oom import post_mortem
from memtrace.analyse.summary import Summary, summarise
from memtrace.analyse.target import find_process, why_empty
from memtrace.errors import MemtraceError, readable
from memtrace.outputs import Selection
from memtrace.page.assemble import write_html
from memtrace.page.columns import ColumnPacker, Words
from memtrace.page.external import external_told
from memtrace.page.headline import headline, title
from memtrace.page.live_sets import listed_instants, pack_rows, pack_sums, site_words
from memtrace.page.segments import fragmentation_told, pack_segments
from memtrace.page.timeline import (
    listed_stages,
    pack_curve,
    pack_layers,
    pack_process_memory,
    pack_steps,
)
from memtrace.page.told import style_word, told
from memtrace.report.breakdown import external_text
from memtrace.report.losses import troubles
from memtrace.report.oom import oom_page
from memtrace.report.stages import ledger_page
from memtrace.report.summary import summary_page
from memtrace.trace import Process, Trace

#: Devices of processes that one page tells of: those with the largest peaks.
MOST_DEVICES = 16
_OWNERS_SHOWN = 15

STYLES = ("report.css",)
SCRIPTS = (
    "icicle.js",
    "scope.js",
    "table.js",
    "blocks.js",
    "headline.js",
    "chart.js",
    "plot.js",
    "timeline.js",
    "live.js",
    "range.js",
    "lifetimes.js",
    "segments.js",
    "report.js",
)


def write_report(trace: Trace, selection: Selection, out: IO[bytes]) -> None:
    """Writes the page.

    Raises:
        MemtraceError: the window holds no event, or there is no such process.
    """
    columns = ColumnPacker()
    document, name = _document(trace, selection, columns)
    write_html(
        out,
        template="report.html",
        title=name,
        document=document,
        columns=columns.packed(),
        styles=STYLES,
        scripts=SCRIPTS,
    )


def _document(
    trace: Trace, selection: Selection, columns: ColumnPacker
) -> tuple[dict[str, Any], str]:
    words = Words()
    summary = summarise(trace, device=selection.device)
    only = None if selection.process is None else find_process(trace, selection.process)
    scopes, left_out = _choose_scopes(summary, only)
    limits = replace(Limits().share(len(scopes)), large_bytes=selection.large_bytes)
    processes: list[dict[str, Any]] = []
    devices: list[dict[str, Any]] = []
    quiet: list[str] = []
    for process, used in _by_process(scopes):
        history = read_history(trace, process, used, limits, window_ns=selection.window_ns)
        with_events = [] if history is None else [device.device for device in history.devices]
        quiet += [f"{name} of {process}" for name in used if name not in with_events]
        if history is None:
            continue
        for device in history.devices:
            devices.append(
                {
                    "process": len(processes),
                    **_device(trace, history, device, selection, words, columns),
                }
            )
        processes.append(_process(history, words, columns))
    if selection.window_ns is not None and not devices and summary.empty is None:
        raise MemtraceError("no event lies in that window")
    devices.sort(
        key=lambda device: (
            device["device"] == "cpu",
            -device["headline"]["peak_bytes"],
            processes[device["process"]]["pid"],
        )
    )
    document = {
        "trace": readable(trace.path.resolve().name.removesuffix(".memtrace")),
        "window_ns": selection.window_ns,
        "only": [
            f"{chosen} (--{option})"
            for option, chosen in (("device", selection.device), ("process", only))
            if chosen is not None
        ],
        "empty": why_empty(trace) if not devices else None,
        "processes": processes,
        "devices": devices,
        "left_out": left_out,
        "quiet": quiet,
        "summary": told([*summary_page(summary), *_sampled(trace, summary)]),
        "losses": _losses(summary),
        "beside": _beside(summary),
        "words": columns.add_json(words.listed()),
    }
    return document, title([d["headline"] for d in devices], [d["device"] for d in devices], trace)


def _sampled(trace: Trace, summary: Summary) -> list[Any]:
    """The stages of a trace that has samples and no events."""
    if not summary.empty or not any(process.rss_peak for process in summary.processes):
        return []
    return ledger_page(make_ledger(trace), str(trace.path))[1:]


def _choose_scopes(summary: Summary, only: Process | None) -> tuple[list[tuple[Process, str]], int]:
    """Devices of processes that are told of, and how many are left out.

    Raises:
        MemtraceError: the one process asked for used none of them.
    """
    used = [
        (use.device == "cpu", -use.allocated.total_bytes, process.process, use.device)
        for process in summary.processes
        for use in process.devices
        if use.allocated is not None and (only is None or process.process.key == only.key)
    ]
    if only is not None and not used and summary.empty is None:
        raise MemtraceError(f"nothing was recorded of {only} to show")
    used.sort(key=lambda item: (item[0], item[1]))
    chosen = [(process, device) for _, _, process, device in used[:MOST_DEVICES]]
    return chosen, len(used) - len(chosen)


def _by_process(scopes: list[tuple[Process, str]]) -> list[tuple[Process, list[str]]]:
    found: dict[str, tuple[Process, list[str]]] = {}
    for process, device in scopes:
        found.setdefault(process.key, (process, []))[1].append(device)
    return list(found.values())


def _process(history: History, words: Words, columns: ColumnPacker) -> dict[str, Any]:
    process = history.process
    argv = process.argv
    return {
        "key": process.key,
        "pid": process.pid,
        "rank": process.rank,
        "command": None if argv is None else shlex.join(argv),
        "sites": columns.add_json(site_words(history.sites, words)),
        "stages": listed_stages(history),
        "steps": pack_steps(history, columns),
    }


def _device(
    trace: Trace,
    history: History,
    device: DeviceHistory,
    selection: Selection,
    words: Words,
    columns: ColumnPacker,
) -> dict[str, Any]:
    process, name = history.process, device.device
    return {
        "device": name,
        "headline": headline(trace, process, device, history.sites),
        "curve": pack_curve(device.curve, columns, reserves=name != "cpu"),
        "layers": pack_layers(device, words, columns),
        "process_memory": pack_process_memory(
            trace, process.key, name, selection.window_ns, columns
        ),
        "instants": listed_instants(device.instants),
        "rows": pack_rows(trace, process.key, device, words, columns),
        "segments": pack_segments(trace, process.key, name, words, columns),
        "fragmentation": fragmentation_told(trace, process, name, device.instants),
        "ledger": told(_ledger(trace, process, name)),
        "external": external_told(trace, process, name),
        "oom": _oom(trace, process, device),
        **pack_sums(device, columns),
    }


def _ledger(trace: Trace, process: Process, device: str) -> list[Any]:
    ledger = make_ledger(trace, device=device, process=process.key)
    return ledger_page(ledger, str(trace.path))[1:]


def _oom(trace: Trace, process: Process, device: DeviceHistory) -> list[dict[str, Any]]:
    """`memtrace oom` of the last failed request."""
    if not device.instants.totals["oom"]:
        return []
    found = post_mortem(
        trace, device=device.device, process=process.key, by="source", top=_OWNERS_SHOWN
    )
    every = list_ooms(trace, device=device.device, process=process.key)
    return [] if found is None else told(oom_page(found, every))


def _losses(summary: Summary) -> list[dict[str, str]]:
    """What is missing; nothing, where nothing is."""
    lines = troubles(summary, summary.processes)
    return [{"text": line.text.strip(), "style": style_word(line.style)} for line in lines]


def _beside(summary: Summary) -> list[dict[str, str]]:
    """Memory that torch's allocators did not give, which is in no total: of each device."""
    return [
        {"process": process.process.key, "device": use.device, "text": external_text(use.external)}
        for process in summary.processes
        for use in process.devices
        if use.external.total_bytes
    ]
