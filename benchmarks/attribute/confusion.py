"""What memtrace calls the bytes whose category the objects themselves tell: a confusion table.

    python benchmarks/attribute/confusion.py [MODEL ...]

Fourteen models of tests/truth on the CPU, each in inference and training; bytes summed over all
instants at which the truth was taken. Rows are the truth (the model's parameters, gradients, the
optimizer's state, the cache object, arguments and results, what saved_tensors_hooks see), columns
what memtrace says. Below: the share of `other` at the peak of each model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from truth.cases import ON_CPU
from truth.comparison import run, shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(ON_CPU))
    options = parser.parse_args()
    table: Counter[tuple[str, str]] = Counter()
    shares = []
    for case in options.models:
        with tempfile.TemporaryDirectory() as folder:
            recorded = run(case, "cpu", Path(folder))
            table += recorded.confusion()
            hidden = sum(size for _, size in recorded.truth["hidden"])
            for first, last in (("inference", "call_2"), ("training", "zeroed_2")):
                other, total = recorded.other_at_peak(first, last)
                shares.append((case, first, (other - hidden) / total))
    print(shown(table))
    print("\nother at the peak, without what the program hides (24,000 bytes):")
    for case, mode, share in shares:
        print(f"{case:>16} {mode:>10} {100 * share:6.2f} %")


if __name__ == "__main__":
    main()
