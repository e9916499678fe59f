"""Builds `memtrace_stack_testing` for the running interpreter, with nothing but a C++ compiler.

`MEMTRACE_SANITIZE=address,undefined` builds it with those sanitizers (tests/hook/run_asan.sh).
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HOOK = ROOT / "csrc" / "hook"
SOURCES = [
    Path(__file__).with_name("extension.cpp"),
    *(
        HOOK / f"{name}.cpp"
        for name in (
            *("code_text", "object_identity", "outermost_call", "python_identity", "python_stack"),
            "walk_gate",
        )
    ),
]
NAME = "memtrace_stack_testing"


def build() -> Path:
    """The folder that holds the extension; compiled when a source is newer."""
    sanitize = os.environ.get("MEMTRACE_SANITIZE", "")
    tag = f"{sys.implementation.cache_tag}{'-' + sanitize.replace(',', '-') if sanitize else ''}"
    folder = ROOT / ".build" / "stack_testing" / tag
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{NAME}{sysconfig.get_config_var('EXT_SUFFIX')}"
    headers = [*HOOK.glob("*.h"), *(ROOT / "csrc" / "record").glob("*.h")]
    newest = max(path.stat().st_mtime for path in (*SOURCES, *headers))
    if library.exists() and library.stat().st_mtime > newest:
        return folder
    unfinished = library.with_suffix(f".{os.getpid()}")
    flags = ["-O2", "-DNDEBUG", "-fvisibility=hidden"]
    if sanitize:
        flags = ["-O1", "-g", f"-fsanitize={sanitize}", "-fno-omit-frame-pointer"]
    subprocess.run(
        [
            *(os.environ.get("CXX", "c++"), "-std=c++20", "-shared", "-fPIC", "-pthread"),
            *("-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", *flags),
            *("-isystem", sysconfig.get_path("include"), "-I", str(ROOT / "csrc")),
            *(map(str, SOURCES)),
            *("-o", str(unfinished)),
        ],
        check=True,
    )
    unfinished.replace(library)
    return folder
