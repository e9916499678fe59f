"""Trainings by transformers' Trainer and by Lightning, with and without the callback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import memtrace
import simcuda
from memtrace.trace import Trace

PROGRAM = Path(__file__).parent / "training_programs.py"
STEPS = 6
PEAK = "memtrace/cpu/peak_allocated_bytes"


def train(kind: str, folder: Path, *record: object, under_run: Path | None = None) -> Any:
    folder.mkdir()
    before = [] if under_run is None else ["-m", "memtrace", "run", "--quiet", "-o", under_run]
    command = [sys.executable, *before, PROGRAM, kind, folder, *record]
    shown = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=600, cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout.splitlines()[-1])


def in_stage(trace: Trace) -> dict[str, set[str]]:
    """By stage, the names of the marked steps (else the models) that ran in it."""
    stages = {row["stage_id"]: row["name"] for row in trace.stages.to_pylist()}
    found: dict[str, set[str]] = {}
    for row in trace.steps.to_pylist():
        if row["parent_step"] is None:
            found.setdefault(stages[row["stage_id"]], set()).add(row["name"] or row["root_module"])
    return found


def own_stages(trace: Trace) -> list[str]:
    rows = [row for row in trace.stages.to_pylist() if row["kind"] == "scope"]
    return [row["name"] for row in sorted(rows, key=lambda row: row["start_time_ns"])]


def of_steps(trace: Trace) -> list[tuple[str, str, int]]:
    """Of each step of the training: its name, its kind, and how many calls of the model it has."""
    rows = trace.steps.to_pylist()
    calls = [row["parent_step"] for row in rows]
    marked = sorted((row for row in rows if row["name"]), key=lambda row: row["step"])
    return [(row["name"], row["kind"], calls.count(row["step"])) for row in marked]


def test_the_trainers_stages_steps_and_peak(tmp_path: Path) -> None:
    told = train("trainer", tmp_path / "a", tmp_path / "a.memtrace")
    trace = memtrace.open(tmp_path / "a.memtrace")
    peak = trace.peak("cpu").total_bytes
    assert told["metrics"][PEAK] == peak
    assert told["history"][-1][PEAK] == peak
    assert told["heard"][-1][PEAK] == peak  # by a logger that was there before
    assert [PEAK in line for line in told["history"]].count(True) == 1  # live, nothing counts it
    numbered = [(f"training step {number}", "training", 2) for number in range(1, STEPS + 1)]
    assert of_steps(trace) == numbered
    assert in_stage(trace) == {
        "training": {name for name, _, _ in numbered}, "evaluation": {"GPT2LMHeadModel"},
    }  # fmt: skip
    assert own_stages(trace) == ["training", *2 * ["evaluation", "save"]]
    # Of the optimizer's state all was allocated in the first step, and stays.
    state = [row for row in trace.allocations.to_pylist() if row["category"] == "optimizer_state"]
    numbers = {row["step"]: row["name"] for row in trace.steps.to_pylist()}
    assert {numbers[row["step"]] for row in state} == {"training step 1"}
    plain = train("trainer", tmp_path / "b")
    assert (plain["weights"], plain["loss"]) == (told["weights"], told["loss"])


def test_the_trainer_as_memtrace_run_records_it(tmp_path: Path) -> None:
    told = train("trainer", tmp_path / "a", "-", under_run=tmp_path / "a.memtrace")
    trace = memtrace.open(tmp_path / "a.memtrace")
    assert [name for name, _, _ in of_steps(trace)] == [
        f"training step {number}" for number in range(1, STEPS + 1)
    ]
    assert not any("memtrace" in name for line in told["history"] for name in line)


def test_lightnings_stages_steps_and_peak(tmp_path: Path) -> None:
    told = train("lightning", tmp_path / "a", tmp_path / "a.memtrace")
    trace = memtrace.open(tmp_path / "a.memtrace")
    assert told["figures"] == {PEAK: trace.peak("cpu").total_bytes}
    header, *lines = [line.split(",") for line in told["logs"].splitlines()]
    logged = [line[header.index(PEAK)] for line in lines]
    assert [float(text) for text in logged if text] == [trace.peak("cpu").total_bytes]
    steps = of_steps(trace)
    assert {(kind, calls) for _, kind, calls in steps} == {("training", 1)}
    # Two batches are one step of the optimizer.
    assert [name for name, _, _ in steps] == [
        f"training step {1 + batch // 2}" for batch in range(2 * STEPS)
    ]
    assert own_stages(trace)[:3] == ["sanity check", "training", "validation"]
    found = in_stage(trace)
    assert found["sanity check"] == found["validation"] == {"Sequential"}
    assert train("lightning", tmp_path / "b")["weights"] == told["weights"]


def test_what_exists_is_not_replaced_and_no_training_begins(tmp_path: Path) -> None:
    (tmp_path / "a.memtrace").mkdir()
    (tmp_path / "a.memtrace" / "mine").touch()
    with pytest.raises(AssertionError, match=r"MemtraceError: .*a\.memtrace"):
        train("trainer", tmp_path / "a", tmp_path / "a.memtrace")
    assert [file.name for file in (tmp_path / "a.memtrace").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("module", "missing", "install"),
    [
        ("trainer", ["transformers"], "pip install transformers"),
        ("lightning", ["lightning", "pytorch_lightning"], "pip install lightning"),
    ],
)
def test_what_is_missing_is_said_in_one_line(module: str, missing: list[str], install: str) -> None:
    program = f"""
