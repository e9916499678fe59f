"""What the torch at hand was built with, and so how a hook for it is named and compiled.

Stand-alone on purpose (standard library only, no import of memtrace): CMake runs this file with the
interpreter it builds for, before the package exists.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

HOOK_LIBRARIES = ("libc10.so", "libtorch_cpu.so", "libtorch_python.so")  # those a hook needs
_NEWEST_PYTHON = (3, 13)  # csrc/hook/python_frame.h: how its frames lie in memory is known
_CUDA_HEADERS = ("cuda_runtime_api.h", "crt/host_defines.h")


@dataclass(frozen=True)
class TorchBuild:
    """One torch in one Python: what a compiled hook has to match."""

    version: str  # "2.13.0": without the local part, since one hook serves +cpu and +cu130
    cxx11_abi: bool
    root: Path  # the torch package

    @property
    def hook_file_name(self) -> str:
        return hook_file_name(self.version, cxx11_abi=self.cxx11_abi)

    @property
    def include_dirs(self) -> list[Path]:
        include = self.root / "include"
        return [include, include / "torch" / "csrc" / "api" / "include"]

    @property
    def lib_dir(self) -> Path:
        return self.root / "lib"


def hook_file_name(version: str, *, cxx11_abi: bool) -> str:
    """The file name of a hook, which says what it was compiled for."""
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    return f"_hook-torch{version}-cxx11abi{int(cxx11_abi)}{suffix}"


def python_refusal() -> str | None:
    """Why no hook can work in this Python, in a few words; None: one can."""
    if sys.version_info[:2] <= _NEWEST_PYTHON:
        return None
    newest, this = (".".join(map(str, v[:2])) for v in (_NEWEST_PYTHON, sys.version_info))
    return f"memtrace's hook is for Python 3.10 to {newest}, and this is {this}"


def find_torch_build() -> TorchBuild | None:
    """The torch of this interpreter, read from its files without importing it; None: no torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    version = ""
    for line in (root / "version.py").read_text(encoding="utf-8").splitlines():
        if line.startswith("__version__"):
            version = line.split("=", 1)[1].strip().strip("'\"")
    return TorchBuild(version.split("+")[0], _reads_cxx11_abi(root), root)


def _reads_cxx11_abi(root: Path) -> bool:
    # c10's symbols carry the ABI of std::string in their names. Only one that is c10's own tells: a
    # library with the old ABI may hold a whole libstdc++, which has both.
    library = (root / "lib" / "libc10.so").read_bytes()
    return b"_ZN3c1011LogAPIUsageERKNSt7__cxx1112basic_string" in library


def find_cuda_include_dirs() -> list[Path]:
    """Folders with cuda_runtime_api.h and what it needs: PyPI's header packages, else a toolkit."""
    purelib, platlib = sysconfig.get_path("purelib"), sysconfig.get_path("platlib")
    found: list[Path] = []
    # sys.path too: pip's build environments and --target folders are on it, and nowhere else.
    folders = [platlib, purelib, *sys.path]
    for site in dict.fromkeys(folder for folder in folders if folder):
        for header in sorted(Path(site, "nvidia").glob("*/include/cuda_runtime_api.h")):
            found.append(header.parent)
        for header in sorted(Path(site, "nvidia").glob("*/include/crt/host_defines.h")):
            found.append(header.parent.parent)
    # The runtime's package alone, which comes with torch, is not enough to compile with.
    if not all(any((folder / name).is_file() for folder in found) for name in _CUDA_HEADERS):
        return _find_toolkit()
    return list(dict.fromkeys(found))


def _find_toolkit() -> list[Path]:
    named = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    usual = [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"))]
    for toolkit in [*map(Path, named), *usual]:
        include = toolkit / "include"
        if all((include / name).is_file() for name in _CUDA_HEADERS):
            return [include]
    return []


def cmake_list(build: TorchBuild, cuda: list[Path]) -> str:
    """One hook for cmake/hook.cmake: file name|C++ ABI|libraries' folder|include folder|..."""
    parts = [build.hook_file_name, int(build.cxx11_abi), build.lib_dir, *build.include_dirs, *cuda]
    return "|".join(str(part) for part in parts)


def main() -> int:
    """Prints cmake_list() of the torch at hand. Status 1: says why not."""
    if refusal := python_refusal():
        print(refusal, file=sys.stderr)  # noqa: T201
        return 1
    build = find_torch_build()
    if build is None:
        print("torch is not in the build environment", file=sys.stderr)  # noqa: T201
        return 1
    cuda = find_cuda_include_dirs()
    if not cuda:
        print(  # noqa: T201
            "no CUDA headers: pip install nvidia-cuda-runtime nvidia-cuda-crt", file=sys.stderr
        )
        return 1
    print(cmake_list(build, cuda))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
