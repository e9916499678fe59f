"""Weights and buffers get their names by identity; mapped memory is found."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from program_runs import recorded

pytest.importorskip("torch", exc_type=ImportError)  # or one that does not load


def tables(tmp_path: Path, text: str) -> dict[str, list[dict[str, Any]]]:
    """Datasets of a program's trace."""
    import pyarrow.parquet as pq

    program = tmp_path / "program.py"
    program.write_text("import torch, memtrace\nfrom torch import nn\n" + textwrap.dedent(text))
    trace = tmp_path / "t.memtrace"
    shown = recorded(trace, program, cwd=tmp_path)
    assert (shown.status, shown.err) == (0, b"")
    return {
        name: [
            row
            for part in sorted(trace.glob(f"{name}/*/*.parquet"))
            for row in pq.read_table(part, partitioning=None).to_pylist()
        ]
        for name in ("names", "allocations")
    }


def test_weights_buffers_and_tied_ones(tmp_path: Path) -> None:
    found = tables(tmp_path, """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = nn.Embedding(50, 16)
                self.head = nn.Linear(16, 50, bias=False)
                self.head.weight = self.embed.weight
                self.norm = nn.BatchNorm1d(50)
                self.again = self.norm
                self.cycle = [self]
                self.norm.inner = self.norm  # a module that contains itself
            def forward(self, x):
                return self.again(self.norm(self.head(self.embed(x))))
        net = Net()
        net(torch.zeros(4, dtype=torch.long))
        memtrace.stage("seen")
    """)  # fmt: skip
    by_name = {row["name"]: row for row in found["names"]}
    assert by_name["embed.weight"]["kind"] == "weight"
    assert by_name["norm.running_mean"]["kind"] == "buffer"
    assert by_name["head.weight"]["allocation_id"] == by_name["embed.weight"]["allocation_id"]
    assert by_name["again.bias"]["allocation_id"] == by_name["norm.bias"]["allocation_id"]
    assert by_name["embed.weight"]["shape"] == [50, 16]
    weights = [row for row in found["allocations"] if row["category"] == "weight"]
    assert sum(row["size_bytes"] for row in weights) == 4 * (50 * 16 + 50 + 50)


def test_a_model_that_changes_is_named_anew(tmp_path: Path) -> None:
    found = tables(tmp_path, """
        net = nn.Linear(100, 100)
        net(torch.zeros(1, 100))
        memtrace.stage("float")
        net.double()
        memtrace.stage("double")
    """)  # fmt: skip
    dtypes = [row["dtype"] for row in found["names"] if row["name"] == "weight"]
    assert dtypes == ["float32", "float64"]


def test_mapped_weights_are_external(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    import torch

    safetensors.save_file({"weight": torch.ones(500, 400)}, tmp_path / "m.safetensors")
    found = tables(tmp_path, """
        from safetensors.torch import load_file
        net = nn.Linear(400, 500, bias=False)
        net.load_state_dict(load_file("m.safetensors"), assign=True)
        net(torch.zeros(1, 400))
        memtrace.stage("seen")
    """)  # fmt: skip
    (row,) = (row for row in found["allocations"] if row["origin"] == "external")
    assert (row["memory"], row["size_bytes"]) == ("mapped", 4 * 500 * 400)
    assert 0 < row["resident_bytes"] <= row["size_bytes"]
    assert row["label"] == "weight"


def test_shared_weights_are_external(tmp_path: Path) -> None:
    found = tables(tmp_path, """
        net = nn.Linear(400, 500, bias=False).share_memory()
        net(torch.zeros(1, 400))
        memtrace.stage("seen")
    """)  # fmt: skip
    assert "shared" in {row["memory"] for row in found["allocations"]}


def test_no_code_of_the_program_runs(tmp_path: Path) -> None:
    tables(tmp_path, """
        class Touchy(torch.Tensor):
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):
                if armed: raise SystemExit("touched")
                return super().__torch_function__(func, types, args, kwargs or {})
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(100).as_subclass(Touchy))
                self.meta = nn.Parameter(torch.ones(3, device="meta"))
            def named_parameters(self, *args, **kwargs): raise SystemExit("called")
            def __getattr__(self, name):
                if armed: raise SystemExit("asked for " + name)
                return super().__getattr__(name)
            def __eq__(self, other): raise SystemExit("compared")
            __hash__ = None
            def forward(self, x): return torch.empty(1000)
        armed = False
        net = Net()
        armed = True
        net(torch.ones(1))
        memtrace.stage("seen")
    """)  # fmt: skip


def test_labels(tmp_path: Path) -> None:
    found = tables(tmp_path, """
        cache = memtrace.label(torch.empty(1000), "my cache", category="kv_cache")
        view = memtrace.label(torch.empty(100)[10:], "my view")
        memtrace.label("not a tensor", "x")
    """)  # fmt: skip
    labels = {row["label"]: row["category"] for row in found["allocations"] if row["label"]}
    assert labels["my cache"] == "kv_cache"
    assert "my view" in labels
    offsets = {row["name"]: row["offset_bytes"] for row in found["names"]}
    assert offsets["my view"] == 40
