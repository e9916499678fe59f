"""`memtrace build-hook`: compiles the native hook for the torch at hand, with g++ alone.

The wheel brings hooks for some versions of torch and the sources for all (memtrace/_csrc). What is
built lies in the user's cache, where hook/installed.py looks first. CMake does the same for the
wheel (cmake/hook.cmake): the flags must agree.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from memtrace.errors import MemtraceError
from memtrace.hook.installed import PACKAGE_DIR, cache_dir
from memtrace.hook.torch_build import (
    HOOK_LIBRARIES,
    TorchBuild,
    find_cuda_include_dirs,
    find_torch_build,
    python_refusal,
)

_LAST_LINES = 15


def build_hook() -> Path:
    """Compile and install the hook; where it is now.

    Raises:
        MemtraceError: what is missing, or what the compiler says.
    """
    if refusal := python_refusal():
        raise MemtraceError(f"build-hook: {refusal}")
    build = find_torch_build()
    if build is None:
        raise MemtraceError("build-hook: torch is not installed in this Python")
    sources = find_sources()
    compiler = _find_compiler()
    includes = _include_dirs(build, sources)
    try:
        target = cache_dir() / build.hook_file_name
    except RuntimeError:
        raise MemtraceError("build-hook: you have no home directory: set XDG_CACHE_HOME") from None
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MemtraceError(
            f"build-hook: cannot write to {target.parent}: {error.strerror}; set XDG_CACHE_HOME"
        ) from None
    with tempfile.TemporaryDirectory(prefix="memtrace-hook-") as work:
        objects = _compile_all(compiler, build, sources, includes, Path(work))
        made = Path(work) / target.name
        libraries = [str(build.lib_dir / name) for name in HOOK_LIBRARIES]
        _run([*compiler, "-shared", "-o", str(made), *map(str, objects), *libraries])
        # Into the folder first, then under its name: a running program keeps the file that it has.
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(made, beside)
        beside.replace(target)
    return target


def find_sources() -> Path:
    """The folder with record/, hook/ and bind/: of the installed package, or of the source tree.

    Raises:
        MemtraceError: there is none.
    """
    candidates = [PACKAGE_DIR.parent.parent / "csrc", PACKAGE_DIR / "_csrc"]
    for folder in candidates:
        if (folder / "bind" / "hook_module.cpp").is_file():
            return folder
    raise MemtraceError(
        f"build-hook: the C++ sources are not in {candidates[-1]}: install memtrace again"
    )


def hook_sources(sources: Path) -> list[Path]:
    """What makes up the hook."""
    return [*sorted((sources / "hook").glob("*.cpp")), sources / "bind" / "hook_module.cpp"]


def _find_compiler() -> list[str]:
    wanted = shlex.split(os.environ.get("CXX", ""))  # "ccache g++" is two words
    if wanted and shutil.which(wanted[0]) is None:
        raise MemtraceError(f"build-hook: no such compiler: CXX={wanted[0]}")
    for words in [wanted] if wanted else (["g++"], ["c++"], ["clang++"]):
        if shutil.which(words[0]):
            return words
    raise MemtraceError(
        "build-hook: no C++ compiler: install g++ 11 or newer (apt install g++), or set CXX"
    )


def _include_dirs(build: TorchBuild, sources: Path) -> list[str]:
    python = sysconfig.get_path("include")
    if not (Path(python) / "Python.h").is_file():
        raise MemtraceError(
            f"build-hook: no Python.h in {python}: install python3-dev, or the like"
        )
    cuda = find_cuda_include_dirs()
    if not cuda:
        raise MemtraceError(
            "build-hook: no CUDA headers (they are needed for a CPU build of torch too): "
            "pip install nvidia-cuda-runtime nvidia-cuda-crt"
        )
    system = [*build.include_dirs, *cuda, Path(python)]
    return [f"-I{sources}", *(word for path in system for word in ("-isystem", str(path)))]


def _compile_all(
    compiler: list[str], build: TorchBuild, sources: Path, includes: list[str], work: Path
) -> list[Path]:
    flags = [
        "-c",
        "-O2",
        "-std=c++20",
        "-fPIC",
        "-fvisibility=hidden",
        "-DNDEBUG",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(build.cxx11_abi)}",
        "-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE",
        *includes,
    ]

    def compile_one(source: Path) -> Path:
        made = work / f"{source.stem}.o"
        _run([*compiler, *flags, str(source), "-o", str(made)])
        return made

    # Torch's headers take about 1 GB of memory per compiler.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(compile_one, hook_sources(sources)))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or [
            *done.stderr.splitlines()[-_LAST_LINES:],
            f"status {done.returncode}",
        ]
        raise MemtraceError(f"build-hook: {Path(command[0]).name} failed: {errors[0].strip()}")
