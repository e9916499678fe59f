"""The layers of the tree, enforced: who may include or import whom. Status 1 on a violation.

python tools/check_layers.py
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 600

# Folder of csrc -> folders it may include (besides itself).
NATIVE = {
    "record": set(),
    "store": {"record"},
    "analyse": {"record", "store"},
    "replay": {"record", "store", "analyse"},
    "hook": {"record"},
    "bind": {"record", "store", "analyse", "replay", "hook"},
}
TORCH_OR_PYTHON = re.compile(
    r"^(Python\.h|frameobject\.h|internal/pycore|torch/|ATen/|c10/|pybind11/|cuda)"
)
MAY_INCLUDE_PYTHON = {"hook", "bind"}

# Package of src/memtrace -> what of memtrace it may import when it is loaded or later.
BASE = {"errors", "schema", "plain_json", "trace_json", "categories"}
PYTHON = {
    "plain_json": set(),
    "trace_json": set(),
    "categories": set(),
    "errors": set(),
    "schema": set(),
    # In the watched program.
    "sample": BASE | {"_core"},
    "recording": BASE | {"_core", "run", "stages", "steps", "hook", "sample"},
    "stages": BASE | {"_core", "recording"},
    "steps": BASE,
    "session": BASE | {"_core", "recording", "stages", "hook", "run"},
    "hook": BASE | {"_core", "_hook", "recording"},
    "run": BASE | {"_core", "recording", "stages", "session", "hook", "quantities"},
    # In the finaliser; from `run` only what names the trace directory and how a process ended.
    "finalise": BASE
    | {"_core", "run", "report", "dataset", "dataset_writer", "attribute", "sample", "progress"},
    # Another tool's file into spools; the finaliser does the rest.
    "imports": BASE | {"finalise", "run", "progress"},
    # On the files of a trace. Trace.peak() and .at() are a convenience over analyse, and what shows
    # itself in a notebook over report: imported when called.
    "shown": BASE | {"report"},
    "footer": BASE,
    "dataset": BASE | {"footer"},
    "dataset_writer": BASE | {"footer"},
    "attribute": BASE | {"dataset", "dataset_writer", "footer", "run"},
    "trace": BASE | {"dataset", "finalise", "analyse", "sql", "shown", "report"},
    "sql": BASE | {"dataset", "trace"},
    "analyse": BASE | {"dataset", "trace", "shown", "report"},
    # A recording that runs, from its spool; what it shows is of analyse and report.
    "live": BASE | {"_core", "run", "finalise", "analyse", "report"},
    "replay": BASE | {"_core", "dataset", "trace", "analyse"},
    "whatif": BASE | {"dataset", "trace", "analyse", "replay"},
    "fit": BASE | {"dataset", "trace", "analyse", "replay", "whatif"},
    "report": BASE | {"dataset", "trace", "analyse", "replay", "whatif", "fit"},
    "outputs": BASE | {"trace"},
    "output_file": BASE,
    "progress": BASE,
    "export": BASE | {"dataset", "trace", "analyse", "outputs", "progress"},
    "page": BASE | {"dataset", "trace", "analyse", "outputs", "report", "progress"},
    "frameworks": BASE
    | {"session", "recording", "trace", "analyse", "replay", "report", "quantities"}
    | {"outputs", "output_file", "page"},
    "quantities": BASE,
    "cli": BASE
    | {"trace", "attribute", "analyse", "report", "export", "page", "finalise", "run", "hook"}
    | {
        "outputs",
        "output_file",
        "progress",
        "imports",
        "replay",
        "whatif",
        "fit",
        "sql",
        "live",
        "quantities",
        "frameworks",
    },
}
# The watched program must never load these because of us.
RECORDING = {"recording", "stages", "session", "hook", "run", "plain_json", "sample", "categories"}
HEAVY = {"pyarrow", "numpy", "pandas", "rich", "click", "psutil"}


def native_violations() -> Iterator[str]:
    for path in sorted((ROOT / "csrc").rglob("*.[ch]*")):
        layer = path.relative_to(ROOT / "csrc").parts[0]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found = re.match(r'\s*#\s*include\s*["<]([^">]+)[">]', line)
            if not found:
                continue
            target = found.group(1)
            where = f"{path.relative_to(ROOT)}:{number}"
            other = target.split("/")[0]
            if other in NATIVE and other != layer and other not in NATIVE[layer]:
                yield f"{where}: {layer}/ may not include {target}"
            if TORCH_OR_PYTHON.match(target) and layer not in MAY_INCLUDE_PYTHON:
                yield f"{where}: only hook/ and bind/ may include {target}"


def imported_modules(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = package.split(".")[: -node.level + 1 or None]
                module = ".".join([*base, module]) if module else ".".join(base)
            yield node.lineno, module
            if module == "memtrace":
                for alias in node.names:
                    yield node.lineno, f"memtrace.{alias.name}"


def python_violations() -> Iterator[str]:
    source = ROOT / "src" / "memtrace"
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        layer = parts[0]
        package = ".".join(["memtrace", *parts[:-1]])
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for number, module in imported_modules(tree, package):
            where = f"{path.relative_to(ROOT)}:{number}"
            if layer in RECORDING and module.split(".")[0] in HEAVY:
                yield f"{where}: {layer} runs in the watched program and may not import {module}"
            if layer in PYTHON and module.startswith("memtrace."):
                other = module.split(".")[1]
                if other in PYTHON and other != layer and other not in PYTHON[layer]:
                    yield f"{where}: {layer} may not import {module}"


def long_files() -> Iterator[str]:
    for folder in ("csrc", "src", "tests", "benchmarks", "tools", "examples"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".cpp", ".h"}:
                lines = len(path.read_text(encoding="utf-8").splitlines())
                if lines > MAX_LINES:
                    yield f"{path.relative_to(ROOT)}: {lines} lines, more than {MAX_LINES}"


def main() -> int:
    """Prints violations of the layer rules."""
    violations = [*native_violations(), *python_violations(), *long_files()]
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
