"""A Chrome trace of a few events, with all that import knows of one."""

from __future__ import annotations

from typing import Any


def memory(ts: float, address: int, size: int, total: int, **more: Any) -> dict[str, Any]:
    args = {
        "Addr": address, "Bytes": size, "Device Type": 0, "Device Id": -1,
        "Total Allocated": total, "Total Reserved": 0, **more,
    }  # fmt: skip
    return {"ph": "i", "name": "[memory]", "pid": 7, "tid": 7, "ts": ts, "args": args}


def call(name: str, cat: str, ts: float, dur: float, **args: Any) -> dict[str, Any]:
    common = {"ph": "X", "pid": 7, "tid": 7}
    return {**common, "name": name, "cat": cat, "ts": ts, "dur": dur, "args": args}


EVENTS = [
    call("train.py(3): <module>", "python_function", 0, 100),
    call("nn.Module: Net_0", "python_function", 1, 20),
    call("aten::mm", "cpu_op", 2, 10, **{"Sequence number": 4}),
    {"ph": "s", "cat": "fwdbwd", "name": "fwdbwd", "id": 1, "pid": 7, "tid": 7, "ts": 2},
    memory(3, 4096, 64, 164),
    call("autograd::engine::evaluate_function: MmBackward0", "cpu_op", 30, 10),
    call("MmBackward0", "cpu_op", 31, 8, **{"Sequence number": 4, "Fwd thread id": 1}),
    {"ph": "f", "cat": "fwdbwd", "name": "fwdbwd", "id": 1, "pid": 7, "tid": 7, "ts": 31},
    memory(32, 8192, 32, 196),
    memory(33, 1 << 40, 512, 512, **{"Device Type": 1, "Device Id": 0, "Total Reserved": 1 << 21}),
    call("Optimizer.step#SGD.step", "user_annotation", 50, 10),
    memory(55, 4096, -64, 132),
    memory(60, 12288, -100, 32),
]
