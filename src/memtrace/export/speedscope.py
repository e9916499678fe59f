"""speedscope's own format (speedscope.app, file-format-schema.json): a profile for each device."""

from __future__ import annotations

import json
from typing import IO, Any

from memtrace import __version__
from memtrace.analyse.stack import Frame
from memtrace.export.held_stacks import Sample, held_stacks
from memtrace.outputs import Selection
from memtrace.trace import Trace

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def write_speedscope(trace: Trace, selection: Selection, out: IO[bytes]) -> None:
    """Bytes held at each device's peak, by stack, the largest first."""
    frames: dict[tuple[str, str | None, int | None], int] = {}
    profiles: list[dict[str, Any]] = []
    for device in held_stacks(trace, selection, "a speedscope profile"):
        stacks = [
            [frames.setdefault(frame, len(frames)) for frame in _frames(sample)]
            for sample in device.samples
        ]
        weights = [sample.held_bytes for sample in device.samples]
        profiles.append(
            {
                "type": "sampled",
                "name": f"{device.name}: held at the peak",
                "unit": "bytes",
                "startValue": 0,
                "endValue": sum(weights),
                "samples": stacks,
                "weights": weights,
            }
        )
    document = {
        "$schema": _SCHEMA,
        "exporter": f"memtrace {__version__}",
        "name": trace.path.name,
        "activeProfileIndex": 0,
        "shared": {"frames": [_described(*frame) for frame in frames]},
        "profiles": profiles,
    }
    out.write(json.dumps(document).encode())


def _frames(sample: Sample) -> list[tuple[str, str | None, int | None]]:
    found: list[tuple[str, str | None, int | None]] = [_key(frame) for frame in sample.frames]
    if "operator" in sample.labels:
        found.append((sample.labels["operator"], None, None))
    return found or [("(no stack)", None, None)]


def _key(frame: Frame) -> tuple[str, str, int]:
    return frame.function, frame.file, frame.line


def _described(name: str, file: str | None, line: int | None) -> dict[str, Any]:
    told: dict[str, Any] = {"name": name}
    if file is not None:
        told["file"] = file
    if line:
        told["line"] = line
    return told
