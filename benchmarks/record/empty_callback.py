"""A context in which torch's RecordFunction calls callbacks that do nothing: the floor of a tracer.

Compiled at first use with the flags of `memtrace build-hook`; needs a C++ compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from memtrace.hook.torch_build import find_torch_build


@functools.cache
def _library() -> ctypes.CDLL:
    build = find_torch_build()
    assert build is not None
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as folder:
        library = Path(folder) / "empty_callback.so"
        flags = ["-O2", "-DNDEBUG", "-std=c++20", "-shared", "-fPIC"]
        flags.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(build.cxx11_abi)}")
        includes = [word for path in build.include_dirs for word in ("-isystem", str(path))]
        source = Path(__file__).with_suffix(".cpp")
        torchs = [str(build.lib_dir / name) for name in ("libc10.so", "libtorch_cpu.so")]
        subprocess.run(
            ["g++", *flags, *includes, str(source), "-o", str(library), *torchs], check=True
        )
        return ctypes.CDLL(str(library))


@contextlib.contextmanager
def empty_callback() -> Iterator[None]:
    """RecordFunction is on, and nothing else."""
    library = _library()
    library.empty_callback_on()
    yield
    library.empty_callback_off()
