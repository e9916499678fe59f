"""Where half precision runs other kernels: attention on CUDA, convolutions in float16."""

from __future__ import annotations

from pathlib import Path

import memtrace
from memtrace.replay.requests import Requests, read_requests
from memtrace.whatif.change import Change
from memtrace.whatif.registry import apply_all
from trace_builder import ProcessBuilder, TraceBuilder

SIZE, SCORES = 64_000, 128_000


def asked(builder: TraceBuilder, device: str, dtype: str) -> tuple[Requests, Change]:
    requests = read_requests(memtrace.open(builder.write()), device=device)
    changed, (change,) = apply_all(requests, {"dtype": (dtype,)})
    return changed, change


def attention(process: ProcessBuilder, device: str, *, masked: bool = False) -> None:
    """One call by plain operators, of a query, a key and a value of SIZE each."""
    inside = {"phase": "forward", "module": "attn", "module_class": "Attention"}
    for _ in range(3):
        process.alloc(device, SIZE, operator="aten::mm", top_operator="aten::linear", **inside)
    with process.call("aten::scaled_dot_product_attention") as call:
        names = ["mul", "mul", "bmm", *(["add"] if masked else []), "_softmax", "bmm"]
        for name in names:
            scores = name in ("_softmax", "add") or (name == "bmm" and "bmm" not in names[:3])
            with process.call(f"aten::{name}", parent_call_id=call) as part:
                made = process.alloc(
                    device, SCORES if scores else SIZE, operator=f"aten::{name}",
                    top_operator="aten::scaled_dot_product_attention", operator_call_id=part,
                    **inside,
                )  # fmt: skip
            if name != "bmm":
                process.free(made)


def test_on_cuda_the_fused_kernel_takes_attention_and_makes_no_scores(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "t.memtrace")
    attention(builder.process(), "cuda:0")
    changed, change = asked(builder, "cuda:0", "bf16")
    # Query, key, value and the result at half; sums of rows for heads of 64.
    assert sorted(changed.size_bytes.tolist()) == [SIZE // 64, *[SIZE // 2] * 4]
    assert any("attention by the fused kernel" in line for line in change.assumptions)


def test_with_a_mask_of_its_own_the_scores_stay_float32(tmp_path: Path) -> None:
    for device, masked in (("cuda:0", True), ("cpu", False)):
        builder = TraceBuilder(tmp_path / f"{device[:4]}.memtrace")
        attention(builder.process(), device, masked=masked)
        changed, change = asked(builder, device, "bf16")
        assert changed.size_bytes.tolist().count(SCORES) == 1 + masked
        assert any("attention as plain operators" in line for line in change.assumptions)


def test_float16_unfolds_the_input_of_a_convolution_on_the_cpu(tmp_path: Path) -> None:
    channels, inputs, places = 8, 4, 100
    for dtype in ("fp16", "bf16"):
        builder = TraceBuilder(tmp_path / f"{dtype}.memtrace")
        process = builder.process()
        weight = process.alloc("cpu", 4 * channels * inputs * 9)
        shape = [channels, inputs, 3, 3]
        process.name(weight, "conv.weight", kind="weight", dtype="float32", shape=shape)
        inside = {"phase": "forward", "module": "conv", "module_class": "Conv2d"}
        made = {"operator": "aten::mkldnn_convolution", "top_operator": "aten::conv2d", **inside}
        with process.call("aten::conv2d") as call:
            copy = process.alloc("cpu", 4 * inputs * places, operator_call_id=call, **made)
            process.alloc("cpu", 4 * channels * places, operator_call_id=call, **made)
            process.free(copy)
        changed, change = asked(builder, "cpu", dtype)
        result, filters = 2 * channels * places, 2 * channels * inputs * 9
        if dtype == "bf16":
            assert changed.size_bytes.tolist() == [filters, 2 * inputs * places, result]
            continue
        assert changed.size_bytes.tolist() == [filters, result, 2 * inputs * 9 * places]
        assert any("no kernels of float16" in line for line in change.assumptions)
