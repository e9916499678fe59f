"""CUDA: attaching when it is initialised, and what a replay and a check need beyond events.

Marks (FORMAT.md, `marks`) come from a few functions of torch that are replaced, once per process,
by native callables that add no Python frame and do nothing while nothing is recorded.
"""

from __future__ import annotations

import os
import sys

from memtrace import _core, recording
from memtrace.plain_json import to_json
from memtrace.recording import Recording, guarded, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from memtrace.hook.native import Describe, Description, NativeHook

# memory_stats of torch -> metric of our samples. "current" and "peak" are read by the check.
_SIZES = ("allocated_bytes", "active_bytes", "reserved_bytes", "requested_bytes")
_COUNTS = ("allocation", "segment")
_PLAIN = ("num_ooms", "num_alloc_retries")
_CONF_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")

_UNCACHED_VARIABLES = ("PYTORCH_NO_CUDA_MEMORY_CACHING", "PYTORCH_NO_HIP_MEMORY_CACHING")

_replaced = False
_queued = False


class CudaWatch:
    """What one recording does with CUDA; the replaced functions stay for the process."""

    def __init__(self, recorded: Recording, torch: ModuleType, native: NativeHook) -> None:
        self._recorded = recorded
        self._torch = torch
        self._native = native

    def begin(self) -> None:
        """Attach now, or as the first thing after CUDA has been initialised."""
        global _replaced, _queued
        torch = self._torch
        if torch.version.cuda is None:
            return
        if not _replaced:
            _replaced = True
            replace_marked_calls(torch, self._native)
        if torch.cuda.is_initialized():
            self.attach()
        elif not _queued and not torch.cuda._is_in_bad_fork():
            _queued = True
            native = self._native
            torch.cuda._lazy_call(lambda: guarded(_attach_current, torch, native))

    def attach(self) -> None:
        """CUDA is initialised: note its settings and devices, and attach to the allocator."""
        recorded, torch = self._recorded, self._torch
        guarded(lambda: recorded.note({"devices": describe_devices(torch)}))
        guarded(lambda: recorded.note({"versions": describe_versions(torch)}))
        guarded(self._note_first_settings)
        reason = why_unrecordable(torch)
        if reason is None:
            try:
                self._native.attach_cuda()
            except RuntimeError as error:
                reason = str(error)
        if reason is not None:
            text = f"CUDA memory is not recorded: {reason}"
            recorded.note({"hook_error": text})
            say(text)
            return
        # Memory from before the recording: rows `preexisting` are written natively, from the
        # allocator's own snapshot, as part of attach_cuda().

    def _note_first_settings(self) -> None:
        self._recorded.recorder.note(
            _core.ACTION_mark, name="settings", text=settings_text(self._torch, _environment_conf())
        )

    def sample(self, reason: str) -> None:
        """Torch's own counters of each device in use."""
        torch = self._torch
        if torch.version.cuda is None or not torch.cuda.is_initialized():
            return
        for index in range(torch.cuda.device_count()):
            stats = torch._C._cuda_memoryStats(index)
            if stats["reserved_bytes"]["all"]["allocated"]:
                self._sample_device(index, stats, reason)

    def _sample_device(self, index: int, stats: dict[str, Any], reason: str) -> None:
        values = {f"{n}.{k}": stats[n]["all"][k] for n in _SIZES for k in ("current", "peak")}
        values |= {f"{n}.{k}": stats[n]["all"][k] for n in _COUNTS for k in ("allocated", "freed")}
        values |= {name: stats[name] for name in _PLAIN}
        target = f"cuda:{index}"
        for metric, value in values.items():
            self._recorded.note_sample(
                target, "torch", metric, int(value), reason, device=1 + index
            )
        if not self._torch.cuda.is_current_stream_capturing():
            free, total = self._torch.cuda.mem_get_info(index)
            for metric, value in (("used", total - free), ("total", total)):
                self._recorded.note_sample(
                    target, "mem_get_info", metric, int(value), reason, device=1 + index
                )


def _attach_current(torch: ModuleType, native: NativeHook) -> None:
    # The queue outlives a recording: attach for whichever is on when CUDA comes up.
    recorded = recording.current()
    if recorded is not None and native.recording():
        CudaWatch(recorded, torch, native).attach()