import sys
for name in {missing}:
    sys.modules[name] = None
import memtrace
assert not any("frameworks" in name for name in sys.modules if name.startswith("memtrace"))
try:
    import memtrace.frameworks.{module}
except memtrace.MemtraceError as error:
    print(error)
"""
    shown = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120
    )
    (line,) = shown.stdout.splitlines()
    assert install in line


def test_the_lightning_of_the_program_is_the_one_that_is_used() -> None:
    # The two packages have a class each: the older one, where the program has imported that.
    program = """
import sys, types
older = types.ModuleType("pytorch_lightning")
older.Callback = type("Callback", (), {})
sys.modules["pytorch_lightning"] = older
from memtrace.frameworks.lightning import MemtraceCallback
assert issubclass(MemtraceCallback, older.Callback) and "lightning.pytorch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_each_rank_has_a_trace_of_its_own(tmp_path: Path) -> None:
    program = """
import sys, torch
from memtrace.frameworks.training import TrainingRecording
run = TrainingRecording("a.memtrace", force=False)
run.begin()
kept = torch.empty(1000)
print(run.end())
"""
    for rank, name in (("0", "a.memtrace"), ("1", "a.rank1.memtrace")):
        shown = subprocess.run(
            [sys.executable, "-c", program],
            check=True, capture_output=True, text=True, timeout=120,
            cwd=tmp_path, env={**os.environ, "RANK": rank, "WORLD_SIZE": "2"},
        )  # fmt: skip
        assert shown.stdout == "{'memtrace/cpu/peak_allocated_bytes': 4000}\n"
        assert memtrace.open(tmp_path / name).peak("cpu").total_bytes == 4000


ON_A_GPU = """
import json, sys, torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from memtrace.frameworks.trainer import MemtraceCallback

config = GPT2Config(
    n_layer=2, n_head=2, n_embd=128, vocab_size=512, bos_token_id=0, eos_token_id=0
)
data = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 512, (32, 128))]
arguments = TrainingArguments(
    "out", max_steps=4, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
    max_grad_norm=0.0,
)
trainer = Trainer(
    GPT2LMHeadModel(config), arguments, train_dataset=data,
    callbacks=[MemtraceCallback(record="a.memtrace")],
)
trainer.train()
print(json.dumps(trainer.state.log_history))
"""


@pytest.mark.cuda_sim
def test_peaks_of_a_gpu_while_it_trains(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    (tmp_path / "train.py").write_text(ON_A_GPU)
    argv, environment = simcuda.python_command(tmp_path / "train.py", memory_mb=2048)
    shown = subprocess.run(
        argv, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert shown.returncode == 0, shown.stderr
    lines = json.loads(shown.stdout.splitlines()[-1])
    trace = memtrace.open(tmp_path / "a.memtrace")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 4]
    ends = {
        row["name"]: row["end_seq"] for row in trace.steps.to_pylist() if row["name"] is not None
    }
    (part,) = (tmp_path / "a.memtrace" / "events").glob("*/*.parquet")
    events = [
        row for row in pq.read_table(part, partitioning=None).to_pylist()
        if row["device"] == "cuda:0"
    ]  # fmt: skip
    for measure in ("allocated", "reserved"):
        logged = [line[f"memtrace/cuda0/peak_{measure}_bytes"] for line in lines]
        assert logged[-1] == trace.peak("cuda:0", measure).total_bytes
        for line, peak in zip(lines[:-1], logged, strict=False):
            end = ends[f"training step {line['step']}"]
            so_far = [row[f"{measure}_bytes"] for row in events if row["seq"] < end]
            assert peak == max(so_far), line
    assert lines[-1][PEAK] == trace.peak("cpu").total_bytes
