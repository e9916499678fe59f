"""Throws damaged files and traces at memtrace; any crash, hang or traceback is a finding.

    python tests/fuzz/run.py --inputs 100000 [--seed 1] [--only snapshot|chrome|mprof|traces]

Each input is a seed: `--seed N --inputs 1` makes it again. Batches run in a forked process with
limits on memory and time, so that a crash of a library under us is found and named too.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import files, traces
from imports.torch_snapshot.golden import pickled
from memtrace.imports import reader
from memtrace.imports.importing import import_file
from trace_builder import failing_trace, serving_trace

_BATCH = 50
_BATCHES_PER_LINE = 100
_SECONDS_EACH, _PATIENCE_S = 20, 600
_TRACES = "traces"
_TRACES_SHARE = 0.1  # they take ten times as long
_MEMORY_FOR_BYTES = 64 << 20  # as if the file were so large: pyarrow and numpy are in here as well

Check = Callable[[random.Random, Path], str]


@dataclass
class Report:
    """What came of the inputs; findings are lines with the seed that makes them again."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        return sum(self.outcomes.values())

    def __str__(self) -> str:
        told = ", ".join(f"{number:,} {outcome}" for outcome, number in self.outcomes.most_common())
        return f"{self.inputs:,} inputs: {told}"


def fuzz(inputs: int, *, seed: int = 0, only: str = "", seconds: float = 1e9) -> Report:
    """Runs so many inputs, or for so long."""
    report, until = Report(), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        sources = _sources(Path(folder))
        for first in range(seed, seed + inputs, _BATCH):
            seeds = range(first, min(first + _BATCH, seed + inputs))
            told = len(report.findings)
            _run_batch(seeds, sources, Path(folder), only, report)
            for finding in report.findings[told:]:
                sys.stdout.write(f"{finding}\n")
            if first // _BATCH % _BATCHES_PER_LINE == 0:
                sys.stdout.write(f"seed {first:,}: {report}\n")
            sys.stdout.flush()
            if time.monotonic() > until:
                break
    return report


def _sources(folder: Path) -> list[Path]:
    snapshot = folder / "source.pickle"
    snapshot.write_bytes(pickled("torch-2.6"))
    imported = import_file(snapshot, str(folder / "imported.memtrace")).path
    return [
        imported,
        serving_trace(folder / "serving.memtrace"),
        failing_trace(folder / "failing.memtrace"),
    ]


def _run_batch(seeds: range, sources: list[Path], folder: Path, only: str, report: Report) -> None:
    """In a fork; from a seed that killed it, another one goes on."""
    at = seeds.start
    while at < seeds.stop:
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            _work(range(at, seeds.stop), sources, folder, only, write_end)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            lines = pipe.read().decode(errors="replace").splitlines()
        _, status = os.waitpid(pid, 0)
        for line in lines:
            outcome, _, what = line.partition(" ")
            report.outcomes[outcome] += 1
            if what:
                report.findings.append(what)
        at += len(lines)
        if at < seeds.stop:
            how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {status}"
            report.outcomes["died"] += 1
            report.findings.append(f"seed {at}: the process died: {how}")
            at += 1


def _work(seeds: range, sources: list[Path], folder: Path, only: str, pipe: int) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    reader.limit(_MEMORY_FOR_BYTES)
    for seed in seeds:
        signal.setitimer(signal.ITIMER_PROF, _SECONDS_EACH)  # of the CPU's time: a loop
        signal.alarm(_PATIENCE_S)  # and this, who waits for ever
        try:
            line = _one(random.Random(seed), sources, folder, only)
        except BaseException as error:
            steps = traceback.extract_tb(error.__traceback__)
            ours = [step for step in steps if "memtrace" in step.filename]
            place = (ours or steps)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            line = f"raised seed {seed}: {where} {told}"
        os.write(pipe, f"{line}\n".encode(errors="replace"))
    os._exit(0)


def _one(rng: random.Random, sources: list[Path], folder: Path, only: str) -> str:
    what = only or (_TRACES if rng.random() < _TRACES_SHARE else rng.choice(list(files.KINDS)))
    if what == _TRACES:
        return traces.check_one(rng, rng.choice(sources), folder)
    return files.check_one(rng, what, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=(*files.KINDS, _TRACES), default="")
    parser.add_argument("--seconds", type=float, default=1e9)
    arguments = parser.parse_args()
    start_s = time.monotonic()
    report = fuzz(
        arguments.inputs, seed=arguments.seed, only=arguments.only, seconds=arguments.seconds
    )
    sys.stdout.write(f"{report} in {time.monotonic() - start_s:.0f} s\n")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
