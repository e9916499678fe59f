"""Files of other tools that are no such, or nearly: mutated bytes, and strange values in good ones.

    python tests/fuzz/files.py --keep 20000

An input passes when the import gives a trace that can be opened, or one clear line. `--keep` makes
so many of each kind that is kept, and keeps the shortest of each way in which one was refused or
read (corpus/KIND.zip): what later inputs are made of, with the good files.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import pickle
import random
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.mutations import mutated
from fuzz.strange_values import ONLY_PICKLED, strange
from imports.chrome_trace.small_trace import EVENTS
from imports.torch_snapshot.golden import FORMS, pickled
from memtrace.errors import MemtraceError
from memtrace.export.chrome import write_chrome
from memtrace.finalise import finalise
from memtrace.imports.formats import format_of
from memtrace.imports.reader import convert
from memtrace.outputs import Selection
from memtrace.trace import open_trace
from trace_builder import serving_trace

CORPUS = Path(__file__).resolve().parent / "corpus"
_MPROF = Path(__file__).resolve().parent.parent / "imports" / "mprof" / "golden"
_FINALISED_SHARE = 0.1  # of those that could be read: a trace takes some time to write
_COMPRESSED_SHARE = 0.1
_LONGEST_KEPT_BYTES = 4096


def check_one(rng: random.Random, kind: str, folder: Path) -> str:
    """Makes one input and imports it; what came of it. Raises what a user must never see."""
    return "refused" if imported(KINDS[kind](rng), kind, rng, folder) else "read"


def imported(data: bytes, kind: str, rng: random.Random, folder: Path) -> str:
    """The line by which the import of this file is refused; empty: it is read."""
    path = folder / "input"
    path.write_bytes(data)
    trace_dir = folder / "t.memtrace"
    shutil.rmtree(trace_dir, ignore_errors=True)
    try:
        convert(path, trace_dir / "spool", format_of(path, kind))
        if rng.random() < _FINALISED_SHARE:
            finalise(trace_dir)
            open_trace(trace_dir).allocations.to_pylist()
    except MemtraceError as refusal:
        if not str(refusal) or "\n" in str(refusal):
            raise ValueError("not one line") from refusal
        return str(refusal)
    return ""


# ---- what they are made of ----------------------------------------------------------------------


def _snapshot(rng: random.Random) -> bytes:
    name = rng.choice(list(FORMS))
    if rng.random() < 0.5:
        return mutated(pickled(name), rng)
    value = strange(FORMS[name][1], rng, ONLY_PICKLED)
    return pickle.dumps(value, protocol=rng.randrange(2, 6))


def _chrome(rng: random.Random) -> bytes:
    data = rng.choice(_chrome_files())
    if rng.random() < 0.5:
        return _maybe_compressed(data, rng)
    try:
        value = strange(json.loads(data), rng)
    except (ValueError, RecursionError):  # of those that are kept
        value = strange(EVENTS, rng)
    return _maybe_compressed(json.dumps(value).encode(), rng, whole=rng.random() < 0.8)


def _mprof(rng: random.Random) -> bytes:
    data = rng.choice(_mprof_files())
    if rng.random() < 0.5:
        return _maybe_compressed(data, rng)
    lines = [strange(line.split(b" "), rng) for line in data.splitlines()]
    rng.shuffle(lines)
    words = [[w if isinstance(w, bytes) else str(w).encode(errors="replace") for w in line]
             for line in lines]  # fmt: skip
    return b"\n".join(map(b" ".join, words)) + rng.choice((b"\n", b""))


def _maybe_compressed(data: bytes, rng: random.Random, *, whole: bool = False) -> bytes:
    if rng.random() < _COMPRESSED_SHARE:
        packed = gzip.compress(data if whole else mutated(data, rng), 1, mtime=0)
        return mutated(packed, rng) if rng.random() < 0.5 else packed
    return data if whole else mutated(data, rng)


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "snapshot": _snapshot,
    "chrome": _chrome,
    "mprof": _mprof,
}


@functools.cache
def _chrome_files() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "x.json").open("w+b") as out:
        trace = open_trace(serving_trace(Path(folder) / "serving.memtrace"))
        write_chrome(trace, Selection(), out)
        out.seek(0)
        ours = out.read()
    plain = json.dumps(EVENTS).encode()
    return [plain, json.dumps({"traceEvents": EVENTS}).encode(), ours, *_kept("chrome")]


@functools.cache
def _mprof_files() -> list[bytes]:
    return [*(path.read_bytes() for path in sorted(_MPROF.glob("*.dat"))), *_kept("mprof")]


# ---- what is kept of them -----------------------------------------------------------------------


def _kept(kind: str) -> list[bytes]:
    with zipfile.ZipFile(CORPUS / f"{kind}.zip") as packed:
        return [packed.read(name) for name in sorted(packed.namelist())]


def _keep(kind: str, inputs: int) -> None:
    archive = CORPUS / f"{kind}.zip"
    if not archive.exists():
        zipfile.ZipFile(archive, "w").close()
    shortest: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        rng = random.Random(0)
        made = [*_kept(kind), *(KINDS[kind](rng) for _ in range(inputs))]
        for data in made:
            told = imported(data, kind, random.Random(1), Path(folder))
            way = re.sub(r"\d[\d,.]*|\(.*\)|'.*'|\".*\"", "", told)
            if len(data) <= _LONGEST_KEPT_BYTES and len(data) < len(shortest.get(way, data * 2)):
                shortest[way] = data
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for number, way in enumerate(sorted(shortest)):
            name = zipfile.ZipInfo(f"{number:03}")
            packed.writestr(name, shortest[way], zipfile.ZIP_DEFLATED)
    sys.stdout.write("".join(f"{kind}: {way or 'read'}\n" for way in sorted(shortest)))


def main() -> None:
    """Renews the kept corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=int, required=True, metavar="INPUTS")
    for kind in ("chrome", "mprof"):
        _keep(kind, parser.parse_args().keep)


if __name__ == "__main__":
    main()
