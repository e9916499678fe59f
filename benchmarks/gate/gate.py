"""Instructions of the hot paths and of the analyses, held against a committed baseline.

    python benchmarks/gate/gate.py [--write]

Needs valgrind and a C compiler. Status 1: something costs over 5 % more than in baseline.json; what
costs less by as much is told, so that the baseline follows (`--write`). Of a hot path the code of
memtrace's own libraries is counted: what malloc needs depends on what it did before; where no
memory changes, all that recording adds, below 0 where torch has less to do then. Counts depend on
compiler, torch and Python: a baseline is kept for each such machine; one without is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASELINE = HERE / "baseline.json"
MOST_MORE = 0.05
_OWN = re.compile(r"/memtrace/(?:_hooks/_hook|_core)[^/]*\.so$")
#: Of a path that costs next to nothing: instructions that may come and go.
SLACK = 3.0


@dataclass(frozen=True)
class Verdict:
    """One path beside its baseline, instructions per unit."""

    path: str
    counted: float
    baseline: float | None

    @property
    def change(self) -> float:
        if not self.baseline:  # what cost nothing must go on costing nothing
            return math.inf if self.baseline == 0 and self.counted else 0.0
        return (self.counted - self.baseline) / abs(self.baseline)

    @property
    def costs_more(self) -> bool:
        return self._differs and self.change > MOST_MORE

    @property
    def costs_less(self) -> bool:
        return self._differs and self.change < -MOST_MORE

    @property
    def _differs(self) -> bool:
        return self.baseline is not None and abs(self.counted - self.baseline) > SLACK


def judge(counted: dict[str, float], baseline: dict[str, float]) -> list[Verdict]:
    """Every path of either; one that is counted no more costs nothing and stays to be seen."""
    return [
        Verdict(path, counted.get(path, 0.0), baseline.get(path))
        for path in dict.fromkeys([*counted, *baseline])
    ]


def machine() -> str:
    """What instruction counts depend on."""
    import torch

    gcc = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True)
    words = (
        platform.machine(), f"g++ {gcc.stdout.strip()}", f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
    )  # fmt: skip
    return ", ".join(words)


def callgrind_dumps(script: Path, *options: str) -> list[str]:
    """Run a Python script under callgrind, counting only where it says so.

    Args:
        script: Its argument is the path of callgrind.c, compiled.
        options: Of callgrind.

    Returns:
        Each of callgrind's dumps, as it wrote it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shim = folder / "callgrind.so"
        source = HERE / "callgrind.c"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", source, "-o", shim], check=True)
        out = folder / "out"
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--instr-atstart=no", *options,
             f"--callgrind-out-file={out}", sys.executable, script, shim],
            env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0", "HOME": name},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            sys.exit(done.stderr)
        return [path.read_text() for path in folder.glob("out.*")]


def count() -> dict[str, float]:
    """By path: instructions per unit, of hot paths those in memtrace's own code."""
    return _per_unit(callgrind_dumps(HERE / "paths.py"))


def _per_unit(dumps: list[str]) -> dict[str, float]:
    counts: defaultdict[str, float] = defaultdict(float)
    for dump in dumps:
        named = re.search(
            r"^desc: Trigger: Client Request: (.+)\|(\w+)\|(\d+)$", dump, re.MULTILINE
        )
        total = re.search(r"^(?:totals|summary): (\d+)", dump, re.MULTILINE)
        if named and total:
            path, of, units = named.groups()
            counted = own_instructions(dump) if of == "own" else int(total[1])
            counts[path] += (-counted if of == "without" else counted) / int(units)
    return dict(counts)


def own_instructions(dump: str) -> int:
    """Those of a callgrind file that lie in memtrace's own libraries, not in what they call."""
    objects: dict[str, str] = {}
    own, is_own, is_call = 0, False, False
    for line in dump.splitlines():
        if found := re.match(r"(c?)ob=(\(\d+\))(?: (.+))?$", line):
            called, number, path = found.groups()
            objects[number] = path or objects.get(number, "")
            if not called:
                is_own = bool(_OWN.search(objects[number]))
        elif line.startswith("calls="):
            is_call = True  # the next line has what the callee cost
        elif found := re.match(r"[+*-]?\d* ?(\d+)$", line):
            own += int(found[1]) if is_own and not is_call else 0
            is_call = False
    return own


def main() -> int:
    """0: nothing costs over 5 % more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="make these counts the baseline")
    options = parser.parse_args()
    kept = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    here = machine()
    verdicts = judge(count(), kept.get(here, {}))
    print(f"instructions per unit, {here}")
    for one in verdicts:
        beside = "no baseline" if one.baseline is None else f"{one.change:+6.1%}"
        note = "  COSTS MORE" if one.costs_more else "  less: --write" if one.costs_less else ""
        print(f"  {one.path:34} {one.counted:12,.1f}  {beside}{note}")
    if options.write:
        kept[here] = {one.path: round(one.counted, 1) for one in verdicts}
        BASELINE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    elif here not in kept:
        print("no baseline for this machine: nothing was compared; --write keeps these counts")
    return 1 if any(one.costs_more for one in verdicts) and not options.write else 0


if __name__ == "__main__":
    sys.exit(main())