def why_unrecordable(torch: ModuleType) -> str | None:
    """Why the allocator of CUDA memory has no events to give, and what to do; None: it has."""
    back_end = str(torch._C._cuda_getAllocatorBackend())
    if back_end == "pluggable":
        return (
            "a pluggable allocator (torch.cuda.memory.change_current_allocator) reports no events"
        )
    if back_end != "native":
        return (
            f"torch's allocator back end {back_end} reports no events; to record it, leave "
            f"backend:{back_end} out of PYTORCH_ALLOC_CONF"
        )
    for name in _UNCACHED_VARIABLES:
        if os.environ.get(name) == "1":
            return f"{name}=1 turns torch's caching allocator off; to record it, unset {name}"
    return None


def describe_devices(torch: ModuleType) -> list[dict[str, object]]:
    """The devices that the process can see."""
    devices: list[dict[str, object]] = []
    for index in range(torch.cuda.device_count()):
        # Not torch.cuda.get_device_properties: that may not be called while CUDA is coming up.
        properties = torch.cuda._get_device_properties(index)
        devices.append(
            {
                "device": f"cuda:{index}",
                "uuid": str(getattr(properties, "uuid", "")),
                "name": str(properties.name),
                "total_bytes": int(properties.total_memory),
            }
        )
    return devices


def describe_versions(torch: ModuleType) -> dict[str, object]:
    """All versions once more: a later note replaces an earlier one."""
    from memtrace import __version__

    return {
        "memtrace": __version__,
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "driver": driver_version(),
    }


def driver_version() -> str | None:
    """What the CUDA driver supports, "13.0"; asked of the library that torch has loaded."""
    import ctypes

    version = ctypes.c_int(0)
    if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


# ---- settings ------------------------------------------------------------------------------------


def _environment_conf() -> str:
    return next((os.environ[name] for name in _CONF_VARIABLES if os.environ.get(name)), "")


def settings_text(torch: ModuleType, conf: str) -> str:
    """The allocator's settings as torch has parsed them, for a `settings` mark."""
    found = _allocator_settings(torch)
    divisions = found.get("roundup_power2_divisions") or {}
    return to_json(
        {
            "conf": conf,
            "expandable_segments": bool(found.get("expandable_segments", False)),
            "max_split_size": _limit(found.get("max_split_size")),
            "garbage_collection_threshold": float(found.get("garbage_collection_threshold", 0.0)),
            "roundup_power2_divisions": [
                int(divisions.get(str(1 << power), 0)) for power in range(16)
            ],
            "large_segment_size": _megabytes(conf, "large_segment_size_mb"),
            "max_non_split_rounding": _megabytes(conf, "max_non_split_rounding_mb"),
        }
    )


def _allocator_settings(torch: ModuleType) -> dict[str, Any]:
    import ctypes

    # A pool that does not exist: its settings come without walking every segment.
    pool = (1, 1)
    # torch 2.11 drops a reference to both numbers that it does not own; one more each makes up
    # for it, and where torch has mended this, costs nothing.
    for number in pool:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(number))
    found: dict[str, Any] = torch._C._cuda_memorySnapshot(pool)["allocator_settings"]
    return found


def _limit(value: object) -> int:
    # torch holds "no limit" as the largest size; it reads back as -1 or as a huge number.
    return value if isinstance(value, int) and 0 < value < 1 << 62 else -1


def _megabytes(conf: str, name: str) -> int | None:
    for word in conf.replace(" ", "").split(","):
        key, _, value = word.partition(":")
        if key == name and value.isdigit():
            return int(value) << 20
    return None


# ---- marks ---------------------------------------------------------------------------------------


