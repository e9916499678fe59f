"""Runs the fuzzers of the native readers for a while each, from the kept corpus.

    python tests/fuzz/readers.py BUILD_DIR [--seconds 30] [--keep]

What a fuzzer finds (a crash, a hang, a leak, undefined behaviour) is written to BUILD_DIR/findings
and ends the run with status 1. `--keep` adds the inputs that reached new code to the corpus,
reduced to the fewest that reach as much.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.seeds import spool_seeds

CORPUS = Path(__file__).resolve().parent / "corpus"
READERS = ("spool", "packed", "json", "settings")
_LONGEST_INPUT_BYTES = 8_192
_LIMITS = ("-rss_limit_mb=2048", "-timeout=20", f"-max_len={_LONGEST_INPUT_BYTES}")


def run(fuzzer: Path, reader: str, seconds: float, findings: Path, *, keep: bool) -> bool:
    """False: it found something."""
    with tempfile.TemporaryDirectory() as folder:
        found, kept, seeds = (Path(folder) / name for name in ("found", "kept", "seeds"))
        for path in (found, kept, seeds, findings):
            path.mkdir(exist_ok=True)
        if (archive := CORPUS / f"{reader}.zip").exists():
            zipfile.ZipFile(archive).extractall(kept)
        if reader == "spool":
            for name, seed in spool_seeds(Path(folder)).items():
                (seeds / name).write_bytes(seed)
        done = subprocess.run(
            [fuzzer, found, kept, seeds, f"-max_total_time={seconds:g}", *_LIMITS,
             f"-artifact_prefix={findings}/{reader}-", "-print_final_stats=1"],
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        told = done.stderr.splitlines()
        if done.returncode != 0:
            sys.stdout.write("\n".join(told[-60:]) + "\n")
            return False
        stats = dict(line.split()[-2:] for line in told if line.startswith("stat::"))
        inputs = int(stats["stat::number_of_executed_units:"])
        begun_with = len(list(kept.iterdir())) + len(list(seeds.iterdir()))
        sys.stdout.write(f"{reader}: {inputs:,} inputs from {begun_with:,}, nothing found\n")
        if keep:
            fewest = Path(folder) / "fewest"
            fewest.mkdir()
            merge = ["-set_cover_merge=1", *_LIMITS, fewest, kept, found]
            subprocess.run([fuzzer, *merge], stderr=subprocess.DEVNULL, check=True)
            _pack(fewest, archive)
        return inputs > begun_with


def _pack(folder: Path, archive: Path) -> None:
    archive.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for path in sorted(folder.iterdir()):
            packed.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)


def main() -> int:
    """1: a fuzzer found something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--only", choices=READERS)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    findings = options.build / "findings"
    sound = [
        run(options.build / f"fuzz_{reader}", reader, options.seconds, findings, keep=options.keep)
        for reader in ([options.only] if options.only else READERS)
    ]
    return 0 if all(sound) else 1


if __name__ == "__main__":
    sys.exit(main())
