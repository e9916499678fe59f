"""Compiles a benchmark's own C++ against this torch and loads it; needs a C++ compiler."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

from memtrace.hook.torch_build import find_cuda_include_dirs, find_torch_build

CSRC = Path(__file__).resolve().parent.parent.parent / "csrc"


@functools.cache
def torch_library(source: Path) -> ctypes.CDLL:
    """The library that `source` is compiled to, with the flags of `memtrace build-hook`.

    Its functions are called without the GIL, each on the Python thread that calls it.
    """
    build = find_torch_build()
    assert build is not None
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as folder:
        library = Path(folder) / f"{source.stem}.so"
        flags = ["-O2", "-DNDEBUG", "-std=c++20", "-shared", "-fPIC"]
        flags.append("-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE")
        flags.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(build.cxx11_abi)}")
        headers = [*build.include_dirs, *find_cuda_include_dirs()]
        includes = [f"-I{CSRC}"]
        includes += [word for path in headers for word in ("-isystem", str(path))]
        torchs = [str(build.lib_dir / name) for name in ("libc10.so", "libtorch_cpu.so")]
        subprocess.run(
            ["g++", *flags, *includes, str(source), "-o", str(library), *torchs], check=True
        )
        return ctypes.CDLL(str(library))
