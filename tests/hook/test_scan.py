"""Weights and buffers get their names by identity; mapped memory is found."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from program_runs import recorded

pytest.importorskip("torch", exc_type=ImportError)  # or one that does not load


Tables = dict[str, list[dict[str, Any]]]


def tables(tmp_path: Path, text: str, *options: str) -> Tables:
    """Datasets of a program's trace."""
    trace = tmp_path / "t.memtrace"
    shown = recorded(trace, *options, written(tmp_path, text), cwd=tmp_path)
    assert (shown.status, shown.err) == (0, b"")
    return read(trace)


def recorded_part(tmp_path: Path, text: str) -> Tables:
    """Datasets of t.memtrace, which the program records itself."""
    done = subprocess.run(
        [sys.executable, written(tmp_path, text)], cwd=tmp_path, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return read(tmp_path / "t.memtrace")


def written(tmp_path: Path, text: str) -> Path:
    program = tmp_path / "program.py"
    program.write_text("import torch, memtrace\nfrom torch import nn\n" + textwrap.dedent(text))
    return program


def read(trace: Path) -> Tables:
    import pyarrow.parquet as pq

    return {
        name: [
            row
            for part in sorted(trace.glob(f"{name}/*/*.parquet"))
            for row in pq.read_table(part, partitioning=None).to_pylist()
        ]
        for name in ("names", "allocations", "events", "processes")
    }


def held(found: Tables) -> list[dict[str, Any]]:
    """Names of what models hold; calls name more."""
    return [row for row in found["names"] if row["kind"] in ("weight", "buffer")]


def lost(found: Tables) -> dict[str, int]:
    (process,) = found["processes"]
    return {kind: count for kind, count in json.loads(process["lost_events"]).items() if count}


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
    names = [(row["name"], row["dtype"]) for row in held(found)]
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
    assert all(row["name"].startswith(("transformer.", "lm_head.")) for row in held(found))


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


def test_models_that_are_mapped_one_after_another(tmp_path: Path) -> None:
    # The memory map changes between the looks at them, and between labels.
    found = tables(tmp_path, """
        def mapped(name):
            torch.save(nn.Linear(300, 300).state_dict(), name)
            return torch.load(name, mmap=True)
        models = []
        for number in range(3):
            models.append(nn.Linear(300, 300))
            models[-1].load_state_dict(mapped(f"{number}.pt"), assign=True)
            models[-1](torch.zeros(1, 300))
        labelled = mapped("labelled.pt")["weight"]
        memtrace.label(labelled, "by hand")
    """)  # fmt: skip
    external = [row for row in found["allocations"] if row["origin"] == "external"]
    assert len(external) >= 4
    assert {row["memory"] for row in external} == {"mapped"}


def test_shared_weights_are_external(tmp_path: Path) -> None:
    found = tables(tmp_path, """
        net = nn.Linear(400, 500, bias=False).share_memory()
        net(torch.zeros(1, 400))
        memtrace.stage("seen")
    """)  # fmt: skip
    assert "shared" in {row["memory"] for row in found["allocations"]}


def test_memory_of_numpy_ends_with_the_last_tensor_in_it(tmp_path: Path) -> None:
    found = tables(tmp_path, """
        import numpy as np
        array = np.ones((100, 100), dtype=np.float32)
        def model(array, rows):
            net = nn.Linear(100, rows, bias=False)
            net.weight = nn.Parameter(torch.from_numpy(array[:rows]))
            net.kept = [torch.from_numpy(array)]
            net(torch.zeros(1, 100))
            return net
        net = model(array, 100)
        memtrace.stage("first")
        del net
        memtrace.stage("none")
        net = model(array, 50)  # the same address, half of it
        memtrace.stage("second")
        net = None
        net = model(array, 50)  # another life, with no look between
        memtrace.stage("third")
    """)  # fmt: skip
    rows = [row for row in found["allocations"] if row["origin"] == "external"]
    assert [row["size_bytes"] for row in rows] == [40_000, 20_000, 20_000]
    assert [row["memory"] for row in rows] == ["host"] * 3
    assert all(row["free_seq"] is not None for row in rows[:2])
    assert rows[0]["free_seq"] < rows[1]["alloc_seq"]
    assert [row["resident_bytes"] for row in rows] == [40_000, 20_000, 20_000]
    assert [row["label"] for row in rows] == ["weight"] * 3
    assert lost(found) == {}


def test_another_file_at_the_same_address_is_another_row(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    import torch

    for name in ("first", "second"):
        safetensors.save_file({name: torch.ones(500, 400)}, tmp_path / f"{name}.safetensors")
    found = tables(tmp_path, """
        from safetensors.torch import load_file
        places = []
        for name in ("first", "second"):
            net = nn.Module()
            net.forward = lambda x: x + 1
            net.register_parameter(name, nn.Parameter(load_file(name + ".safetensors")[name]))
            net(torch.zeros(1, 400))
            memtrace.stage(name)
            places.append(net._parameters[name].data_ptr())
            net = None
        assert len(set(places)) == 1, places
    """)  # fmt: skip
    rows = [row for row in found["allocations"] if row["origin"] == "external"]
    assert [row["label"] for row in rows] == ["first", "second"]
    assert all(row["free_seq"] is not None for row in rows)


def test_a_model_from_before_the_recording_has_its_weights(tmp_path: Path) -> None:
    found = recorded_part(tmp_path, """
        net = nn.Sequential(nn.Linear(100, 200), nn.Linear(200, 10))
        freed = torch.ones(1000)
        with memtrace.record("t.memtrace"):
            net(torch.zeros(1, 100))
            memtrace.label(freed, "mine")
            net[1] = None
            del freed
            memtrace.stage("after")
            kept = torch.ones(10)
    """)  # fmt: skip
    rows = {row["label"]: row for row in found["allocations"] if row["origin"] == "preexisting"}
    sizes = {"0.weight": 80_000, "0.bias": 800, "1.weight": 8_000, "1.bias": 40, "mine": 4_000}
    assert {label: row["size_bytes"] for label, row in rows.items()} == sizes
    alive = {label for label, row in rows.items() if row["free_seq"] is None}
    assert alive == {"0.weight", "0.bias"}
    # They count from the first event on.
    first = next(row for row in found["events"] if row["action"] == "alloc")
    assert first["allocated_bytes"] == sum(sizes.values()) + first["size_bytes"]
    live = [row for row in found["allocations"]
            if row["free_seq"] is None and row["origin"] != "external"]  # fmt: skip
    last = found["events"][-1]
    assert last["allocated_bytes"] == sum(row["size_bytes"] for row in live)
    assert lost(found) == {}


def test_a_block_freed_by_torch_that_was_there_before(tmp_path: Path) -> None:
    found = recorded_part(tmp_path, """
        with memtrace.record("first.memtrace"):
            net = nn.Linear(100, 200)  # its frees are recorded ever after
        with memtrace.record("t.memtrace"):
            net(torch.zeros(1, 100))
            memtrace.stage("seen")
            del net
            kept = torch.ones(10)
    """)  # fmt: skip
    rows = [row for row in found["allocations"] if row["origin"] == "preexisting"]
    assert sorted(row["size_bytes"] for row in rows) == [800, 80_000]
    assert all(row["free_seq"] is not None for row in rows)
    (process,) = found["processes"]
    assert process["unmatched_frees"] == 0
    assert found["events"][-1]["allocated_bytes"] == 40


def test_memory_that_torch_was_handed_can_be_labelled(tmp_path: Path) -> None:
    found = tables(tmp_path, """
        import numpy as np
        array = np.ones(1000)
        tensor = memtrace.label(torch.from_numpy(array), "mine", category="input")
    """)  # fmt: skip
    (row,) = (row for row in found["allocations"] if row["origin"] == "external")
    assert (row["label"], row["category"], row["size_bytes"]) == ("mine", "input", 8000)
    assert row["resident_bytes"] == 8000
    assert lost(found) == {}


@pytest.mark.parametrize("options", [(), ("--no-operators",), ("--stack-min-bytes", "100000000")])
def test_models_have_names_whatever_is_recorded(tmp_path: Path, options: tuple[str, ...]) -> None:
    program = """
        class Net(nn.Module):
            def __init__(self, name):
                super().__init__()
                self.register_parameter(name, nn.Parameter(torch.ones(100)))
            def forward(self, x): return x + 1
        def use(name):
            net = Net(name)
            net(torch.zeros(1))
            return net
        use("dropped")
        net = use("kept")
    """
    found = tables(tmp_path, program, *options)
    assert sorted(row["name"] for row in held(found)) == ["dropped", "kept"]
    (process,) = found["processes"]
    assert process["unscanned_models"] == 0


def test_a_model_that_no_scan_could_see_is_counted(tmp_path: Path) -> None:
    found = tables(tmp_path, """
        import threading
        def work():
            net = nn.Linear(100, 100)
            net(torch.zeros(1, 100))
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()  # a pending call waits for the main thread
    """)  # fmt: skip
    (process,) = found["processes"]
    assert process["unscanned_models"] == 1 - bool(held(found))


def test_weights_that_are_made_of_others(tmp_path: Path) -> None:
    found = tables(tmp_path, """
        import warnings
        warnings.simplefilter("ignore")  # torch calls them a prototype
        class Quantized(torch.Tensor):  # as those of torchao
            @staticmethod
            def __new__(cls, codes, scale):
                return torch.Tensor._make_wrapper_subclass(cls, codes.shape)
            def __init__(self, codes, scale):
                self.codes, self.scale = codes, scale
            __torch_function__ = torch._C._disabled_torch_function_impl
            @classmethod
            def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
                return cls(args[0].codes, args[0].scale)  # detach
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                codes = torch.ones(100, 100, dtype=torch.int8)
                self.weight = nn.Parameter(Quantized(codes, torch.ones(100)), requires_grad=False)
                self.register_buffer("coo", torch.eye(100).to_sparse())
                self.register_buffer("csr", torch.eye(100).to_sparse_csr())
            def forward(self, x):
                return x + torch.ones(1000)
        net = Net()
        for _ in range(3):
            net(torch.ones(1))
    """)  # fmt: skip
    allocations = {row["allocation_id"]: row for row in found["allocations"]}
    sizes = {
        row["name"]: (row["kind"], row["dtype"], allocations[row["allocation_id"]]["category"])
        for row in held(found)
    }
    assert sizes == {
        "weight.codes": ("weight", "int8", "weight"),
        "weight.scale": ("weight", "float32", "weight"),
        "coo.indices": ("buffer", "int64", "buffer"),
        "coo.values": ("buffer", "float32", "buffer"),
        "csr.compressed_indices": ("buffer", "int64", "buffer"),
        "csr.indices": ("buffer", "int64", "buffer"),
        "csr.values": ("buffer", "float32", "buffer"),
    }


def test_models_that_are_called_deeper_than_stacks_reach(tmp_path: Path) -> None:
    found = tables(tmp_path, """
        import sys
        sys.setrecursionlimit(5000)
        models = [nn.Linear(100, 100) for _ in range(4)]
        def deep(depth):
            if depth:
                return deep(depth - 1)
            with torch.no_grad():
                for model in models:
                    model(torch.ones(1, 100))
        deep(600)
    """)  # fmt: skip
    weights = [row for row in held(found) if row["name"] == "weight"]
    assert len({row["allocation_id"] for row in weights}) == 4
    (process,) = found["processes"]
    assert process["unscanned_models"] == 0


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


def test_a_new_model_costs_a_look_at_itself_alone(tmp_path: Path) -> None:
    # Programs make small modules all the time (a loss in each step): the large ones beside them
    # are not walked again.
    found = tables(tmp_path, """
        from memtrace.hook import scan
        large = nn.Sequential(*(nn.Linear(2, 2) for _ in range(300)))
        large(torch.zeros(1, 2))
        seen = 0
        described = scan.Scan._describe
        def count(*args):
            global seen
            seen += 1
            return described(*args)
        scan.Scan._describe = count
        for _ in range(100):
            nn.Linear(2, 2)(torch.zeros(1, 2))
        # Now and then, when much more time has passed than it takes, all are looked at.
        assert 0 < seen <= 2 * 100 + 2 * 600, seen
        before = seen
        large[7](torch.zeros(1, 2))  # a part of a known model is no new one
        assert seen <= before + 600, seen
        memtrace.stage("all are looked at again")
        assert seen >= before + 600, seen
    """)  # fmt: skip
    assert {row["name"] for row in found["names"]} >= {"299.weight", "weight"}
    assert len([row for row in found["names"] if row["name"] == "7.weight"]) == 1
