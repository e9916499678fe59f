"""What hooks for torches that are not installed are compiled against: their headers, and no more.

    python cmake/torch_headers.py fetch FOLDER [VERSION ...]    by pip into FOLDER; default: all
    python cmake/torch_headers.py list FOLDER                   for CMake: the hooks to build of it

torches.csv beside this file names the torches and the C++ ABIs that each came with. FOLDER/VERSION
is laid out like torch's package: in its lib/ are empty libraries under the names of torch's own, so
that a hook says which ones it needs. Their symbols are looked up when the hook is loaded, which is
after torch. FOLDER/cuda has the headers of the CUDA runtime.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "src" / "memtrace" / "hook"))

from torch_build import HOOK_LIBRARIES, TorchBuild, cmake_list  # noqa: E402

CUDA_PACKAGES = ("nvidia-cuda-runtime<13.1", "nvidia-cuda-crt<13.1")
ANY_PYTHON = "3.12"  # one that every torch of the list has: headers do not depend on it


class FetchError(Exception):
    """Headers that cannot be had; the text is one line."""


def known_torches(headers: Path, python: tuple[int, ...]) -> list[TorchBuild]:
    """Those of torches.csv that exist for this Python, once per C++ ABI; the oldest first."""
    with (HERE / "torches.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        TorchBuild(row["version"], abi == "1", headers / row["version"])
        for row in rows
        if python >= tuple(map(int, row["first_python"].split(".")))
        for abi in row["cxx11_abis"].split()
    ]


def fetch(headers: Path, versions: list[str]) -> None:
    """Brings what is not there yet.

    Raises:
        FetchError: a version that is not in the list, or that pip cannot bring.
    """
    known = list(dict.fromkeys(torch.version for torch in known_torches(headers, (99,))))
    for version in versions:
        if version not in known:
            raise FetchError(f"torches.csv has no torch {version}; it has {', '.join(known)}")
    headers.mkdir(parents=True, exist_ok=True)
    if not (headers / "cuda").is_dir():
        _pip("install", "--target", str(headers / "cuda"), *CUDA_PACKAGES)
    for version in versions or known:
        if not (headers / version).is_dir():
            print(f"headers of torch {version}", flush=True)  # it takes a wheel of 0.5 to 0.9 GB
            _fetch_torch(headers, version)


def _fetch_torch(headers: Path, version: str) -> None:
    with tempfile.TemporaryDirectory(dir=headers, prefix=".fetch-") as folder:
        for_python = ("--python-version", ANY_PYTHON, "--only-binary", ":all:")
        _pip("download", "--dest", folder, *for_python, f"torch=={version}")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith("torch/include/")]
            archive.extractall(folder, names)
        (made := Path(folder, "torch", "lib")).mkdir()
        for name in HOOK_LIBRARIES:
            options = ["-shared", "-nostdlib", f"-Wl,-soname,{name}", "-x", "c", os.devnull]
            _run([os.environ.get("CC", "cc"), *options, "-o", str(made / name)])
        made.parent.rename(headers / version)  # whole, or not there


def _pip(command: str, *words: str) -> None:
    # A constraint is for what is installed; here a version is asked for to read in it.
    environ = {**os.environ, "PIP_CONSTRAINT": os.devnull}
    _run([sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *words], environ)


def _run(argv: list[str], environ: dict[str, str] | None = None) -> None:
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        # Below "Exception:" is a traceback of pip's own, as for a full disk: its last line tells.
        crash = "ERROR: Exception:"
        errors = [line for line in lines if line.startswith("ERROR") and line != crash]
        raise FetchError(f"{argv[-1]}: {(errors or lines)[-1]}")


def hooks(headers: Path) -> list[str]:
    """What CMake builds for this Python: of each fetched torch of the list cmake_list()."""
    cuda = sorted((headers / "cuda" / "nvidia").glob("*/include"))
    torches = known_torches(headers, sys.version_info[:2])
    return [cmake_list(torch, cuda) for torch in torches if torch.root.is_dir()]


def main(argv: list[str]) -> int:
    """Status 1: what pip or the compiler says, in one line."""
    command, folder, *versions = argv
    headers = Path(folder).absolute()
    if command == "list":
        print(";".join(hooks(headers)))
        return 0
    try:
        fetch(headers, versions)
    except FetchError as error:
        print(f"torch_headers: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
