"""`memtrace replay`: its page, its JSON, its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from memtrace.cli.main import group, main
from replay.made_up import MIB, OUTSIDE_BYTES, TOTAL_BYTES, training
from trace_builder import serving_trace

KEYS = {
    "process", "pid", "rank", "device", "device_total_bytes", "outside_bytes", "conf", "changes",
    "verified", "diverges_at", "peaks", "completes", "runs", "caveats", "sweep", "least_capacity",
    "lost_records",
}  # fmt: skip
RUN = {
    "peaks", "last_bytes", "segments", "unused_bytes", "largest_unused_bytes", "retries", "failed",
    "repeated_failures", "passed", "early_waits",
}  # fmt: skip
FAILED = {
    "request", "place", "size_bytes", "operator", "top_operator", "forward_operator", "module",
    "module_class", "source",
}  # fmt: skip


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return training(tmp_path / "t.memtrace")


def shown(*arguments: object) -> str:
    result = CliRunner().invoke(group, ["replay", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def document(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shown(*arguments, "--json"))
    return found


def test_as_recorded(trace: Path) -> None:
    text = shown(trace)
    assert "Replay of 4 allocations on cuda:0" in text
    assert "settings: the recording's own" in text
    assert "device: 512.0 MiB, of it not torch's 12.00 MiB" in text
    assert "verified: under its own settings the recording is reproduced, 3 segment events" in text
    assert "reserved   90.00 MiB" in text
    assert "Predicted" not in text
    assert "3 segments, 50.00 MiB of them unused, the largest piece 30.00 MiB" in text
    assert "note:" not in text


def test_other_settings(trace: Path) -> None:
    text = shown(
        trace, "--alloc-conf", "large_segment_size_mb:64,pinned_use_background_threads:True"
    )
    assert "settings: PYTORCH_ALLOC_CONF=large_segment_size_mb:64,pinned" in text
    assert "reserved   90.00 MiB  94.00 MiB  +4.00 MiB" in text
    assert "allocated  40.00 MiB  40.00 MiB          =" in text
    assert "every request is served" in text
    assert "note: pinned_use_background_threads is left out" in text


def test_a_smaller_device(trace: Path) -> None:
    text = shown(trace, "--capacity", "51MiB")
    assert "device: 51.00 MiB, of it not torch's 12.00 MiB" in text
    assert "the device was full 1 times" not in text
    assert "the device was full once, and cached memory went back to it" in text
    assert (
        "out of memory: 3.00 MiB (3,145,728 bytes) at event 3, asked for by aten::add in h.0 "
        "(model.py:88 forward); nothing is known of what comes after it" in text
    )


def test_the_settings_that_matter(trace: Path) -> None:
    text = shown(trace, "--sweep")
    assert (
        "PYTORCH_ALLOC_CONF=expandable_segments:True: 50.00 MiB less reserved than 90.00 MiB"
        in (text)
    )
    assert (
        "large_segment_size_mb:64                           94.00 MiB   +4.00 MiB        0" in text
    )


def test_the_least_device(trace: Path) -> None:
    text = shown(trace, "--least-capacity")
    assert (
        "The smallest device that serves every request: 62.00 MiB (65,011,712 bytes), of it not "
        "torch's 12.00 MiB" in text
    )
    assert "there the device is full once, and cached memory goes back to it" in text
    assert "with 1 MiB less it fails at 3.00 MiB (3,145,728 bytes) at event 3" in text


def test_json(trace: Path) -> None:
    found = document(trace)
    assert set(found) == KEYS
    assert found["verified"] == 3
    assert found["diverges_at"] is None
    assert found["device_total_bytes"] == TOTAL_BYTES
    assert found["outside_bytes"] == OUTSIDE_BYTES
    assert found["peaks"]["reserved"] == {
        "low_bytes": 90 * MIB, "high_bytes": 90 * MIB, "place": 12.0, "recorded_bytes": 90 * MIB,
    }  # fmt: skip
    (run,) = found["runs"]
    assert set(run) == RUN
    assert run["peaks"]["allocated"]["total_bytes"] == 40 * MIB
    found = document(trace, "--capacity", "51MiB", "--sweep", "--least-capacity",
                     "--alloc-conf", "large_segment_size_mb:30")  # fmt: skip
    assert found["conf"] == "large_segment_size_mb:30"
    assert not found["completes"]
    assert len(found["runs"]) == 2
    (failed,) = found["runs"][0]["failed"]
    assert set(failed) == FAILED
    assert failed["operator"] == "aten::add"
    assert set(found["sweep"]) == {"own", "tried", "best_conf", "saved_bytes"}
    assert found["sweep"]["best_conf"] is None
    assert len(found["sweep"]["tried"]) == 12
    assert set(found["sweep"]["own"]) == {"conf", "completes", "reserved_bytes", "retries", "runs"}
    assert set(found["least_capacity"]) == {"outside_bytes", "low", "high"}
    assert set(found["least_capacity"]["low"]) == {"total_bytes", "run", "fails"}


def test_users_errors_are_one_line(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serving_trace(tmp_path / "s.memtrace")
    for arguments, line in (
        ([trace, "--alloc-conf", "segments:1"], "there is no key 'segments'"),
        ([trace, "--alloc-conf", "backend:cudaMallocAsync"], "is another allocator"),
        ([trace, "--device", "cuda:3"], "no memory of cuda:3 in this trace"),
        ([trace, "--capacity", "large"], "--capacity large: write a size, such as 16GiB"),
        ([trace, "--capacity", "20000000TiB"], "--capacity 20000000TiB: write a size"),
        ([trace, "--sequence", "9" * 4301], "write a whole number from 1 to"),
        ([trace, "--optimizer", f"zero1:{2**63}"], "takes at most 999,999,999 ranks"),
        ([trace, "--optimizer", "zero3:" + "9" * 4301], "takes at most 999,999,999 ranks"),
        ([served, "--device", "cpu"], "the CPU has no caching allocator to replay"),
    ):
        assert main(["replay", *map(str, arguments)]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        (told,) = err.splitlines()
        assert line in told
