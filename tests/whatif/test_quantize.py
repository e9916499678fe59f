"""A program with quantised linear layers, predicted from its recording as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

import memtrace
from memtrace.errors import MemtraceError
from memtrace.replay.outcome import serve_on_host
from memtrace.replay.requests import Requests, read_requests
from memtrace.whatif.change import Change
from memtrace.whatif.quantized_kernels import SCHEMES
from memtrace.whatif.registry import WHAT_IFS, apply_all
from program_runs import recorded
from trace_builder import ProcessBuilder, TraceBuilder

PROGRAM = Path(__file__).parent / "unpacking_program.py"
OUTPUTS, INPUTS, ROWS = 100, 50, 8


def of_run(folder: Path, weights: str) -> Requests:
    shown = recorded(folder / f"{weights}.memtrace", PROGRAM, weights)
    assert shown.status == 0, shown.err.decode()[-500:]
    return read_requests(memtrace.open(folder / f"{weights}.memtrace"), device="cpu")


def test_int8_weights_that_are_unpacked_for_each_product(tmp_path: Path) -> None:
    base, real = of_run(tmp_path, "float32"), of_run(tmp_path, "int8")
    changed, _ = apply_all(base, {"quantize": ("int8-weight-only",)})
    starts = [sorted(one.trace.steps["start_seq"].to_pylist()) for one in (base, real)]
    for step in (0, 1):  # at a small batch what unpacks the head is the peak, at a large one logits
        windows = [
            (place[step], place[step + 1] if step == 0 else float("inf")) for place in starts
        ]
        predicted, true = (
            serve_on_host(one).peak(start=begin, end=end).total_bytes
            for one, (begin, end) in zip((changed, real), windows, strict=True)
        )
        assert abs(predicted / true - 1) <= 0.002
    as_recorded = serve_on_host(base).peak(start=starts[0][0]).total_bytes
    assert as_recorded / serve_on_host(changed).peak(start=starts[0][0]).total_bytes < 2  # not 4


def linear_trace(builder: TraceBuilder, *, tied: bool = False) -> ProcessBuilder:
    """One call of a linear layer `fc` after an embedding: 20,000 B of weights, 3,200 of result."""
    process = builder.process()
    weight = process.alloc("cpu", 4 * OUTPUTS * INPUTS)
    tensor = {"kind": "weight", "shape": [OUTPUTS, INPUTS], "dtype": "float32", "offset_bytes": 0}
    process.name(weight, "fc.weight", **tensor)
    if tied:
        process.name(weight, "embed.weight", **tensor)
    with process.step():
        module = {"module": "embed", "module_class": "Embedding", "phase": "forward"}
        process.alloc("cpu", 4 * ROWS * INPUTS, operator="aten::index_select", **module)
        module = {"module": "fc", "module_class": "Linear", "phase": "forward"}
        with process.call("aten::linear") as call:
            result = process.alloc(
                "cpu", 4 * ROWS * OUTPUTS, operator="aten::mm", operator_call_id=call, **module
            )
        process.free(result)
    return process


def asked(builder: TraceBuilder, text: str) -> tuple[Requests, Change]:
    requests = read_requests(memtrace.open(builder.write()), device="cpu")
    changed, (change,) = apply_all(requests, {"quantize": (text,)})
    return changed, change


def test_what_is_kept_and_what_the_kernel_holds(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "t.memtrace")
    linear_trace(builder)
    changed, change = asked(builder, "int8-weight-only")
    packed, scales = OUTPUTS * INPUTS, OUTPUTS * (4 + 1)
    unpacked, product = 4 * OUTPUTS * INPUTS, 4 * ROWS * OUTPUTS
    assert changed.size_bytes.tolist() == [
        packed, 4 * ROWS * INPUTS, product, scales, unpacked, product,
    ]  # fmt: skip
    embedded = 4 * ROWS * INPUTS
    assert serve_on_host(changed).peak().total_bytes == (
        packed + scales + embedded + unpacked + product
    )
    assert changed.rows["category"].to_pylist()[-2:] == ["temporary", "temporary"]
    assert change.what == "weights as int8-weight-only (torchao)"
    assert "1 weights of nn.Linear, 20,000 B" in change.assumptions[0]


def test_a_head_that_shares_the_embeddings_weight_is_a_packed_copy_more(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "t.memtrace")
    linear_trace(builder, tied=True)
    changed, change = asked(builder, "nf4")
    assert changed.size_bytes[0] == 4 * OUTPUTS * INPUTS
    assert changed.size_bytes[3] == OUTPUTS * INPUTS // 2
    assert any("shared with an embedding" in line for line in change.assumptions)


def test_on_cuda_the_workspace_of_products_with_a_bias_goes_with_them(tmp_path: Path) -> None:
    for other in (False, True):
        builder = TraceBuilder(tmp_path / f"{other}.memtrace")
        process = builder.process()
        weight = process.alloc("cuda:0", 4 * OUTPUTS * INPUTS)
        process.name(weight, "fc.weight", kind="weight", shape=[OUTPUTS, INPUTS], dtype="float32")
        inside = {"module": "fc", "module_class": "Linear", "operator": "aten::addmm"}
        with process.call("aten::addmm") as call:
            process.alloc("cuda:0", 4 * ROWS * OUTPUTS, operator_call_id=call, **inside)
            for size_bytes in (8 << 20, 1 << 20):
                kept = {"operator_call_id": call, "category": "workspace"}
                process.alloc("cuda:0", size_bytes, **inside, **kept)
        if other:
            process.alloc("cuda:0", 512, operator="aten::addmm", module="h", module_class="Conv1D")
        requests = read_requests(memtrace.open(builder.write()), device="cuda:0")
        changed, _ = apply_all(requests, {"quantize": ("int8-weight-only",)})
        assert changed.size_bytes.tolist().count(8 << 20) == 1
        assert changed.size_bytes.tolist().count(1 << 20) == other


def test_a_layer_without_a_product_of_its_own_is_packed_and_told_of(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "t.memtrace")
    process = builder.process()
    weight = process.alloc("cpu", 4 * OUTPUTS * INPUTS)
    process.name(weight, "fc.weight", kind="weight", shape=[OUTPUTS, INPUTS], dtype="float32")
    process.alloc("cpu", 64, operator="aten::view", module="fc", module_class="Linear")
    changed, change = asked(builder, "int4")
    assert changed.size_bytes.tolist() == [OUTPUTS * INPUTS // 2, 64, OUTPUTS * 4]
    assert any("no product of their own was seen" in line for line in change.assumptions)
    assert any("has not been verified by a run" in line for line in change.assumptions)


def test_published_sizes_of_llama_3_8b() -> None:
    """torchao's README: 15.01 GB of bfloat16 are 7.52 in int8, and 3.56 times less in int4-64."""
    hidden, key, mlp = 4096, 1024, 14336
    of_a_layer = [(hidden, hidden)] * 2 + [(key, hidden)] * 2 + [(mlp, hidden)] * 2
    shapes = [*(of_a_layer + [(hidden, mlp)]) * 32, (128_256, hidden)]
    assert round(sum(n * k for n, k in shapes) * 2 / 1e9, 2) == 15.01
    for name, group, published in (("int8-weight-only", 0, 7.52), ("int4", 64, 15.01 / 3.56)):
        scheme = SCHEMES[name]
        each_scale = 4 if name == "int4" else 3
        scales = sum(n * (k // group if group else 1) for n, k in shapes) * each_scale
        total = sum(scheme.packed_bytes(n, k) for n, k in shapes) + scales
        assert abs(total / 1e9 / published - 1) <= 0.005
        kernel = scheme.kernels["cuda"]
        assert scheme.scales_bytes(kernel, (1, group or 4096), 2) == each_scale


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "t.memtrace")
    process = linear_trace(builder)
    requests = read_requests(memtrace.open(builder.write()), device="cpu")
    for text, said in (
        ("int9", "--quantize int9: there are int8-weight-only, "),
        ("int4:some", "a group of weights is given as int4:64"),
        ("nf4:64", "a group of weights is given as int4:64"),
    ):
        with pytest.raises(MemtraceError, match=said):
            apply_all(requests, {"quantize": (text,)})
    process.alloc("cpu", 64, operator="aten::mm", phase="backward")
    trained = TraceBuilder(tmp_path / "trained.memtrace")
    training = linear_trace(trained)
    training.alloc("cpu", 64, operator="aten::mm", phase="backward")
    with pytest.raises(MemtraceError, match="for inference only"):
        asked(trained, "nf4")
    empty = TraceBuilder(tmp_path / "empty.memtrace")
    empty.process().alloc("cpu", 64)
    with pytest.raises(MemtraceError, match=r"no weight of an nn\.Linear is known"):
        asked(empty, "nf4")


def test_the_help_lists_every_scheme() -> None:
    (summary,) = (what_if.summary for what_if in WHAT_IFS if what_if.name == "quantize")
    assert all(name in summary for name in SCHEMES)
