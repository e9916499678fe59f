"""A simulated CUDA machine for tests: torch's real CUDA caching allocator, without a GPU.

In this process, before torch is imported::

    import simcuda

    simcuda.load(devices=2, memory_mb=1024)
    import torch

In a child process::

    argv, env = simcuda.python_command("program.py", memory_mb=512)
    subprocess.run(argv, env=env, check=True)

Kernels do nothing: sizes, addresses and the order of events are right, values are meaningless.
README.md says what this can stand in for.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from simcuda.build import ENTRY, BuildError, build

if TYPE_CHECKING:
    import torch

__all__ = [
    "TESTS_FOLDER",
    "BuildError",
    "Counters",
    "Machine",
    "SimcudaError",
    "build",
    "counters",
    "environment",
    "hold_stream",
    "is_loaded",
    "load",
    "python_command",
    "real_gpu",
    "release_stream",
    "set_capacity",
    "set_foreign",
    "unavailable",
]


class SimcudaError(RuntimeError):
    """The simulated runtime was used in a way that can't work."""


@dataclass(frozen=True)
class Machine:
    """The simulated machine. Memory is per device."""

    devices: int = 1
    memory_mb: int = 1024
    context_mb: int = 300
    compute_capability: int = 80
    allocation_us: int = 0

    def variables(self) -> dict[str, str]:
        """Returns the environment variables that describe this machine."""
        return {
            "SIMCUDA_DEVICES": str(self.devices),
            "SIMCUDA_MEM_MB": str(self.memory_mb),
            "SIMCUDA_CONTEXT_MB": str(self.context_mb),
            "SIMCUDA_CC": str(self.compute_capability),
            "SIMCUDA_MALLOC_US": str(self.allocation_us),
        }


@dataclass(frozen=True)
class Counters:
    """What a device holds and has done; used = allocated + context + foreign."""

    capacity_bytes: int
    used_bytes: int
    allocated_bytes: int
    context_bytes: int
    foreign_bytes: int
    mallocs: int
    frees: int
    launches: int
    """Of all devices together."""


_COUNTER_NAMES = tuple(field.name for field in fields(Counters))


class _RawCounters(ctypes.Structure):
    # SimcudaCounters in src/controls.cpp: the same fields in the same order.
    _fields_ = [(name, ctypes.c_uint64) for name in _COUNTER_NAMES]


TESTS_FOLDER = Path(__file__).resolve().parent.parent
"""What a child process needs on its PYTHONPATH to import simcuda."""

_loaded_machine: Machine | None = None


def unavailable(cache: Path | None = None) -> str | None:
    """Returns why the simulation can't be used in this environment, or None if it can."""
    try:
        build(cache)
    except BuildError as error:
        return str(error)
    return None


def real_gpu() -> bool:
    """True where NVIDIA's driver is: what also runs on a real GPU prefers it to the simulation."""
    return Path("/dev/nvidiactl").exists()


def is_loaded() -> bool:
    """True if this process has the simulated runtime, by `load` or from its environment."""
    return hasattr(ctypes.CDLL(None), "simcuda_configure")


def load(
    *,
    devices: int = 1,
    memory_mb: int = 1024,
    context_mb: int = 300,
    compute_capability: int = 80,
    allocation_us: int = 0,
    cache: Path | None = None,
) -> None:
    """Makes this process a simulated CUDA machine. Call before torch is imported.

    A second call with the same machine does nothing.

    Raises:
        SimcudaError: torch is there already, or another machine is.
        BuildError: the runtime can't be built here.
    """
    global _loaded_machine
    machine = Machine(devices, memory_mb, context_mb, compute_capability, allocation_us)
    if _loaded_machine == machine:
        return
    if not is_loaded():
        if "torch" in sys.modules:
            raise SimcudaError("simcuda.load() must come before torch is imported")
        # The loader makes the symbols of ENTRY's dependencies global too.
        ctypes.CDLL(str(build(cache) / ENTRY), mode=ctypes.RTLD_GLOBAL)
    status = _library().simcuda_configure(
        devices,
        ctypes.c_uint64(memory_mb << 20),
        ctypes.c_uint64(context_mb << 20),
        compute_capability,
        allocation_us,
    )
    if status != 0:
        raise SimcudaError(f"this process already uses another simulated machine: {machine}")
    _loaded_machine = machine


def environment(machine: Machine | None = None, *, cache: Path | None = None) -> dict[str, str]:
    """Returns this process's environment, changed so that a child process gets the machine.

    The child's own children get it too, each a machine of its own.
    """
    entry = str(build(cache) / ENTRY)
    if " " in entry or ":" in entry:
        raise SimcudaError(f"LD_PRELOAD can't hold this path, use another cache folder: {entry}")
    preloaded = [entry, *os.environ.get("LD_PRELOAD", "").split()]
    variables = (machine or Machine()).variables()
    return {**os.environ, **variables, "LD_PRELOAD": " ".join(dict.fromkeys(preloaded))}


def python_command(
    program: str | Path,
    *arguments: str,
    devices: int = 1,
    memory_mb: int = 1024,
    context_mb: int = 300,
    compute_capability: int = 80,
    allocation_us: int = 0,
    interpreter: Sequence[str] = (sys.executable,),
    cache: Path | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Returns the command line and the environment that run a program on a simulated machine.

    `interpreter` is what comes before the program, such as ``(sys.executable, "-c")``.
    """
    machine = Machine(devices, memory_mb, context_mb, compute_capability, allocation_us)
    return [*interpreter, str(program), *arguments], environment(machine, cache=cache)


def hold_stream(stream: torch.cuda.Stream | int) -> None:
    """Leaves the stream's work from now on unfinished, so that its events don't complete.

    It ends with `release_stream`. Whoever waits for the stream or for an event on it (as the
    allocator does before it gives up for want of memory) gets the work so far completed.
    """
    _library().simcuda_hold_stream(_handle(stream))


def release_stream(stream: torch.cuda.Stream | int) -> None:
    """Lets a held stream's work complete."""
    _library().simcuda_release_stream(_handle(stream))


def set_capacity(size_bytes: int, *, device: int = 0) -> None:
    """Changes how much memory a device has; less than it uses means that it is full."""
    _check(_library().simcuda_set_capacity(device, ctypes.c_uint64(size_bytes)), device)


def set_foreign(size_bytes: int, *, device: int = 0) -> None:
    """Lets another, made-up process hold so much of the device; NVML lists it."""
    _check(_library().simcuda_set_foreign(device, ctypes.c_uint64(size_bytes)), device)


def counters(device: int = 0) -> Counters:
    """Returns what the device holds and has done."""
    raw = _RawCounters()
    _check(_library().simcuda_read_counters(device, ctypes.byref(raw)), device)
    return Counters(*(getattr(raw, name) for name in _COUNTER_NAMES))


def _library() -> ctypes.CDLL:
    if not is_loaded():
        raise SimcudaError("no simulated CUDA machine in this process: call simcuda.load() first")
    return ctypes.CDLL(None)


def _handle(stream: torch.cuda.Stream | int) -> ctypes.c_void_p:
    return ctypes.c_void_p(stream if isinstance(stream, int) else stream.cuda_stream)


def _check(status: int, device: int) -> None:
    if status != 0:
        raise SimcudaError(f"the simulated machine has no device {device}")
