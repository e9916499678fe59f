"""Steps on the simulated CUDA runtime: inputs, outputs and caches are the tensors' own blocks."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

import simcuda
from called_models import MODELS, classes, named, run, steps, told

pytestmark = pytest.mark.cuda_sim


@functools.cache
def environment() -> dict[str, str]:
    """Of a machine with two GPUs; made when it is needed: it takes the CUDA build of torch."""
    return simcuda.environment(simcuda.Machine(devices=2))


def test_inputs_and_outputs_on_two_devices(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        """
        class Split(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Linear(8, 64, device="cuda:0")
                self.b = nn.Linear(64, 4, device="cuda:1")
            def forward(self, x, mask=None, on_host=None):
                y = self.a(x)
                return {"hidden": y, "logits": self.b(y.to("cuda:1"))}
        split = Split().half()
        for size in (3, 5, 3):
            x = torch.ones(size, 8, device="cuda", dtype=torch.half)
            mask = torch.ones(2, size, device="cuda:1", dtype=torch.bool)[1]
            pinned = torch.ones(size, 8).pin_memory()
            out = split(x, mask=mask, on_host=pinned)
            for name, tensor in [("x", x), ("mask", mask), ("on_host", pinned)]:
                tell("input", name, tensor)
            for name, tensor in out.items():
                tell("output", name, tensor)
        out["logits"].sum().backward()
        save()
        """,
        env=environment(),
    )  # fmt: skip
    assert [step[:3] for step in steps(found)] == [
        ("Split", size, {"x": [size, 8], "mask": [size], "on_host": [size, 8]})
        for size in (3, 5, 3)
    ]
    wanted = told(tmp_path)
    assert len(wanted) == 15
    assert wanted == named(found)
    devices = {row["allocation_id"]: row["device"] for row in found["allocations"]}
    of = {row["name"]: devices[row["allocation_id"]] for row in found["names"]}
    assert (of["x"], of["mask"], of["on_host"], of["logits"]) == (
        "cuda:0", "cuda:1", "cpu", "cuda:1",
    )  # fmt: skip
    weights = {row["name"]: row["dtype"] for row in found["names"] if row["kind"] == "weight"}
    assert weights["a.weight"] == "float16"


def test_caches(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = run(
        tmp_path,
        MODELS
        + """
gpt2.cuda()
def given(length): return ids(length).cuda()
out = gpt2(input_ids=given(4), use_cache=True)
for i in range(3):
    cache = out[cache_of(out)]
    tell_cache("past_key_values", cache)
    out = gpt2(input_ids=given(1), past_key_values=cache)
    tell_cache("past_key_values", cache)
    tell("output", "logits", out.logits)
save()
""",
        env=environment(),
    )
    assert classes(found) == ["GPT2LMHeadModel"] * 4
    assert told(tmp_path) - named(found) == set()
    caches = [row for row in named(found) if row[0] == "kv_cache"]
    sizes = {row[4] for row in caches if row[1] == "past_key_values layer 2 value"}
    assert {(2, 2, 5 + i, 8) for i in range(3)} <= sizes <= {(2, 2, 4 + i, 8) for i in range(4)}


def test_memory_from_before_the_recording(tmp_path: Path) -> None:
    import subprocess
    import sys

    from called_models import PRELUDE, read

    program = tmp_path / "program.py"
    program.write_text(
        PRELUDE
        + """
net.cuda()
x = torch.ones(3, 8, device="cuda")
with memtrace.record("t.memtrace"):
    y = net(x)
    tell("input", "x", x)
    tell("output", "output", y)
save()
"""
    )
    subprocess.run([sys.executable, program], cwd=tmp_path, check=True, env=environment())
    assert told(tmp_path) <= named(read(tmp_path / "t.memtrace"))
