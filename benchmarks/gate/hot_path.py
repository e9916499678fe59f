"""The hot paths as compiled: every instruction, how often it runs per event, and its source line.

    python benchmarks/gate/hot_path.py [--listing] [--path cuda floor cpu]

Needs g++, objdump and valgrind, and torch for `cpu`. Operators and stacks are off. Without
`--listing` only the sums per source line are printed: what docs/hot-path.md accounts for.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from record.event_instructions import SOURCES

FLAGS = ["-std=c++20", "-O3", "-g", "-DNDEBUG", "-no-pie", f"-I{ROOT / 'csrc'}", "-pthread"]
EVENTS = 100_000
LEAST = 0.01  # what runs less often per event is no part of a path: filling windows, first sights


@dataclass(frozen=True)
class HotPath:
    """What is run, and the functions of it that are the path."""

    title: str
    function: str  # a regular expression
    arguments: tuple[str, ...]  # before the number of events
    on_torch: bool = False


_TRACKER = "Entry const.*_M_invoke"
PATHS = {
    "floor": HotPath("a clock read and 64 bytes", f"record_floor|{_TRACKER}", ("floor",)),
    "cuda": HotPath("a CUDA event", rf"record_\w+_cuda_event|{_TRACKER}", ("record",)),
    "cpu": HotPath(
        "a CPU allocation and its free", "RecordingAllocator::|free_and_record", (), on_torch=True
    ),
}


def build(path: HotPath, folder: Path) -> Path:
    """The program of a path, with the flags of a release build and debug information."""
    program = folder / ("cpu" if path.on_torch else "cuda")
    if program.exists():
        return program
    sources = [str(ROOT / source) for source in SOURCES]
    extra = ["-isystem", sysconfig.get_path("include")]
    if path.on_torch:
        from memtrace.hook.torch_build import find_torch_build

        torchs = find_torch_build()
        assert torchs is not None, "torch is not installed"
        sources[0] = str(Path(__file__).with_suffix(".cpp"))
        sources.append(str(ROOT / "csrc/hook/cpu_allocator.cpp"))
        extra += [word for one in torchs.include_dirs for word in ("-isystem", str(one))]
        extra += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torchs.cxx11_abi)}"]
        extra += [str(torchs.lib_dir / "libc10.so"), f"-Wl,-rpath,{torchs.lib_dir}"]
    subprocess.run(["g++", *FLAGS, *sources, *extra, "-o", str(program)], check=True)
    return program


@dataclass(frozen=True)
class Instruction:
    address: int
    line: str  # FILE:NUMBER
    per_event: float


def count(path: HotPath, program: Path, folder: Path) -> list[Instruction]:
    """Those of the path's functions, from callgrind."""
    out = Path(tempfile.mkdtemp(dir=folder)) / "callgrind"
    spool = tempfile.mkdtemp(dir=folder)
    tool = ["valgrind", "--tool=callgrind", "--dump-instr=yes", f"--callgrind-out-file={out}"]
    command = [*tool, str(program), *path.arguments, str(EVENTS), spool]
    subprocess.run(command, check=True, capture_output=True)
    return _instructions(out.read_text(), re.compile(path.function))


def _instructions(dump: str, functions: re.Pattern[str]) -> list[Instruction]:
    names: dict[str, str] = {}
    found: Counter[tuple[int, str]] = Counter()
    file, wanted, is_call = "", False, False
    address = number = 0
    for line in dump.splitlines():
        if named := re.match(r"(fl|fi|fe|fn|cfn|cfi|cfl)=(\(\d+\))(?: (.+))?$", line):
            kind, key, name = named.groups()
            space = "fn" if kind.endswith("fn") else "fl"
            if name:
                names[space + key] = name
            if kind == "fn":
                wanted = bool(functions.search(names["fn" + key]))
            elif kind in ("fl", "fi", "fe"):
                file = Path(names["fl" + key]).name
        elif line.startswith("calls="):
            is_call = True  # the next line has what the callee cost
        elif position := re.match(r"(0x[0-9a-f]+|[+-]\d+|\*) ([+-]?\d+|\*) (\d+)$", line):
            at, of, cost = position.groups()
            address = _moved(address, at)
            number = _moved(number, of)
            if wanted and not is_call:
                found[address, f"{file}:{number}"] += int(cost)
            is_call = False
    return [
        Instruction(at, line, cost / EVENTS)
        for (at, line), cost in sorted(found.items())
        if cost / EVENTS >= LEAST
    ]


def _moved(last: int, position: str) -> int:
    if position == "*":
        return last
    return last + int(position) if position[0] in "+-" else int(position, 0)


def source(line: str) -> str:
    name, _, number = line.partition(":")
    for path in (ROOT / "csrc").rglob(name):
        return path.read_text().splitlines()[int(number) - 1].strip()
    for path in (ROOT / "benchmarks").rglob(name):
        return path.read_text().splitlines()[int(number) - 1].strip()
    return ""


def assembly(program: Path) -> dict[int, str]:
    """The text of each instruction, by address."""
    argv = ["objdump", "-d", "-C", "--no-show-raw-insn", str(program)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    lines = re.findall(r"^ +([0-9a-f]+):\t(.+)$", done.stdout, re.MULTILINE)
    return {int(at, 16): text.split("#")[0].strip() for at, text in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listing", action="store_true", help="every instruction")
    parser.add_argument("--path", nargs="*", default=list(PATHS), choices=list(PATHS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for path in (PATHS[key] for key in options.path):
            program = build(path, Path(name))
            found = count(path, program, Path(name))
            print(f"\n{path.title}: {sum(one.per_event for one in found):.1f} instructions")
            if options.listing:
                texts = assembly(program)
                for one in found:
                    print(f"{one.per_event:6.2f}  {texts.get(one.address, '?'):48}  {one.line}")
            lines: Counter[str] = Counter()
            for one in found:
                lines[one.line] += one.per_event
            for line, per_event in lines.items():
                print(f"{per_event:6.1f}  {line:28} {source(line)}")


if __name__ == "__main__":
    main()