def replace_marked_calls(torch: ModuleType, native: NativeHook) -> None:
    """Put a native callable in the place of each function that a replay must know of."""
    c = torch._C

    def replace(owner: Any, name: str, kind: str, describe: Describe, *, after: bool) -> None:
        original = getattr(owner, name, None)
        if original is None:
            return
        marked = native.marked(original, kind, describe, after)
        setattr(owner, name, marked)
        if owner is c:  # and where it was imported by name
            for module in (torch.cuda, torch.cuda.memory, torch.cuda.graphs):
                if getattr(module, name, None) is original:
                    setattr(module, name, marked)

    def settings(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Description | None:
        conf = str(args[0] if args else next(iter(kwargs.values()), ""))
        if not torch.cuda.is_initialized():  # the first mark of all will tell
            return to_json({"conf": conf}), 0, 0, 0
        return settings_text(torch, conf), 0, 0, 0

    def fraction(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Description | None:
        share, device = (*args, *kwargs.values())[:2]
        text = to_json({"fraction": float(share), "device": int(device)})
        return text, 0, 0, 1 + int(device)

    replace(c, "_cuda_emptyCache", "empty_cache", _nothing, after=False)
    replace(c, "_accelerator_emptyCache", "empty_cache", _nothing, after=False)
    replace(c, "_cuda_setMemoryFraction", "memory_fraction", fraction, after=False)
    replace(c, "_cuda_resetPeakMemoryStats", "reset_peak", _reset, after=False)
    replace(c, "_accelerator_resetPeakStats", "reset_peak", _reset, after=False)
    replace(c, "_accelerator_setAllocatorSettings", "settings", settings, after=True)
    old_settings = "_cuda_cudaCachingAllocator_set_allocator_settings"  # torch < 2.9
    replace(c, old_settings, "settings", settings, after=True)
    for name in (
        "_cuda_beginAllocateToPool",
        "_cuda_beginAllocateCurrentStreamToPool",
        "_cuda_beginAllocateCurrentThreadToPool",
    ):
        replace(c, name, "use_pool_begin", _device_and_pool, after=False)
    for name in ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"):
        replace(c, name, "use_pool_end", _device_and_pool, after=False)
    replace(c, "_cuda_releasePool", "pool_unref", _device_and_pool, after=True)
    graph = getattr(c, "_CUDAGraph", None)
    if graph is not None:
        replace(graph, "capture_begin", "capture_begin", _capture_begin, after=False)
        replace(graph, "capture_end", "capture_end", _capture_end, after=True)
        replace(graph, "reset", "pool_unref", _reset_graph, after=False)
    pool = getattr(c, "_MemPool", None)
    if pool is not None:
        replace(pool, "__init__", "pool_ref", _new_pool, after=True)


def _nothing(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Description | None:
    return "", 0, 0, 0


def _reset(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Description | None:
    recorded = recording.current()
    if recorded is not None and recorded.hook is not None:
        guarded(recorded.hook.cuda_peaks.before_reset)
    return _device(args, kwargs)


def _device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Description | None:
    return "", 0, 0, 1 + int((*args, *kwargs.values())[0])


def _device_and_pool(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Description | None:
    device, pool = (*args, *kwargs.values())[:2]
    return "", int(pool[0]), int(pool[1]), 1 + int(device)


def _capture_begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Description | None:
    # A graph without a given pool gets a private one, which it names only after capture_end: the
    # mark then says 0, 0, and the `capture_end` of the same thread has the pool.
    pool = kwargs.get("pool") or (args[1] if len(args) > 1 else None) or (0, 0)
    return "", int(pool[0]), int(pool[1]), 1 + _current_device()


def _capture_end(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Description | None:
    return _watch_end_of(args[0], args[0].pool(), "pool_unref")


def _reset_graph(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Description | None:
    # Its pool is let go now, and not once more when the graph itself goes.
    return _watched.pop(id(args[0]), (None, None))[1]


def _new_pool(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Description | None:
    begun = _watch_end_of(args[0], args[0].id, "pool_destroyed")
    rules = guarded(_rules_of_pool, args)
    return (to_json(rules), *begun[1:]) if rules else begun


def _rules_of_pool(args: tuple[Any, ...]) -> dict[str, bool]:
    # What MemPool gives _MemPool: itself, its allocator, that the program made it, and the rest of
    # its own parameters, which are others in other versions.
    import inspect

    names = list(inspect.signature(sys.modules["torch"].cuda.MemPool.__init__).parameters)[2:]
    rules = {"own_allocator": args[1] is not None, **dict(zip(names, args[3:], strict=False))}
    return {name: True for name in ("no_split", "own_allocator") if rules.get(name)}


def _current_device() -> int:
    return int(sys.modules["torch"]._C._cuda_getDevice())


# Owners of memory pools by id(): a reference that sees their end, and what a mark says of the pool.
_watched: dict[int, tuple[object, Description]] = {}


def _watch_end_of(owner: object, pool: tuple[int, int], kind: str) -> Description:
    import weakref

    description = ("", int(pool[0]), int(pool[1]), 1 + _current_device())
    owner_id = id(owner)

    def note_end(reference: object) -> None:
        if _watched.get(owner_id, (None,))[0] is not reference:
            return
        _, (_, first, second, device) = _watched.pop(owner_id)
        recorded = recording.current()
        if recorded is not None:
            guarded(
                lambda: recorded.recorder.note(
                    _core.ACTION_mark, name=kind, value=first, value2=second, device=device
                )
            )

    _watched[owner_id] = (weakref.ref(owner, note_end), description)
    return description
