"""Runs of a real GPU that are kept: the trace and torch's own account of the same run, in a zip."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import memtrace
from exact.recording import Recording

_TORCH = "torch.json"
_TRACE = "t.memtrace"


def keep(run: Recording, path: Path) -> None:
    """Writes `path`: of torch's account what the comparisons read, no stacks."""
    account = dict(run.torch)
    for name, wanted in (("traces", _ENTRY), ("segments", _SEGMENT)):
        if name in account:
            account[name] = _only(account[name], wanted)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(_TORCH, json.dumps(account, separators=(",", ":"), default=str))
        folder = Path(run.trace.path)
        for part in sorted(folder.rglob("*")):
            if part.is_file():
                file.write(part, Path(_TRACE) / part.relative_to(folder))


def kept_run(path: Path, folder: Path) -> Recording:
    """What keep() wrote, unpacked into `folder`."""
    with zipfile.ZipFile(path) as file:
        file.extractall(folder)
    return Recording(
        memtrace.open(folder / _TRACE), json.loads((folder / _TORCH).read_text()), stderr=""
    )


_ENTRY = {"action", "addr", "size", "stream", "device_free"}
_SEGMENT = {"device", "address", "blocks", "state", "size", "requested_size"}


def _only(found: object, wanted: set[str]) -> object:
    """The same, at every depth without the keys that are not wanted."""
    if isinstance(found, dict):
        return {key: _only(value, wanted) for key, value in found.items() if key in wanted}
    if isinstance(found, (list, tuple)):
        return [_only(value, wanted) for value in found]
    return found
