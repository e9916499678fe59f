"""Pinned host memory in every way that a program gets it. Needs CUDA, which may be simulated.

Beside its storages, the account says how many blocks torch's host allocator has given out so far,
and their bytes.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import Any

import held_storages
import torch
from torch.utils.data import DataLoader, TensorDataset


def mark(name: str) -> None:
    """As held_storages.mark(), with what of it is pinned and torch's own count."""
    held_storages.mark(name)
    tensors = [t for t in held_storages._tensors() if t.device.type == "cpu" and t.is_pinned()]
    storages = [tensor.untyped_storage() for tensor in tensors]
    stats: dict[str, Any] = torch.cuda.host_memory_stats()
    held_storages._marks[-1] |= {
        "pinned": sorted({(storage.data_ptr(), storage.nbytes()) for storage in storages}),
        "blocks": stats["active_requests.allocated"],
        "block_bytes": stats["active_bytes.allocated"],
    }


def copies() -> None:
    """Copies in both directions; memory is freed while a copy still uses it."""
    machine = ctypes.CDLL(None)
    stream = torch.cuda.Stream()
    handle = ctypes.c_void_p(stream.cuda_stream)
    source = torch.ones(3000, 7).pin_memory()
    machine.simcuda_hold_stream(handle)
    with torch.cuda.stream(stream):
        on_device = source.to("cuda", non_blocking=True)
        back = on_device.to("cpu", non_blocking=True)
    address = source.data_ptr()
    mark("copied")
    del source
    mark("freed under way")
    other = torch.empty(3000, 7, pin_memory=True)
    assert other.data_ptr() != address, "the block is still used by the copy"
    mark("beside it")
    machine.simcuda_release_stream(handle)
    torch.cuda.synchronize()
    again = torch.empty(3000, 7, pin_memory=True)
    assert "pinned_use" in os.environ.get("PYTORCH_ALLOC_CONF", "") or again.data_ptr() == address
    mark("used again")
    del back, other, again


def loaders() -> None:
    """A DataLoader that pins in this thread, and one whose worker's batches a thread pins."""
    data = TensorDataset(torch.arange(1000.0).reshape(40, 25), torch.arange(40))
    for batch in DataLoader(data, batch_size=8, pin_memory=True):
        mark("batch")
    for batch in DataLoader(data, batch_size=8, pin_memory=True, num_workers=1):
        assert all(tensor.is_pinned() for tensor in batch)
    mark("batches of a worker")
    del batch


def main() -> None:
    early = torch.empty(1000, dtype=torch.uint8, pin_memory=True)  # before CUDA is initialised
    assert not torch.cuda.is_initialized()
    torch.cuda.init()
    mark("early")
    sizes = [torch.empty(n, dtype=torch.uint8, pin_memory=True) for n in (1, 64, 4097, 1 << 21, 0)]
    view = sizes[3][10:]
    mark("sizes")
    del sizes
    mark("a view")
    view.untyped_storage().resize_(5000)
    mark("resized")
    del view, early
    copies()
    loaders()
    thread = threading.Thread(target=copies)
    thread.start()
    thread.join()
    kept = torch.ones(100).pin_memory()
    child = os.fork()
    if child == 0:
        del kept
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    mark("end")
    held_storages.write(sys.argv[1])


main()
