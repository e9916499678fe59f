"""Tensors used on a second stream: record_stream delays the reuse of their memory.

On the simulated runtime the second stream is held, so the frees are pending for as long as the
program says; on a GPU the work itself takes its time.
"""

from __future__ import annotations

import ctypes

import torch

SINGLE_THREADED = True


def control(name: str, stream: torch.cuda.Stream) -> None:
    """Calls a control of the simulated runtime, if there is one in this process."""
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(ctypes.c_void_p(stream.cuda_stream))


def main() -> None:
    """Frees tensors that another stream uses, while it is held and after its release."""
    side = torch.cuda.Stream()
    tensors = [torch.empty(size << 20, dtype=torch.uint8, device="cuda") for size in (1, 3, 12, 40)]
    control("simcuda_hold_stream", side)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        results = [tensor.add(1) for tensor in tensors]
    for tensor in tensors:
        tensor.record_stream(side)
    del tensor, tensors
    # These can't reuse the memory that is still in use.
    others = [torch.empty(size << 20, dtype=torch.uint8, device="cuda") for size in (40, 12)]
    del others
    control("simcuda_release_stream", side)
    # The next allocation notices, and these can.
    reused = [torch.empty(size << 20, dtype=torch.uint8, device="cuda") for size in (40, 3)]
    torch.cuda.current_stream().wait_stream(side)
    for result in results:
        result.record_stream(torch.cuda.current_stream())
    del reused, result, results
    torch.cuda.synchronize()
    torch.empty(1, device="cuda")


if __name__ == "__main__":
    main()
