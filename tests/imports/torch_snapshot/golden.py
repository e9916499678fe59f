"""Small memory snapshots in every form that torch has written, made of plain values.

    python tests/imports/torch_snapshot/golden.py     writes golden/*.pickle again

The same little program in all of them, on one device: a weight of 3000 bytes is allocated, then an
activation of 2,000,000 bytes, which is freed. Each form says of it what its torch could say. Keys
and their order are those of torch/csrc/cuda/Module.cpp and memory_snapshot.cpp at that version.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "golden"

SMALL, LARGE = 0x7F00_0000_0000, 0x7F00_1000_0000
MIB = 1 << 20
WEIGHT_BYTES, WEIGHT_BLOCK, ACTIVATION_BYTES = 3000, 3072, 2_000_000
ACTIVATION_BLOCK = 2_000_384
STREAM = 0
T0 = 1_700_000_000_000_000

WEIGHT_FRAMES = [
    {"name": "build", "filename": "/home/u/model.py", "line": 12},
    {"name": "<module>", "filename": "/home/u/train.py", "line": 3},
]
ACTIVATION_FRAMES = [
    {"name": "forward", "filename": "/home/u/model.py", "line": 20},
    {"name": "<module>", "filename": "/home/u/train.py", "line": 7},
]
CPP_FRAMES = [
    {"name": "torch::unwind::unwind()", "filename": "??", "line": 0},
    {"name": "at::(anonymous namespace)::wrapper_CUDA_memory_format_empty(...)",
     "filename": "RegisterCUDA.cpp", "line": 0},
    {"name": "at::_ops::empty_memory_format::redispatch(...)", "filename": "", "line": 0},
    {"name": "at::_ops::mm::call(at::Tensor const&, at::Tensor const&)", "filename": "", "line": 0},
    {"name": "at::_ops::linear::call(...)", "filename": "", "line": 0},
    *ACTIVATION_FRAMES,
    {"name": "_start", "filename": "??", "line": 0},
]  # fmt: skip
FX_FRAMES = [
    {**ACTIVATION_FRAMES[0], "fx_node_op": "call_function", "fx_node_name": "linear",
     "fx_original_trace": "File model.py, line 20", "fx_node_info": {"nodes": [1, 2]}},
    *ACTIVATION_FRAMES[1:],
]  # fmt: skip

SETTINGS = {
    "PYTORCH_CUDA_ALLOC_CONF": "", "max_split_size": -1, "garbage_collection_threshold": 0.0,
    "expandable_segments": False, "pinned_num_register_threads": 1,
    "release_lock_on_cudamalloc": False, "pinned_use_cuda_host_register": False,
    "roundup_power2_divisions": {str(1 << power): 0 for power in range(16)},
}  # fmt: skip


def segments(blocks: str) -> list[dict[str, Any]]:
    """The end: the weight in the small segment, the large one empty. `blocks` names their form."""
    live: dict[str, Any] = {"size": WEIGHT_BLOCK, "state": "active_allocated"}
    small_rest: dict[str, Any] = {"size": 2 * MIB - WEIGHT_BLOCK, "state": "inactive"}
    large_rest: dict[str, Any] = {"size": 20 * MIB, "state": "inactive"}
    if blocks == "history":
        entry = {"addr": SMALL, "real_size": WEIGHT_BYTES, "frames": WEIGHT_FRAMES}
        live["history"] = [entry]
        gone = {"addr": LARGE, "real_size": ACTIVATION_BYTES, "frames": ACTIVATION_FRAMES}
        large_rest["history"] = [gone]
    elif blocks == "frames":
        live |= {"address": SMALL, "requested_size": WEIGHT_BYTES, "frames": WEIGHT_FRAMES}
        small_rest |= {"address": SMALL + WEIGHT_BLOCK, "requested_size": 0, "frames": []}
        large_rest |= {"address": LARGE, "requested_size": 0, "frames": []}
    found = []
    for address, size, kind, inside in (
        (SMALL, 2 * MIB, "small", [live, small_rest]),
        (LARGE, 20 * MIB, "large", [large_rest]),
    ):
        active = WEIGHT_BLOCK if kind == "small" else 0
        segment = {
            "device": 0, "address": address, "total_size": size, "allocated_size": active,
            "active_size": active, "stream": STREAM, "segment_type": kind, "blocks": inside,
        }  # fmt: skip
        if blocks == "frames":
            segment |= {
                "requested_size": WEIGHT_BYTES if active else 0, "segment_pool_id": (0, 0),
                "is_expandable": False, "frames": [],
            }  # fmt: skip
        found.append(segment)
    return found


def trace(*, frames: list[dict[str, Any]] | None, **more: Any) -> list[dict[str, Any]]:
    """The events of the program."""
    steps = [
        ("segment_alloc", SMALL, 2 * MIB, WEIGHT_FRAMES),
        ("alloc", SMALL, WEIGHT_BYTES, WEIGHT_FRAMES),
        ("segment_alloc", LARGE, 20 * MIB, frames),
        ("alloc", LARGE, ACTIVATION_BYTES, frames),
        ("free_requested", LARGE, ACTIVATION_BYTES, frames),
        ("free_completed", LARGE, ACTIVATION_BYTES, frames),
    ]
    events = []
    for place, (action, address, size, stack) in enumerate(steps):
        event: dict[str, Any] = {
            "action": action, "addr": address, "size": size, "stream": STREAM,
        }  # fmt: skip
        if more.get("timed"):
            event["time_us"] = T0 + 10 * place
        event |= more.get("keys", {})
        if stack is not None and frames is not None:
            event["frames"] = stack
        events.append(event)
    return events


NEW_KEYS = {"compile_context": "N/A", "user_metadata": "", "category": "unknown"}
ANNOTATIONS = [
    {"name": "## forward ##", "stage": "START", "device": 0, "time_us": T0 + 15},
    {"name": "## forward ##", "stage": "END", "device": 0, "time_us": T0 + 45},
]
OOM = {"action": "oom", "device_free": 77, "size": 1 << 40, "stream": STREAM, "time_us": T0 + 60,
       "frames": ACTIVATION_FRAMES}  # fmt: skip

#: Name of the file -> protocol of the pickle, and what it holds.
FORMS: dict[str, tuple[int, Any]] = {
    "torch-1.12": (4, segments("plain")),
    "torch-1.13": (4, {"segments": segments("history")}),
    "torch-2.0": (
        4, {"segments": segments("history"), "device_traces": [trace(frames=ACTIVATION_FRAMES)]},
    ),
    "torch-2.1": (
        4,
        {"segments": segments("frames"), "device_traces": [trace(frames=CPP_FRAMES)],
         "allocator_settings": SETTINGS},
    ),
    "torch-2.2-protocol-2": (  # as torch/csrc/cuda/memory_snapshot.cpp writes it
        2,
        {"segments": segments("frames"),
         "device_traces": [trace(frames=ACTIVATION_FRAMES, timed=True)],
         "allocator_settings": SETTINGS},
    ),
    "torch-2.6": (
        3,
        {"segments": segments("frames"),
         "device_traces": [[*trace(frames=CPP_FRAMES, timed=True, keys=NEW_KEYS), OOM], []],
         "allocator_settings": SETTINGS, "external_annotations": ANNOTATIONS},
    ),
    "torch-2.11-fx": (
        5,
        {"segments": segments("frames"),
         "device_traces": [trace(frames=FX_FRAMES, timed=True, keys=NEW_KEYS)],
         "allocator_settings": SETTINGS, "external_annotations": []},
    ),
}  # fmt: skip


def pickled(name: str) -> bytes:
    """The bytes of a golden file."""
    protocol, value = FORMS[name]
    return pickle.dumps(value, protocol=protocol)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for form in FORMS:
        (FOLDER / f"{form}.pickle").write_bytes(pickled(form))
