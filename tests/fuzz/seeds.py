"""Sound spools that say something of every kind: what the fuzzer of the spool starts from."""

from __future__ import annotations

import struct
from pathlib import Path

from spool_writer import RECORDS_GRAPH, SpoolWriter

_CHUNK_BYTES = 5 * 64
_CONTROL_BYTES = 512  # of its page: all that is read


def packed(spool: Path) -> bytes:
    """As spool_fuzzer.cpp takes it: three sizes, then the four files."""
    control = (spool / "control.bin").read_bytes()[:_CONTROL_BYTES]
    files = [control, *((spool / name).read_bytes() for name in ("windows.bin", "records.bin"))]
    sizes = struct.pack("<III", *map(len, files))
    return sizes + b"".join(files) + (spool / "text.log").read_bytes()


def spool_seeds(folder: Path) -> dict[str, bytes]:
    """By name."""
    made = {"cuda": _cuda, "cpu": _cpu, "training": _training, "killed": _killed}
    return {name: packed(make(folder / name)) for name, make in made.items()}


def _spool(folder: Path, *, ended: bool = True) -> SpoolWriter:
    return SpoolWriter(folder, chunk_bytes=_CHUNK_BYTES, end=(1 << 20, 1 << 20) if ended else None)


def _cuda(folder: Path) -> Path:
    spool = _spool(folder)
    log = spool.log()
    log.mark(1, "settings", text='{"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:32"}')
    log.mark(2, "pool", value=1, value2=2)
    log.event("preexisting", 3, 0x7F0000000000, 1024, device=0, reserved=2, order=1)
    log.event("segment_alloc", 4, 0x7F0000200000, 2 << 20, device=0, order=2)
    log.alloc(5, 0x7F0000200000, 700, device=0, order=3, op="aten::mm", top="aten::linear")
    log.event("free_requested", 6, 0x7F0000200000, 700, device=0, order=4)
    log.event("free_completed", 7, 0x7F0000200000, 700, device=0, order=5)
    log.event("segment_map", 8, 0x7F1000000000, 20 << 20, device=0, order=6, pool=spool.pool(0, 3))
    log.event("segment_unmap", 9, 0x7F1000000000, 2 << 20, device=0, order=7)
    log.event("segment_free", 10, 0x7F0000200000, 2 << 20, device=0, order=8)
    log.event("oom", 11, 0, 1 << 40, device=0, order=9, stream=1 << 20)
    log.mark(11, "oom", text='{"free": 1}')
    log.event("snapshot", 12, 0, 0, device=0, order=10)
    log.sample(13, "allocated_bytes", 0, target="cuda:0", device=0)
    log.sample(14, "reserved_bytes", 2 << 20, target="cuda:0", device=0)
    return spool.finish()


def _cpu(folder: Path) -> Path:
    spool = _spool(folder)
    spool.process(argv=["train.py"], host="here", start_method="main")
    spool.tensor(address=0x1000, size_bytes=4096, name="weight", kind="weight", dtype="float32")
    one, other = spool.log(), spool.log()
    spool.thread(1, 1)
    spool.thread(2, 7)
    stack = spool.stack(
        [("forward", "model.py", 3, spool.module("Net", path="")), ("<module>", "train.py", 9, 0)]
    )
    one.alloc(10, 0x1000, 4096, stack=stack, op="aten::empty", call=1)
    one.span(9, 12, 1, "aten::empty", stack=stack)
    other.alloc(11, 0x3000, 64, pool=2)
    other.free(20, 0x1000)
    other.event("external", 21, 0x8000, 1 << 20, pool=3)
    one.note("stage_begin", 22, "load", value=1, text="user")
    one.note("stage_end", 30, "load", value=1)
    one.mark(31, "paused")
    one.mark(33, "resumed")
    one.free(34, 0x9999)
    return spool.finish(last_chunks_in_windows=True)


def _training(folder: Path) -> Path:
    spool = _spool(folder)
    log = spool.log()
    root = spool.module("Net", path="")
    stack = spool.stack([("forward", "model.py", 3, spool.module("Linear", path="h.0", root=root))])
    text = '{"batch_size": 4, "input_shapes": {"x": [4, 8]}, "grad_enabled": true}'
    log.note("step_begin", 5, "Net", value=1, text=text)
    log.tensor(6, 0x5000, "x", "input", "float32 4x8", size=128)
    log.alloc(7, 0x6000, 256, call=1, stack=stack, reserved=RECORDS_GRAPH)
    log.span(6, 8, 1, "aten::linear", stack=stack, sequence=4, nodes=1)
    log.note("step_end", 9, "", value=1)
    log.mark(10, "backward_begin", value=1)
    log.context(11, 2, "node", sequence=4, forward_thread=1)
    log.alloc(12, 0x7000, 256, call=2, reserved=2)
    log.span(11, 13, 2, "AddmmBackward0", scope=1, sequence=4, forward_thread=1, context=2)
    log.tensor(14, 0x7000, "grad of h.0.weight", "gradient", "float32 8x8", size=256)
    log.mark(15, "backward_end", value=1)
    log.mark(16, "optimizer_begin")
    log.context(16, 3, "optimizer")
    log.alloc(17, 0x8000, 512, call=3, reserved=3)
    log.tensor(18, 0x8000, "exp_avg of h.0.weight", "optimizer_state", "float32 8x8", size=256)
    log.mark(19, "optimizer_end")
    log.free(20, 0x6000)
    return spool.finish()


def _killed(folder: Path) -> Path:
    spool = _spool(folder, ended=False)
    log = spool.log()
    for place in range(11):
        log.alloc(place + 1, 0x1000 * (place + 1), 100 * place)
    return spool.finish(last_chunks_in_windows=True)
