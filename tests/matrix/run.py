"""Each wheel of `make wheel` with each torch: installed where there is no compiler, and recording.

    python tests/matrix/run.py --headers FOLDER --pythons PYTHON ... --torches [VERSION ...]

For each Python and each torch of cmake/torches.csv a virtual environment is made under
.build/matrix, used with a PATH that has nothing else on it, and removed again (a torch takes 2 GB).
CUDA builds of torch get the simulated runtime (tests/simcuda), which the compiler here builds. Each
line says a Python, a torch, its C++ ABI and CUDA, and what came out. Status 1: something failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "cmake"))

from torch_headers import known_torches  # noqa: E402

# What torch imports; of NVIDIA's packages none.
NEEDED = ("filelock", "typing-extensions", "sympy", "networkx", "jinja2", "fsspec", "setuptools<82")


class Failed(Exception):
    """A cell of the matrix; the text is one line that says at what."""


class Environment:
    """A virtual environment with a torch and our wheel, and nothing else to be found."""

    def __init__(self, python: str, version: str, headers: Path, folder: Path) -> None:
        self.folder, self.headers = folder, headers
        self.python = folder / "bin" / "python"
        self.variables = {
            **{k: v for k, v in os.environ.items() if k.startswith(("PIP_", "HOME", "LANG"))},
            "PATH": str(folder / "bin"),
            "PIP_CONSTRAINT": os.devnull,  # as in cmake/torch_headers.py
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        shutil.rmtree(folder, ignore_errors=True)
        self._run("venv", [python, "-m", "venv", str(folder)])
        tag = self._run("tag", [str(self.python), "-c", _TAG]).strip()
        wheels = sorted((ROOT / "dist").glob(f"memtrace-*-{tag}-{tag}-*.whl"))
        if not wheels:
            raise Failed(f"no wheel for {tag} in dist: make wheel")
        self._pip(f"torch=={version}", "--no-deps")
        self._pip(str(wheels[-1]), *NEEDED)
        self._simulate_cuda()

    def facts(self) -> tuple[bool, str | None]:
        """Of its torch: the C++ ABI, and the version of CUDA it is for."""
        abi, cuda = json.loads(self._run("import torch", [str(self.python), "-c", _FACTS]))
        return abi, cuda

    def record(self, device: str) -> None:
        """Records program.py on a device and compares with what that says."""
        trace = self.folder / f"{device}.memtrace"
        run = ["-m", "memtrace", "run", "--quiet", "-o", str(trace), str(HERE / "program.py")]
        said = json.loads(self._run(f"record on {device}", [str(self.python), *run, device]))
        check = [str(self.python), str(HERE / "held.py"), str(trace), device]
        seen = json.loads(self._run(f"read the trace of {device}", check))
        if seen != said:
            raise Failed(f"{device}: recorded {seen}, but there was {said}")

    def refuse(self, hook_name: str) -> None:
        """Without its hook, the line that says what to do; the program runs all the same."""
        (found,) = self.folder.glob(f"lib/python*/site-packages/memtrace/_hooks/{hook_name}*")
        found.rename(found.with_name("away"))
        trace = str(self.folder / "refused.memtrace")
        argv = ["-m", "memtrace", "run", "-o", trace, str(HERE / "program.py"), "cpu"]
        shown = self._run("refuse", [str(self.python), *argv], errors=True)
        if "to build it: python -m memtrace build-hook" not in shown or '"peak"' not in shown:
            raise Failed(f"without its hook: {shown!r}")

    def _pip(self, *words: str) -> None:
        self._run(f"install {words[0]}", [str(self.python), "-m", "pip", *_INSTALL, *words])

    def _simulate_cuda(self) -> None:
        (torch,) = self.folder.glob("lib/python*/site-packages/torch")
        if not (torch / "lib" / "libc10_cuda.so").is_file():
            return
        (home,) = self.headers.glob("cuda/nvidia/*")
        if "cuda: Optional[str] = '12." in (torch / "version.py").read_text():
            home = self._cuda_12(home / "include" / "crt")
        environ = {**os.environ, "CUDA_HOME": str(home)}
        script = [str(self.python), str(ROOT / "tests/simcuda/build.py"), str(self.folder.parent)]
        built = self._run("build simcuda", script, environ).strip()
        self.variables["LD_PRELOAD"] = f"{built}/libsimcuda-all.so"

    def _cuda_12(self, crt: Path) -> Path:
        # Its runtime's package has no crt/; what is used of that has not changed since.
        target = self.headers / "cuda12"
        home = target / "nvidia" / "cuda_runtime"
        if not home.is_dir():
            self._pip("nvidia-cuda-runtime-cu12", "--no-deps", "--target", str(target))
            shutil.copytree(crt, home / "include" / "crt", dirs_exist_ok=True)
        return home

    def _run(
        self, what: str, argv: list[str], env: dict[str, str] | None = None, errors: bool = False
    ) -> str:
        env = env or self.variables
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise Failed(f"{what}: {lines[-1]}")
        return done.stdout + (done.stderr if errors else "")


# For one run: nothing of it is kept, nor is each file of torch compiled.
_INSTALL = ("install", "-q", "--no-compile", "--no-cache-dir")
_TAG = "import sys; print('cp%d%d' % sys.version_info[:2])"
_FACTS = (
    "import json, torch; print(json.dumps([torch._C._GLIBCXX_USE_CXX11_ABI, torch.version.cuda]))"
)


def cell(python: str, version: str, headers: Path) -> str:
    """One environment: what came out, for the table."""
    folder = ROOT / ".build" / "matrix" / f"{python.strip('/').replace('/', '-')}-{version}"
    try:
        environment = Environment(python, version, headers, folder)
        abi, cuda = environment.facts()
        environment.record("cpu")
        if cuda:
            environment.record("cuda:0")
        environment.refuse(f"_hook-torch{version}-cxx11abi{int(abi)}")
    except Failed as failure:
        return f"failed: {failure}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return f"C++11 ABI {int(abi)}, {f'CUDA {cuda}' if cuda else 'CPU'}: recorded to the byte"


def main() -> int:
    """Prints the table. Status 1: a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--headers", type=Path, required=True)
    parser.add_argument("--pythons", nargs="+", required=True)
    parser.add_argument("--torches", nargs="*", default=[])
    options = parser.parse_args()
    table = []
    for python in options.pythons:
        # By its path from here on: in the environments nothing is found by name.
        show = "import sys; print(sys.executable, *sys.version_info[:3], sep='\\n')"
        shown = subprocess.run([python, "-c", show], capture_output=True, text=True, check=True)
        path, *words = shown.stdout.splitlines()
        numbers = tuple(map(int, words))
        known = [torch.version for torch in known_torches(options.headers, numbers[:2])]
        for version in dict.fromkeys(known):
            if version in options.torches or not options.torches:
                outcome = cell(path, version, options.headers)
                table.append(f"Python {'.'.join(map(str, numbers))}, torch {version}, {outcome}")
                print(table[-1], flush=True)
    failed = sum("failed: " in line for line in table)
    print(f"{len(table) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
