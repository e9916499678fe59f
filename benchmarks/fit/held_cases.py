"""Predictions of what-ifs, held against runs of the changed programs.

    python benchmarks/fit/held_cases.py [--device cuda --python .venv-cuda/bin/python]
        [--kind dtype] [--only gpt2] [--no-rival] [--json FILE]

A case (cases.py) is recorded as it is and as it would be. From the first trace the peaks of the
second are predicted: of what is allocated, and on CUDA (the simulated runtime, where there is no
GPU) of what is reserved. Both are counted from the first step on: the program's load is the same
in both.

A *verdict* is given for each capacity of LADDER, times the real peak (on CUDA of what is reserved).
It is wrong where one of the two peaks fits and the other does not. Beside it, FakeTensor and
MemTracker are given the changed program itself; their verdicts are of what is allocated.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cases import CASES, Case
from models import MODELS
from recordings import REPOSITORY, Machine, Recordings, RunError, simcuda

from memtrace.errors import MemtraceError
from memtrace.replay.engine import serve
from memtrace.replay.requests import read_requests
from memtrace.trace import Trace
from memtrace.whatif.registry import apply_all

LADDER = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.02, 1.05, 1.1, 1.2, 1.3, 1.5)


@dataclass(frozen=True)
class Held:
    """One prediction beside the truth; bytes."""

    kind: str
    case: str
    device: str
    of: str
    predicted_bytes: int
    real_bytes: int
    base_bytes: int
    fake_tensor_bytes: int | None

    @property
    def error(self) -> float:
        """Of the prediction, relative to the truth."""
        return self.predicted_bytes / self.real_bytes - 1

    @property
    def fake_tensor_error(self) -> float | None:
        return (
            None if self.fake_tensor_bytes is None else self.fake_tensor_bytes / self.real_bytes - 1
        )

    @property
    def wrong_verdicts(self) -> int:
        """Of as many as LADDER has."""
        return self._wrong(self.predicted_bytes)

    @property
    def fake_tensor_wrong_verdicts(self) -> int | None:
        return None if self.fake_tensor_bytes is None else self._wrong(self.fake_tensor_bytes)

    def _wrong(self, told_bytes: int) -> int:
        capacities = [self.real_bytes * part for part in LADDER]
        return sum((self.real_bytes <= c) != (told_bytes <= c) for c in capacities)


def first_step(trace: Trace) -> float:
    """The place of its begin."""
    return float(min(trace.steps["start_seq"].to_pylist()))


def real_peak_bytes(trace: Trace, device: str, of: str) -> int:
    """As the allocator counted it; what stood when the first step began included."""
    events = trace.events
    mine = np.array([name.startswith(device) for name in events["device"].to_pylist()])
    seq = np.asarray(events["seq"])[mine]
    totals = np.asarray(events[f"{of}_bytes"].fill_null(0))[mine]
    first = max(int(np.searchsorted(seq, first_step(trace))) - 1, 0)
    return int(totals[first:].max())


def held(case: Case, recordings: Recordings, *, rival: bool) -> list[Held]:
    """One for each measure.

    Raises:
        RunError: a program fails.
        MemtraceError: the what-if refuses.
    """
    device = recordings.machine.device
    model = f"--model {case.model} "
    base, real = recordings.trace(model + case.base), recordings.trace(model + case.real)
    requests = read_requests(base, device="cpu" if device == "cpu" else "cuda:0")
    changed, _ = apply_all(requests, case.what_if)
    outcome = serve(changed)
    fake = None
    if rival:
        with contextlib.suppress(RunError):
            fake = recordings.fake_tensor_peak_bytes(model + case.real)
    return [
        Held(
            kind=case.kind,
            case=case.name,
            device=device,
            of=of,
            predicted_bytes=outcome.peak(of, start=first_step(base)).total_bytes,
            real_bytes=real_peak_bytes(real, device, of),
            base_bytes=real_peak_bytes(base, device, of),
            fake_tensor_bytes=fake if of == "allocated" else None,
        )
        for of in (("allocated",) if device == "cpu" else ("allocated", "reserved"))
    ]


def say(one: Held) -> None:
    """A line of the table."""
    fake = "failed" if one.fake_tensor_error is None else f"{one.fake_tensor_error:+.1%}"
    print(
        f"{one.kind:10} {one.case:40} {one.device:4} {one.of:9}"
        f" {one.base_bytes / 2**20:8.2f} -> {one.predicted_bytes / 2**20:8.2f} MiB"
        f"  real {one.real_bytes / 2**20:8.2f}  {one.error:+7.2%}"
        f"  wrong {one.wrong_verdicts}  {fake if one.of == 'allocated' else ''}",
        flush=True,
    )


def sum_up(what: str, found: list[Held]) -> None:
    """Median and 95th percentile of the errors, and the share of wrong verdicts."""
    errors = np.abs([one.error for one in found])
    deciding = [one for one in found if one.of == "reserved" or one.device == "cpu"]
    wrong = sum(one.wrong_verdicts for one in deciding)
    line = f"{what}: {len(found)} predictions, error median {np.median(errors):.2%},"
    line += f" 95 % {np.quantile(errors, 0.95):.2%}, most {errors.max():.2%}"
    if deciding:
        line += f"; wrong verdicts {wrong / len(LADDER) / len(deciding):.2%}"
    asked = [one for one in found if one.of == "allocated"]
    told = [one for one in asked if one.fake_tensor_error is not None]
    if told:
        fakes = np.abs([one.fake_tensor_error for one in told])
        wrong = sum(one.fake_tensor_wrong_verdicts or 0 for one in told)
        line += f"; FakeTensor and MemTracker on {len(told)} of {len(asked)}:"
        line += f" median {np.median(fakes):.2%}, 95 % {np.quantile(fakes, 0.95):.2%},"
        line += f" most {fakes.max():.2%}; wrong verdicts {wrong / len(LADDER) / len(told):.2%}"
    print(line)


def main() -> None:
    """All cases asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--python", default=sys.executable, help="the one that runs programs")
    parser.add_argument("--kind", action="append")
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--no-rival", action="store_true")
    parser.add_argument("--recordings", default=str(REPOSITORY / "build" / "held_cases"))
    parser.add_argument("--json", help="a file for all figures")
    options = parser.parse_args()
    machine = Machine(options.device, options.python)
    recordings = Recordings(Path(options.recordings), machine)
    found: list[Held] = []
    for case in CASES:
        if (options.kind and case.kind not in options.kind) or options.only not in case.name:
            continue
        simulated = options.device == "cuda" and not simcuda.real_gpu()
        if simulated and not MODELS[case.model].on_cuda:
            continue
        try:
            lines = held(case, recordings, rival=not options.no_rival)
        except (RunError, MemtraceError) as error:
            print(f"{case.kind:10} {case.name:40} left out: {error}", flush=True)
            continue
        for one in lines:
            say(one)
        found += lines
    for kind in dict.fromkeys(one.kind for one in found):
        sum_up(kind, [one for one in found if one.kind == kind])
    if found:
        sum_up("all", found)
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(one) for one in found], indent=1))


if __name__ == "__main__":
    main()
