"""Predictions from one recording against real runs: other settings, smaller devices, the smallest.

    python benchmarks/replay/predictions.py [PROGRAM ...] [--part settings|capacity|least]

Each program of tests/programs/cuda is recorded once under torch's defaults, on the simulated CUDA
runtime, or on a real GPU where there is one. What a replay of that predicts is held against runs
that really have the other settings, or the smaller device. `=`: exact; `in`: inside the predicted
range; `not`: what was predicted instead. A program whose threads race, or that catches the failure
and goes on otherwise, can be off, and is marked "adapts"; any other must not: then the status is 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import memtrace
import simcuda
from exact.recording import PROGRAMS, constants, program_names
from memtrace.errors import MemtraceError
from memtrace.replay.conf import AllocatorConf, parse_conf
from memtrace.replay.device import recorded_device
from memtrace.replay.engine import Replayer, Run, verify
from memtrace.replay.least_capacity import least_capacity
from memtrace.replay.requests import Requests, read_requests

CONFS = (
    "expandable_segments:True",
    "roundup_power2_divisions:4",
    "max_split_size_mb:32",
    "garbage_collection_threshold:0.6,per_process_memory_fraction:0.9",
    "large_segment_size_mb:64",
)
SHARES = (0.9, 0.75, 0.6)  # of the peak of reserved memory
MIB = 1 << 20


@dataclass(frozen=True)
class Facts:
    """What is compared of a run: peaks, retries, and the number of the first failed allocation."""

    reserved_bytes: int
    allocated_bytes: int
    retries: int
    failed: int | None


@dataclass(frozen=True)
class Row:
    """A prediction, by both orders of addresses, and what came of it."""

    program: str
    device: str
    what: str
    predicted: tuple[Facts, ...]
    real: Facts
    adapts: bool

    def told(self, name: str) -> str:
        """One fact: what it was, and whether that was predicted."""
        guesses = sorted({getattr(facts, name) for facts in self.predicted}, key=lambda v: v or 0)
        real = getattr(self.real, name)
        shown = _shown(name, real)
        if guesses == [real]:
            return f"{shown} ="
        if real in guesses or (None not in (*guesses, real) and guesses[0] <= real <= guesses[-1]):
            return f"{shown} in"
        return f"{shown} not {' to '.join(_shown(name, guess) for guess in guesses)}"

    @property
    def verdict(self) -> str:
        """exact, in range, or off."""
        told = [self.told(name) for name in Facts.__dataclass_fields__]
        if any(" not " in one for one in told):
            return "off"
        return "exact" if all(one.endswith(" =") for one in told) else "in range"


def _shown(name: str, value: int | None) -> str:
    if value is None:
        return "none"
    return f"{value / MIB:.1f}" if name.endswith("_bytes") else f"{value:,}"


def record(program: str, folder: Path, *, conf: str = "", memory_mb: int | None = None) -> Path:
    """A run under memtrace; that the program fails is no error."""
    facts = constants(program)
    machine = simcuda.Machine(devices=facts["DEVICES"], memory_mb=memory_mb or facts["MEMORY_MB"])
    around = os.environ if simcuda.real_gpu() else simcuda.environment(machine)
    environment = {**around, "PYTHONWARNINGS": "ignore"}
    environment.pop("PYTORCH_ALLOC_CONF", None)
    if conf:
        environment["PYTORCH_ALLOC_CONF"] = conf
    name = f"{program}-{conf.replace(':', '_').replace(',', '_')}-{memory_mb}.memtrace"
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "--force", "-o", str(folder / name)]
    subprocess.run(
        [*argv, str(PROGRAMS / f"{program}.py")],
        env=environment, capture_output=True, timeout=600, check=False, cwd=folder,
    )  # fmt: skip
    return folder / name


def real_facts(path: Path, device: str) -> Facts | None:
    """Of a run that really happened; None where it never used the device."""
    trace = memtrace.open(path)
    if device not in trace.devices:
        return None
    requests = read_requests(trace, device=device)
    found = verify(requests)
    assert found.divergence is None, path
    first = min((failure.place for failure in requests.failures), default=None)
    return _facts(found.run, None if first is None else int((requests.start < first).sum()))


def predicted_facts(run: Run) -> Facts:
    """Of a replay. Allocations are numbered as they come."""
    return _facts(run, run.failed[0].row if run.failed else None)


def _facts(run: Run, failed: int | None) -> Facts:
    peaks = run.peaks
    return Facts(peaks["reserved"].total_bytes, peaks["allocated"].total_bytes, run.retries, failed)


def compare(
    requests: Requests, what: str, runs: Sequence[Run], real: Path, program: str
) -> Iterator[Row]:
    """The row, where the real run used the device."""
    facts = real_facts(real, requests.device)
    if facts is not None:
        told = constants(program)
        adapts = not told["SINGLE_THREADED"] or told["REACTS_TO_OOM"]
        predicted = tuple(predicted_facts(run) for run in runs)
        yield Row(program, requests.device, what, predicted, facts, adapts)


def with_settings(program: str, source: list[Requests], folder: Path) -> Iterator[Row]:
    """Each of CONFS."""
    for text in CONFS:
        conf: AllocatorConf = parse_conf(text)
        try:
            runs = [Replayer(requests).both(conf) for requests in source]
        except MemtraceError:  # what the program sets itself is refused with it
            continue
        real = record(program, folder, conf=text)
        for requests, found in zip(source, runs, strict=True):
            yield from compare(requests, text, found, real, program)


def with_less(program: str, source: list[Requests], folder: Path) -> Iterator[Row]:
    """A device with room for each of SHARES of the peak."""
    if len(source) > 1:
        return
    (requests,) = source
    peak = verify(requests).run.peaks["reserved"].total_bytes
    device = recorded_device(requests)
    for share in SHARES:
        total_mb = int(peak * share + device.outside_bytes) // MIB
        runs = Replayer(requests, device=device.of_size(total_mb * MIB)).both()
        real = record(program, folder, memory_mb=total_mb)
        yield from compare(requests, f"{share:.0%} of the peak", runs, real, program)


def with_least(program: str, source: list[Requests], folder: Path) -> Iterator[Row]:
    """The least device that is predicted to do, and one of 1 MiB less than the lower end."""
    if len(source) > 1:
        return
    (requests,) = source
    found = least_capacity(requests)
    device = recorded_device(requests)
    for what, total_mb in (
        ("least", found.high.total_bytes // MIB), ("1 MiB less", found.low.total_bytes // MIB - 1),
    ):  # fmt: skip
        runs = Replayer(requests, device=device.of_size(total_mb * MIB)).both()
        real = record(program, folder, memory_mb=total_mb)
        yield from compare(requests, f"{what}: {total_mb} MiB", runs, real, program)


# A thread that fails leaves the others of these programs waiting for ever.
ENDLESS = {"threads"}
PARTS = {"settings": with_settings, "capacity": with_less, "least": with_least}


def rows_of(program: str, parts: Sequence[str], folder: Path) -> list[Row]:
    """All that is asked of one program."""
    trace = memtrace.open(record(program, folder))
    source = [read_requests(trace, device=d) for d in sorted(trace.devices) if d != "cpu"]
    asked = [part for part in parts if part == "settings" or program not in ENDLESS]
    return [row for part in asked for row in PARTS[part](program, source, folder)]


def _runs_here(program: str) -> bool:
    """A real GPU is one, and has the size it has."""
    facts = constants(program)
    of_any_size = "MEMORY_MB" not in (PROGRAMS / f"{program}.py").read_text()
    return not simcuda.real_gpu() or (facts["DEVICES"] == 1 and of_any_size)


def main() -> int:
    """Prints one line per prediction and a summary; status 1 when one is off without an excuse."""
    parser = argparse.ArgumentParser()
    parser.add_argument("programs", nargs="*")
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="keeps the traces there")
    options = parser.parse_args()
    programs = options.programs or [name for name in program_names() if _runs_here(name)]
    parts = options.part or list(PARTS)
    if simcuda.real_gpu() and parts != ["settings"]:
        parser.error("a real GPU has the size it has: --part settings")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        head = ("program", "setting", "reserved MiB", "allocated MiB", "retries", "first failure")
        print("{:34} {:34} {:>22} {:>22} {:>14} {:>14}  verdict".format(*head))
        with ThreadPoolExecutor(options.jobs) as pool:
            for found in pool.map(lambda p: rows_of(p, parts, folder), programs):
                for row in found:
                    names = Facts.__dataclass_fields__
                    cells = (f"{row.program} {row.device}", row.what[:34], *map(row.told, names))
                    line = "{:34} {:34} {:>22} {:>22} {:>14} {:>14}".format(*cells)
                    print(f"{line}  {row.verdict}{' (adapts)' if row.adapts else ''}", flush=True)
                rows += found
    plain = [row for row in rows if not row.adapts]
    for name, listed in (("all", rows), ("single-threaded, no reaction to OOM", plain)):
        verdicts = [row.verdict for row in listed]
        print(
            f"{name}: {len(listed)} predictions, {verdicts.count('exact')} exact, "
            f"{verdicts.count('in range')} in the predicted range, {verdicts.count('off')} off"
        )
    return int(any(row.verdict == "off" for row in plain))


if __name__ == "__main__":
    sys.exit(main())
