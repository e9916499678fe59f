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


def test_parts_that_are_called_on_their_own_are_the_models(tmp_path: Path) -> None:
    found = tables(tmp_path, """
        class Part(nn.Module):
            def __init__(self):
                super().__init__()
                self.l = nn.Linear(8, 8)
            def forward(self, x): return self.l(x)
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.enc, self.dec = Part(), Part()
            def forward(self, x): return self.dec(self.enc(x))
        model = Model()
        x = torch.ones(2, 8)
        kept = [model.enc(x)]
        memtrace.stage("a part is known")
        kept += [model(x), model.dec(x)]
        memtrace.stage("the model is known")
        model.double()
    """)  # fmt: skip
    forward = [row["module"] for row in found["allocations"]
               if row["top_operator"] == "aten::linear" and row["free_seq"] is None]  # fmt: skip
    assert forward == ["enc.l", "enc.l", "dec.l", "dec.l"]
    names = [(row["name"], row["dtype"]) for row in found["names"]]
    wanted = {f"{part}.l.{name}" for part in ("enc", "dec") for name in ("weight", "bias")}
    assert sorted(names) == sorted((n, d) for n in wanted for d in ("float32", "float64"))


def test_blocks_that_are_computed_again_are_the_models(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = tables(tmp_path, """
        import os
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)  # it warns of this and that
        from transformers import GPT2Config, GPT2LMHeadModel
        config = GPT2Config(n_layer=3, n_embd=16, n_head=2, vocab_size=50, n_positions=16)
        model = GPT2LMHeadModel(config)
        model.gradient_checkpointing_enable()
        ids = torch.zeros(1, 8, dtype=torch.long)
        for _ in range(2):
            model(ids, labels=ids).loss.backward()
    """)  # fmt: skip
    modules = {row["module"] for row in found["allocations"]}
    for block in range(3):
        assert f"transformer.h.{block}.mlp.c_fc" in modules
    assert not modules & {"act", "attn", "c_fc", "mlp", "mlp.c_fc", "GPT2Block", "GPT2Attention"}
    assert all(row["name"].startswith(("transformer.", "lm_head.")) for row in found["names"])


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
