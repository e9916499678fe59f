"""The machine's form of `memtrace live --once`; keys as as_json.py has them.

processes: each with process, pid, rank, program, state (starting, recording, paused; over: ended,
    killed, finished, gone, refused), why, exit_status, stage, step, step_name, step_running,
    time_ns, events, read_permille, lost_events (by kind; empty: nothing) and devices: the totals,
    the curves (the most in equal parts of the time until now) and holders by grouping: name (null:
    has none; of a category: not known yet), and bytes and blocks now and at the peak so far.
"""

from __future__ import annotations

from typing import Any

from memtrace.analyse.live_view import DeviceView, LiveView, ProcessView


def live_document(view: LiveView, *, device: str | None) -> dict[str, Any]:
    """One moment of a recording, exactly."""
    return {
        "trace": view.trace,
        "over": view.over,
        "processes": [_process(process, device) for process in view.processes],
    }


def _process(process: ProcessView, device: str | None) -> dict[str, Any]:
    return {
        "process": process.key,
        "pid": process.pid,
        "rank": process.rank,
        "program": process.program or None,
        "state": process.state,
        "why": process.why or None,
        "exit_status": process.exit_status,
        "stage": process.stage,
        "step": process.step or None,
        "step_name": process.step_name,
        "step_running": process.step_running,
        "time_ns": process.time_ns,
        "events": process.events,
        "read_permille": process.read_permille,
        "lost_events": dict(process.lost),
        "devices": [_device(d) for d in process.devices if device in (None, d.device)],
    }


def _device(device: DeviceView) -> dict[str, Any]:
    return {
        "device": device.device,
        "allocated_bytes": device.allocated_bytes,
        "active_bytes": device.active_bytes,
        "reserved_bytes": device.reserved_bytes,
        "peak_allocated_bytes": device.peak_bytes,
        "peak_time_ns": device.peak_time_ns,
        "peak_reserved_bytes": device.peak_reserved_bytes,
        "external_bytes": device.external_bytes,
        "device_total_bytes": device.total_bytes,
        "allocations": device.allocations,
        "frees": device.frees,
        "ooms": device.ooms,
        "allocated_curve_bytes": list(device.allocated_curve),
        "reserved_curve_bytes": list(device.reserved_curve),
        "holders": {
            by: [
                {
                    "name": holder.name,
                    "now_bytes": holder.now_bytes,
                    "now_blocks": holder.now_blocks,
                    "peak_bytes": holder.peak_bytes,
                    "peak_blocks": holder.peak_blocks,
                }
                for holder in device.top(by)
            ]
            for by in device.holders
        },
    }
