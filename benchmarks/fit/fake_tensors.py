"""The peak of program.py's steps by torch's own means: FakeTensor and MemTracker.

    python benchmarks/fit/fake_tensors.py --model gpt2 --train --batch 4 --dtype bfloat16

It is given the changed program itself, not a trace of another. Prints bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

sys.path.insert(0, str(Path(__file__).resolve().parent))

import program


def main() -> None:
    """As program.main, with tensors that have no memory."""
    options = program.parse()
    # A module of fake tensors can't be moved: it is built where, and as what, it is wanted.
    torch.set_default_dtype(getattr(torch, options.dtype))
    torch.set_default_device(options.device)
    torch.nn.Module.to = lambda module, *_: module  # type: ignore[method-assign]
    # An optimizer that steps all tensors at once leaves a fake count of steps at 0, and divides.
    sys.modules["torch.optim.adam"]._get_value = lambda _: 1.0  # type: ignore[attr-defined]
    batches, lengths, calls = options.batch, options.sequence, options.calls
    with FakeTensorMode(allow_non_fake_inputs=True):
        model, optimizer = program.prepared(options)
        tracker = MemTracker()
        tracker.track_external(model, *([] if optimizer is None else [optimizer]))
        options.calls = 1
        for place, batch in enumerate(batches.split(",")):
            options.batch, options.sequence = (
                batch,
                lengths.split(",")[place % len(lengths.split(","))],
            )
            for _ in range(calls):
                with tracker:
                    program.steps(options, model, optimizer)
                tracker.reset_mod_stats()  # a second call is refused otherwise
    device = torch.device(options.device, 0 if options.device == "cuda" else None)
    peak = tracker.get_tracker_snapshot("peak")
    print(next(sizes["Total"] for at, sizes in peak.items() if at.type == device.type))


if __name__ == "__main__":
    main()
