"""Builds the simulated CUDA runtime for the torch of this environment.

The result is a folder with

- ``libsimcuda.so``: the simulation, and a stub for every other CUDA symbol that torch's libraries
  leave undefined;
- one empty library for every NVIDIA library that torch NEEDs, under that library's SONAME;
- ``libsimcuda-all.so``, which NEEDs all of these: once it is loaded, the loader finds every SONAME
  that torch asks for already there, and looks no further. (torch's own RPATH comes before
  LD_LIBRARY_PATH, so a search path would lose against an installed libcudart.)

``python build.py [CACHE]`` prints the folder, and builds only if sources or torch have changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
DEFAULT_CACHE = HERE.parent.parent / ".simcuda"

CORE = "libsimcuda.so"
ENTRY = "libsimcuda-all.so"

# Loaded by name at run time rather than NEEDed, by torch and by others.
ALWAYS_POSED = ("libcuda.so.1", "libnvidia-ml.so.1")

_NVIDIA_LIBRARY = re.compile(r"^lib(cu|nccl|nv)")
_NVIDIA_SYMBOL = re.compile(
    r"^(cu[A-Z]|cuda|cublas|cudnn|cufft|curand|cusparse|cusolver|cupti|nccl|nvrtc|nvshmem|nvJit"
    r"|cuFile|nvml|__cuda)"
)
_RETURNS_TEXT = re.compile(r"(ErrorString|ErrorName|StatusString|StatusName|LastError)$")


class BuildError(RuntimeError):
    """The simulated runtime can't be built here; the message says what is missing."""


@dataclass(frozen=True)
class Torch:
    """The installed torch, known without importing it."""

    version: str
    libraries: tuple[Path, ...]


def find_torch() -> Torch:
    """Returns the CUDA build of torch in this environment."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError("torch is not installed")
    folder = Path(spec.origin).parent
    match = re.search(r"^__version__ = '(.+)'", (folder / "version.py").read_text(), re.MULTILINE)
    libraries = tuple(sorted((folder / "lib").glob("*.so*")))
    if not any(library.name == "libc10_cuda.so" for library in libraries):
        raise BuildError("simcuda needs a CUDA build of torch; this one is for the CPU only")
    return Torch(match[1] if match else "unknown", libraries)


def find_headers() -> Path:
    """Returns the folder of the CUDA headers, of the PyPI packages or of a toolkit."""
    candidates: list[Path] = []
    spec = importlib.util.find_spec("nvidia")
    if spec is not None:
        for location in spec.submodule_search_locations or ():
            candidates += sorted(Path(location).glob("*/include"), reverse=True)
    toolkits = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    compiler = shutil.which("nvcc")
    if compiler:
        toolkits.append(str(Path(compiler).resolve().parent.parent))
    candidates += [Path(toolkit, "include") for toolkit in toolkits if toolkit]
    for folder in candidates:
        if (folder / "cuda_runtime_api.h").exists() and (folder / "crt/host_defines.h").exists():
            return folder
    raise BuildError("no CUDA headers: pip install nvidia-cuda-runtime nvidia-cuda-crt")


def _run(*command: str | Path) -> str:
    try:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]} is not installed") from error
    if done.returncode != 0:
        raise BuildError(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def _dynamic_symbols(library: Path, which: str) -> set[str]:
    lines = _run("nm", "-D", "--format=posix", which, library).splitlines()
    return {line.split()[0].split("@")[0] for line in lines}


def _needed_libraries(library: Path) -> set[str]:
    return set(re.findall(r"NEEDED.*\[(.*)\]", _run("readelf", "-d", library)))


def _stub(symbol: str) -> str:
    """C for a function that the simulation lacks; its arguments are ignored."""
    if symbol == "cuptiGetResultString":
        return f'int {symbol}(int result, const char** text) {{ *text = "simcuda"; return 0; }}'
    if _RETURNS_TEXT.search(symbol):
        return f'const char* {symbol}(void) {{ return "not simulated by simcuda"; }}'
    if symbol.startswith("cublas"):
        # Matrix products succeed, and compute nothing.
        return f"int {symbol}(void) {{ return simcuda_library_call(); }}"
    # For every library 0 is success and 1 some error; the compiler's own hooks must not fail.
    return f"long {symbol}(void) {{ return {0 if symbol.startswith('__') else 1}; }}"


def _write_stubs(path: Path, simulation: Path, torch: Torch) -> None:
    undefined: set[str] = set()
    defined = _dynamic_symbols(simulation, "--defined-only")
    for library in torch.libraries:
        undefined |= _dynamic_symbols(library, "--undefined-only")
        defined |= _dynamic_symbols(library, "--defined-only")
    missing = sorted(s for s in undefined - defined if _NVIDIA_SYMBOL.match(s))
    lines = ["extern int simcuda_library_call(void);", *map(_stub, missing), ""]
    path.write_text("\n".join(lines))


def _build_into(folder: Path, torch: Torch, headers: Path) -> None:
    link = ("-shared", "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN", f"-L{folder}")
    compile_flags = ("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
    sources = sorted(SOURCES.glob("*.cpp"))

    # The simulation alone first: it tells which symbols still need a stub.
    objects = []
    for source in sources:
        objects.append(folder / f"{source.stem}.o")
        _run("g++", *compile_flags, "-isystem", headers, "-c", source, "-o", objects[-1])
    simulation = folder / "simulation.so"
    _run("g++", "-shared", *objects, "-o", simulation)

    stubs = folder / "stubs.c"
    _write_stubs(stubs, simulation, torch)
    objects.append(folder / "stubs.o")
    _run("gcc", "-O1", "-fPIC", "-w", "-fno-builtin", "-c", stubs, "-o", objects[-1])
    _run("g++", "-shared", f"-Wl,-soname,{CORE}", *objects, "-o", folder / CORE)

    needed = set().union(*map(_needed_libraries, torch.libraries))
    posed = sorted({name for name in needed if _NVIDIA_LIBRARY.match(name)} | set(ALWAYS_POSED))
    nothing = folder / "nothing.c"
    nothing.write_text("")
    for soname in posed:
        _run("gcc", *link, f"-Wl,-soname,{soname}", nothing, "-lsimcuda", "-o", folder / soname)
    names = [f"-l:{soname}" for soname in posed]
    _run("gcc", *link, f"-Wl,-soname,{ENTRY}", nothing, "-lsimcuda", *names, "-o", folder / ENTRY)

    for leftover in (*objects, simulation, nothing):
        leftover.unlink()


def _fingerprint(headers: Path) -> str:
    digest = hashlib.sha256(platform.machine().encode())
    inputs = [Path(__file__), headers / "cuda_runtime_api.h", *sorted(SOURCES.iterdir())]
    for path in inputs:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def build(cache: Path | None = None) -> Path:
    """Returns the folder of the built libraries, building them if need be.

    Raises:
        BuildError: torch, a compiler or the CUDA headers are missing.
    """
    torch = find_torch()
    headers = find_headers()
    cache = cache or DEFAULT_CACHE
    target = cache / f"{torch.version}-{_fingerprint(headers)}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    temporary = Path(tempfile.mkdtemp(prefix=".building-", dir=cache))
    try:
        _build_into(temporary, torch, headers)
        temporary.chmod(0o755)
        try:
            temporary.rename(target)
        except OSError:
            # Another process was faster, and its result is as good as ours.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def main() -> int:
    """Builds into the cache folder given as argument, and prints where."""
    try:
        print(build(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
