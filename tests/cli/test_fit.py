"""memtrace fit: its options, its JSON, and one line for every user's error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fit.made_up import server, worker
from memtrace.cli.main import group, main
from trace_builder import TraceBuilder

KEYS = {
    "trace", "process", "pid", "rank", "device", "what_ifs", "least_bytes", "most_bytes",
    "mapped_bytes", "error_percent", "allocated_bytes", "seq", "context", "kv_cache", "gpus",
    "batches", "cheapest", "stages", "categories", "modules", "assumptions", "lost_records",
}  # fmt: skip
GPU_KEYS = {
    "gpu", "product", "nvml_bytes", "cuda_bytes", "bandwidth_gbps", "compute_capability", "as_of",
    "source", "prices", "usable_bytes", "fits", "headroom_bytes", "stages", "largest_batch",
    "context_tokens", "relative_price", "notes",
}  # fmt: skip


@pytest.fixture
def gpu(tmp_path: Path) -> Path:
    return server(tmp_path / "gpu.memtrace").path


@pytest.fixture
def cpu(tmp_path: Path) -> Path:
    return worker(tmp_path / "cpu.memtrace").path


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(group, ["fit", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["fit", *map(str, arguments)]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


def test_all_gpus_when_none_is_named(gpu: Path) -> None:
    document = json.loads(invoke(gpu, "--json"))
    names = [entry["gpu"] for entry in document["gpus"]]
    assert {"t4", "h100", "mi300x"} < set(names)
    assert [e["gpu"] for e in json.loads(invoke(gpu, "--gpu", "h100,t4", "--json"))["gpus"]] == [
        "h100", "t4",
    ]  # fmt: skip
    entry = document["gpus"][names.index("l4")]
    assert set(document) == KEYS
    assert set(entry) == GPU_KEYS
    assert entry["fits"] == "yes"
    assert entry["headroom_bytes"] == entry["usable_bytes"] - document["most_bytes"]
    assert entry["usable_bytes"] == entry["cuda_bytes"] - document["context"]["high_bytes"]
    assert entry["prices"][0] == {
        "per_hour": 0.44, "currency": "USD", "as_of": "2026-03-01", "source": "RunPod, community",
    }  # fmt: skip
    assert entry["stages"] == {"load": "yes", "idle": "yes", "inference": "yes"}
    assert document["kv_cache"]["token_bytes"] == 2048
    assert entry["context_tokens"] > 0
    assert document["cheapest"] == "rtx4090"
    assert sum(row["bytes"] for row in document["categories"]) == document["allocated_bytes"]


def test_a_price_of_the_users_changes_the_cheapest(gpu: Path) -> None:
    assert "the cheapest that fits: 0.10 USD" in invoke(gpu, "--price", "h100=0.1")


def test_a_table_of_the_users(gpu: Path, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("gpu,cuda_bytes,price_per_hour\nlab,99999999999,0.01\n")
    assert "lab  yes" in invoke(gpu, "--gpus", tmp_path / "own.csv", "--gpu", "lab")


def test_machines(cpu: Path) -> None:
    document = json.loads(invoke(cpu, "--device", "cpu", "--json"))
    assert [i["size_bytes"] >> 30 for i in document["instances"]] == [2, 4, 8, 16, 32, 64]
    one = json.loads(invoke(cpu, "--instance", "2GiB", "--workers", 5, "--json"))
    assert [(i["workers"], i["fits"]) for i in one["instances"]] == [(4, False)]
    # With --gpu it is about GPUs, whatever the device of the recording.
    assert "t4   yes" in invoke(cpu, "--device", "cpu", "--gpu", "t4")


def test_kubernetes(cpu: Path, gpu: Path) -> None:
    text = invoke(cpu, "--kubernetes", "--device", "cpu")
    assert text.splitlines()[1] == "resources:"
    assert "nvidia.com/gpu" not in text
    assert json.loads(invoke(cpu, "--kubernetes", "--json", "--workers", "2")) == {
        "resources": {"requests": {"memory": "600Mi"}, "limits": {"memory": "858Mi"}}
    }


def test_kubernetes_of_a_program_on_a_gpu(gpu: Path) -> None:
    assert invoke(gpu, "--kubernetes", "--gpu", "t4,l4").splitlines()[1:] == [
        "resources:",
        "  requests:",
        "    memory: 900Mi  # idle",
        "  limits:",
        "    memory: 1100Mi  # peak + 10 %",
        "    nvidia.com/gpu: 1  # fits 1 of 2, the cheapest l4",
    ]
    document = json.loads(invoke(gpu, "--kubernetes", "--json"))
    assert document["resources"]["limits"] == {"memory": "1100Mi", "nvidia.com/gpu": 1}


def test_sums_need_no_trace() -> None:
    document = json.loads(invoke("--parameters", "7e9", "--gpu", "a100-80", "--json"))
    assert [round(s["total_bytes"] / 1e9) for s in document["sums"]][:2] == [28, 14]
    assert document["gpus"][0]["fits"][0] == "yes"


def test_verify(cpu: Path, gpu: Path) -> None:
    assert "expected exact" in invoke(cpu, "--verify", cpu)
    document = json.loads(invoke(cpu, "--verify", gpu, "--json"))
    total = document["totals"][0]
    assert total["delta_bytes"] == total["predicted_bytes"] - total["real_bytes"]
    assert {row["name"] for row in document["category"]} >= {"weight", "activation"}


def test_errors_are_one_line(
    cpu: Path, gpu: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    builder = TraceBuilder(tmp_path / "empty.memtrace")
    builder.process()
    empty = builder.write()
    for arguments, line in (
        ([gpu, "--verify", empty], f"{empty}: the trace has no events"),
        ([gpu, "--instance", "8GiB", "--gpu", "t4"], "--gpu or --instance: give one of them"),
        ([gpu, "--workers", "2", "--gpu", "t4"], "--gpu or --workers: give one of them"),
        ([gpu, "--kubernetes", "--instance", "8GiB"], "it takes no --instance"),
        ([gpu, "--batch", "9" * 4301], "write a whole number from 1 to"),
        ([gpu, "--gpu", "what"], "no GPU 'what' in the catalogue"),
        ([gpu, "--gpus", tmp_path / "no.csv"], "no.csv: no such file"),
        ([gpu, "--price", "t4"], "--price t4: write NAME=PRICE"),
        ([gpu, "--verify", tmp_path / "no"], "no such trace"),
        ([gpu, "--verify", cpu], "was recorded on the CPU"),
        ([gpu, "--parameters", "7B"], "--parameters takes no trace"),
        (["--parameters", "x"], "--parameters x: write a number"),
        ([cpu, "--instance", "much"], "--instance much: write a size"),
        ([cpu, "--workers", "0"], "--workers"),
        ([gpu, "--device", "cuda:3"], "no memory of cuda:3"),
        ([gpu, "--process", "9"], "no process 9"),
    ):
        assert line in refused(capfd, *arguments)
