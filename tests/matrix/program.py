"""A step of training whose memory is known to the byte: prints what is live at its peak.

Before that the same inference runs alone and with torch.profiler beside, which sends operators the
long way (csrc/hook/dispatcher_shortcut.h): held.py says whether both left the same.

On a GPU, where torch holds memory of its own as well, the peak is what torch's counter says. There
torch 2.15's thread of the backward pass asks for the GIL once more when the pass has ended: that is
waited for, since a Python that has ended by then makes it end the program (`terminate called`).
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

import torch
from torch.profiler import ProfilerActivity, profile, record_function

device = sys.argv[1]
model = torch.nn.Sequential(torch.nn.Linear(512, 256), torch.nn.Linear(256, 64)).to(device)
inputs = torch.ones(128, 512, device=device)
model(inputs).sum().backward()
for beside in (contextlib.nullcontext(), profile(activities=[ProfilerActivity.CPU])):
    with torch.no_grad(), beside, record_function("one way"):
        model(inputs).view(-1).unsqueeze(0).t().softmax(0).select(0, 1).item()
kept = [torch.ones(1024, 256, device=device) for _ in range(8)]
weights = list(model.parameters())
gradients = [weight.grad for weight in weights]
live = [inputs, *weights, *gradients, *kept]
size = sum(tensor.nbytes for tensor in live)
peak = size if device == "cpu" else torch.cuda.max_memory_allocated()
held = sum(tensor.nbytes for tensor in weights)
hook = sys.modules.get("memtrace._hook")
shortcut = hook and hook.has_dispatcher_shortcut() and hook.counts_listeners()
came = {"shortcut": shortcut, "same_operators": True}
print(json.dumps({"peak": peak, "weight": held, "gradient": held, **came}))
if device != "cpu":
    time.sleep(0.5)
