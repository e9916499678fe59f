"""Backward memory is its forward call's, as anomaly mode says; marks of backward passes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import memtrace
from backward_oracle import MODELS, check_with_oracle
from program_runs import recorded

pytest.importorskip("torch", exc_type=ImportError)  # or one that does not load


@pytest.mark.parametrize("model", MODELS)
def test_backward_memory_is_where_anomaly_mode_says(tmp_path: Path, model: str) -> None:
    check_with_oracle(tmp_path, model)


def run(tmp_path: Path, text: str, *words: str) -> tuple[memtrace.Trace, str]:
    """The trace of a program, and what it printed."""
    program = tmp_path / "program.py"
    program.write_text(
        "import json, threading, torch, memtrace\nfrom torch import nn\n" + textwrap.dedent(text)
    )
    trace = tmp_path / "t.memtrace"
    shown = recorded(trace, *words, program, cwd=tmp_path)
    assert shown.status == 0, shown.err
    return memtrace.open(trace), shown.out.decode()


def marks(trace: memtrace.Trace, *kinds: str) -> list[tuple[str, str | None]]:
    return [(row["kind"], row["text"]) for row in trace.marks.to_pylist() if row["kind"] in kinds]


BEGIN, END = "backward_begin", "backward_end"


def passes(trace: memtrace.Trace) -> list[str]:
    """The marks of backward passes in order: `(` and `)`; each must be closed once."""
    found = marks(trace, BEGIN, END)
    tasks = [task for _, task in found]
    for task in set(tasks):
        assert [kind for kind, of in found if of == task] == [BEGIN, END]
    return ["(" if kind == BEGIN else ")" for kind, _ in found]


def test_each_backward_pass_is_marked_once(tmp_path: Path) -> None:
    trace, _ = run(tmp_path, """
        net = nn.Linear(8, 8)
        x = torch.ones(2, 8, requires_grad=True)
        loss = net(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        (gradient,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
        torch.autograd.backward([net(x).sum()], inputs=[x])
    """)  # fmt: skip
    assert passes(trace) == ["(", ")"] * 5


def test_a_backward_inside_another_is_marked_inside(tmp_path: Path) -> None:
    trace, _ = run(tmp_path, """
        from torch.utils.checkpoint import checkpoint
        net = nn.Linear(8, 8)
        x = torch.ones(2, 8, requires_grad=True)
        checkpoint(net, x, use_reentrant=True).sum().backward()
    """)  # fmt: skip
    assert passes(trace) == ["(", "(", ")", ")"]


def test_a_backward_that_fails_is_over(tmp_path: Path) -> None:
    trace, _ = run(tmp_path, """
        def fail(gradient):
            raise ValueError("of the program")
        x = torch.ones(2, 8, requires_grad=True)
        y = x * 2
        y.register_hook(fail)
        for _ in range(2):
            try:
                (y * 3).sum().backward(retain_graph=True)
            except ValueError as error:
                assert str(error) == "of the program"
            else:
                raise AssertionError
        (x * 2).sum().backward()
    """)  # fmt: skip
    assert passes(trace) == ["(", ")"] * 3


def test_callbacks_of_the_program_run_before_the_end(tmp_path: Path) -> None:
    trace, out = run(tmp_path, """
        engine = torch.autograd.Variable._execution_engine
        x = torch.ones(2, 8, requires_grad=True)
        kept = []
        def finish():  # as that of DDP and FSDP, which put gradients in their places
            kept.append(torch.ones(5000))
        x.register_hook(lambda gradient: engine.queue_callback(finish))
        (x * 2).sum().backward()
        print(len(kept))
    """)  # fmt: skip
    assert out == "1\n"
    (end_seq,) = (row["seq"] for row in trace.marks.to_pylist() if row["kind"] == END)
    (kept,) = (row for row in trace.allocations.to_pylist() if row["size_bytes"] == 20_000)
    assert kept["alloc_seq"] < end_seq


def test_backward_passes_in_several_threads(tmp_path: Path) -> None:
    trace, _ = run(tmp_path, """
        shared = nn.Linear(64, 64)
        def work():
            for _ in range(50):
                shared(torch.ones(4, 64)).square().sum().backward()
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    """)  # fmt: skip
    found = passes(trace)
    assert len(found) == 2 * 4 * 50
    by_thread: dict[int, list[str]] = {}
    for row in trace.marks.to_pylist():
        if row["kind"] in (BEGIN, END):
            by_thread.setdefault(row["thread_id"], []).append(row["kind"])
    assert list(by_thread.values()) == [[BEGIN, END] * 50] * 4
    assert all(
        row["forward_operator"]
        for row in trace.allocations.to_pylist()
        if row["phase"] == "backward" and row["operator"] == "aten::mm"
    )


def test_phases_of_a_training_loop(tmp_path: Path) -> None:
    trace, _ = run(tmp_path, """
        net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        optimizer = torch.optim.AdamW(net.parameters())
        with torch.no_grad():
            data = torch.ones(2, 8) * 3
        for _ in range(2):
            loss = net(data).square().sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    """)  # fmt: skip
    phases: dict[str, set[str]] = {}
    for row in trace.allocations.to_pylist():
        phases.setdefault(row["phase"], set()).add(row["top_operator"])
    assert "aten::linear" in phases["forward"]
    assert "aten::linear" not in phases["other"]
    assert "aten::mul" in phases["other"]  # the data
    assert any("AddmmBackward0" in name for name in phases["backward"])
    assert "aten::zeros_like" in phases["optimizer"]  # exp_avg
    assert marks(trace, "optimizer_begin", "optimizer_end") == [
        ("optimizer_begin", None), ("optimizer_end", None)
    ] * 2  # fmt: skip


def test_a_closure_is_no_optimizer(tmp_path: Path) -> None:
    trace, _ = run(tmp_path, """
        net = nn.Linear(8, 8)
        optimizer = torch.optim.LBFGS(net.parameters(), max_iter=2)
        data = torch.ones(2, 8)
        def closure():
            optimizer.zero_grad()
            loss = net(data).square().sum()
            loss.backward()
            return loss
        optimizer.step(closure)
    """)  # fmt: skip
    by_phase: dict[str, set[str]] = {}
    for row in trace.allocations.to_pylist():
        by_phase.setdefault(row["phase"], set()).add(row["operator"])
    assert "aten::addmm" in by_phase["forward"]
    assert "aten::addmm" not in by_phase["optimizer"]
    assert "aten::mm" in by_phase["backward"]
    assert "aten::cat" in by_phase["optimizer"]  # the flat gradient


def test_without_operators_there_are_no_contexts(tmp_path: Path) -> None:
    trace, _ = run(tmp_path, """
        net = nn.Linear(8, 8)
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        for _ in range(2):
            net(torch.ones(2, 8)).sum().backward()
            optimizer.step()
    """, "--no-operators")  # fmt: skip
    assert passes(trace) == []
    assert {row["phase"] for row in trace.allocations.to_pylist()} <= {"forward", "other"}


def test_a_view_in_which_no_memory_changed_is_a_forward_call(tmp_path: Path) -> None:
    trace, _ = run(tmp_path, """
        x = torch.ones(64, 64, requires_grad=True)
        part = x[:, 3:7]
        with torch.no_grad():
            unseen = x.view(-1).t()
        part.sum().backward()
    """)  # fmt: skip
    calls = trace.operators.to_pylist()
    (slice_call,) = (row for row in calls if row["name"] == "aten::slice")
    assert slice_call["allocated_bytes"] == 0
    assert not [row for row in calls if row["name"] in ("aten::view", "aten::t")]
    made = [row for row in trace.allocations.to_pylist() if row["phase"] == "backward"]
    of_slice = [row for row in made if row["forward_operator"] == "aten::slice"]
    assert {row["source"] for row in of_slice} == {"program.py:5 <module>"}
    assert sum(row["size_bytes"] for row in of_slice) >= 64 * 64 * 4
    assert {row["forward_call_id"] for row in of_slice} == {slice_call["call_id"]}


def test_a_node_that_the_program_calls_is_in_no_pass(tmp_path: Path) -> None:
    trace, _ = run(
        tmp_path,
        """
        loss = (torch.ones(3, requires_grad=True) * 2).sum()
        given = loss.grad_fn(torch.ones(()))
        after = torch.zeros(1000)
        """,
    )
    assert passes(trace) == []
    (after,) = (row for row in trace.allocations.to_pylist() if row["size_bytes"] == 4000)
    assert after["phase"] != "backward"


SECOND_RECORDING = """
import threading, torch, memtrace
def train(model, steps=1):
    for _ in range(steps):
        model.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
first, second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
with memtrace.record("threads.memtrace"):
    thread = threading.Thread(target=train, args=(first,))
    train(second)
    thread.start(); thread.join()
with memtrace.record("one.memtrace"):
    train(second, 2)
    for parameter in second.parameters():
        parameter.grad = None
"""


BESIDE_INFERENCE = """
import threading, torch, memtrace
model, other = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
def infer():
    with torch.inference_mode():
        for _ in range(3):
            other(torch.ones(2, 4))
with memtrace.record("t.memtrace"):
    thread = threading.Thread(target=infer)
    thread.start(); thread.join()
    for _ in range(2):
        model(torch.ones(2, 4)).sum().backward()
        for parameter in model.parameters():
            parameter.grad = None
"""


@pytest.mark.parametrize(
    ("text", "trace"),
    [(SECOND_RECORDING, "one.memtrace"), (BESIDE_INFERENCE, "t.memtrace")],
    ids=["threads of an earlier recording", "a thread that only infers"],
)
def test_threads_that_train_no_more_or_never(tmp_path: Path, text: str, trace: str) -> None:
    """Gradients are looked at when a backward ends only while one thread trains."""
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = memtrace.open(tmp_path / trace).names.to_pylist()
    gradients = {row["name"] for row in names if row["kind"] == "gradient"}
    assert gradients == {"grad of weight", "grad of bias"}
