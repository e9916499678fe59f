"""The short way from torch's dispatcher: it records what torch's own way does, and hides nothing.

Torch's own way is taken where another one listens beside us, so a program that is profiled leaves
what the short way has to leave as well.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

import memtrace
from program_runs import plain_environment, python, recorded

pytest.importorskip("torch", exc_type=ImportError)  # or one that does not load

PROGRAMS = {
    "inference": """
        net = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
        with torch.no_grad():
            for length in (3, 4):
                kept = net(torch.ones(2, length, 16))
                best = kept.transpose(1, 2)[:, :4].reshape(-1).topk(3).indices.tolist()
    """,
    "inference mode": """
        net = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8))
        with torch.inference_mode():
            kept = [net(torch.ones(2, 8)).view(16).split(3) for _ in range(3)]
    """,
    "training": """
        net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.AdamW(net.parameters())
        for _ in range(3):
            net(torch.ones(4, 8)).view(-1).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    """,
    "errors": """
        with torch.no_grad():
            for _ in range(3):
                try:
                    torch.ones(2, 3) @ torch.ones(2, 3)
                except RuntimeError:
                    pass
                kept = torch.ones(2, 3) + 1
    """,
    "threads": """
        import threading
        def work():
            with torch.no_grad():
                for _ in range(20):
                    (torch.ones(8, 8).t() @ torch.ones(8, 8)).view(64).softmax(0)
        for _ in range(3):  # one after the other: their rows keep their order
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    """,
    "user scopes": """
        with torch.no_grad(), torch.profiler.record_function("request"):
            kept = torch.ones(8).view(2, 4).t().contiguous()
    """,
    "custom operators": """
        @torch.library.custom_op("mine::double", mutates_args=())
        def double(x: torch.Tensor) -> torch.Tensor:
            return x.view(-1) * 2
        with torch.no_grad():
            kept = [double(torch.ones(3)) for _ in range(3)]
    """,
    "scripts": """
        @torch.jit.script
        def scripted(x: torch.Tensor):
            return torch.relu(x.t() @ x) + 1
        with torch.no_grad():
            kept = [scripted(torch.ones(3, 3)) for _ in range(4)]
    """,
    "told of nothing for a while": """
        switch = torch._C._autograd._enable_record_function
        with torch.no_grad():
            for _ in range(3):
                kept = [torch.ones(4, 4).t() + 1]
                switch(False)
                kept.append(torch.ones(4, 4).t() + 1)
                switch(True)
    """,
    # From here on: views that allocate.
    "conjugated": """
        with torch.no_grad():
            for _ in range(2):
                kept = torch.ones(4, dtype=torch.complex64).conj().resolve_conj()
    """,
    "sparse": """
        with torch.no_grad():
            for _ in range(2):
                kept = torch.eye(4).to_sparse().select(0, 1).to_dense()
                other = torch.eye(4).to_sparse().transpose(0, 1).coalesce()
    """,
    "mkldnn": """
        with torch.no_grad():
            for _ in range(2):
                kept = torch.ones(4, 4).to_mkldnn().transpose(0, 1)
    """,
    "quantized": """
        with torch.no_grad():
            for _ in range(2):
                scales, zeros = torch.ones(4), torch.zeros(4, dtype=torch.long)
                made = torch.quantize_per_channel(torch.ones(4, 4), scales, zeros, 0, torch.qint8)
                kept = made.unsqueeze(0).clone()
    """,
    "nested": """
        with torch.no_grad():
            for _ in range(2):
                made = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])
                kept = made.transpose(1, 2).unbind()[0].contiguous()
    """,
    "a mode that allocates": """
        from torch.utils._python_dispatch import TorchDispatchMode
        class Copies(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                return function(*args, **(kwargs or {})).clone()
        with torch.no_grad(), Copies():
            for _ in range(2):
                kept = torch.ones(4, 4).t()
    """,
    "transformed": """
        with torch.no_grad():
            for _ in range(2):
                kept = torch.vmap(lambda x: x.t() @ x.select(0, 1))(torch.ones(3, 4, 4))
    """,
}

BESIDE = """
from torch.profiler import ProfilerActivity, profile
listening = profile(activities=[ProfilerActivity.CPU])
"""


def rows(tmp_path: Path, name: str, text: str) -> list[dict[str, Any]]:
    """The calls of a program, each with what is the same in every run."""
    program = tmp_path / f"{name}.py"
    program.write_text(text)
    trace = tmp_path / f"{name}.memtrace"
    shown = recorded(trace, program, cwd=tmp_path)
    assert shown.status == 0, shown.err
    opened = memtrace.open(trace)
    calls = {row["call_id"]: row for row in opened.operators.to_pylist()}
    same = ("name", "scope", "module", "sequence_number", "allocated_bytes", "freed_bytes")
    made = sorted(calls.values(), key=lambda row: (row["thread_id"], row["call_id"]))
    found = [
        {key: row[key] for key in same}
        | {"parent": calls.get(row["parent_call_id"], {}).get("name")}
        for row in made
        if row["name"] and not row["name"].startswith("profiler::")
    ]
    named = ("size_bytes", "operator", "top_operator", "forward_operator", "module", "category")
    return found + [
        {key: row[key] for key in named}
        for row in opened.allocations.to_pylist()
        if row["operator"]
    ]


@pytest.mark.parametrize("name", PROGRAMS)
def test_both_ways_record_the_same(tmp_path: Path, name: str) -> None:
    body = textwrap.dedent(PROGRAMS[name])
    head = "import sys, torch\nfrom torch import nn\n"
    tail = textwrap.dedent("""
        hook = sys.modules["memtrace._hook"]
        assert hook.has_dispatcher_shortcut() and hook.counts_listeners()
    """)
    short = rows(tmp_path, "short", head + body + tail)
    listened = "with listening:\n" + textwrap.indent(body, "    ") + tail
    plain = rows(tmp_path, "plain", head + BESIDE + listened)
    assert len(short) > 4
    assert short == plain


@pytest.mark.parametrize("mode", ["torch.no_grad()", "torch.enable_grad()"])
def test_a_profiler_beside_sees_every_operator(tmp_path: Path, mode: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(f"""
        import torch
        from torch.profiler import ProfilerActivity, profile
        x = torch.ones(4, 4, requires_grad=True)
        def work():
            return (x.view(16).view(4, 4).t() @ x).expand(2, 4, 4).sum()
        with {mode}:
            work()  # nobody listens yet
            for _ in range(2):
                with profile(activities=[ProfilerActivity.CPU]) as found:
                    work()
                print([event.name for event in found.events()])
                work()
    """))  # fmt: skip
    alone = python(program, cwd=tmp_path)
    beside = recorded(tmp_path / "t.memtrace", program, cwd=tmp_path)
    assert alone.status == beside.status == 0, beside.err
    assert b"aten::view" in alone.out
    assert beside.out == alone.out


# One that listens to all threads (a profiler listens to its own), coming and going again and again
# while operators run: on its own thread, and on one that has seen nobody yet.
OBSERVER = """
    import json, sys, threading, torch
    from torch.profiler import ExecutionTraceObserver
    x = torch.ones(4, 4)
    def work():
        with torch.no_grad():
            return (x.view(16).view(4, 4).t() @ x).expand(2, 4, 4).sum()
    go, done = threading.Semaphore(0), threading.Semaphore(0)
    def work_when_told():
        while go.acquire() and not over:
            work()
            done.release()
    def work_there():
        go.release()
        done.acquire()
    over = False
    thread = threading.Thread(target=work_when_told)
    thread.start()
    for place in (work, work_there):
        for turn in range(2):
            place()  # nobody listens
            observer = ExecutionTraceObserver()
            observer.register_callback("seen.json")
            observer.start()
            place()
            observer.stop()
            place()
            observer.unregister_callback()
            with open("seen.json") as file:
                print(sorted(node["name"] for node in json.load(file)["nodes"]))
    over = True
    go.release()
    thread.join()
"""


def test_one_that_listens_to_all_threads_sees_every_operator(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(OBSERVER))
    alone = python(program, cwd=tmp_path)
    beside = recorded(tmp_path / "t.memtrace", program, cwd=tmp_path)
    assert alone.status == beside.status == 0, beside.err
    assert alone.out.count(b"'aten::view', 'aten::view'") == 4
    assert beside.out == alone.out


@pytest.mark.parametrize("bound", ["when called", "when loaded"])
def test_it_is_there_while_a_recording_is(tmp_path: Path, bound: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent("""
        import sys, torch, memtrace
        shortcut = lambda: sys.modules["memtrace._hook"].has_dispatcher_shortcut()
        def work():
            with torch.no_grad():
                return torch.ones(4, 4).t().contiguous()
        for turn in range(3):
            recording = memtrace.record(f"{turn}.memtrace")
            recording.start()
            work()
            seen = [shortcut()]
            memtrace.pause()
            work()
            seen += [shortcut()]
            memtrace.resume()
            work()
            seen += [shortcut()]
            recording.stop()
            work()
            print(seen + [shortcut()])
        with memtrace.record("no.memtrace", operators=False):
            print(shortcut())
    """))  # fmt: skip
    environment = plain_environment() | ({"LD_BIND_NOW": "1"} if bound == "when loaded" else {})
    shown = python(program, cwd=tmp_path, env=environment)
    assert shown.out.decode().splitlines() == ["[True, False, True, False]"] * 3 + ["False"]


def test_what_began_before_a_recording_ends_in_it(tmp_path: Path) -> None:
    # An operator whose Python kernel starts and stops recordings: each end finds another list.
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent("""
        import torch, memtrace
        @torch.library.custom_op("mine::turn", mutates_args=())
        def turn(x: torch.Tensor, on: bool, number: int) -> torch.Tensor:
            if on:
                recordings.append(memtrace.record(f"{number}.memtrace"))
                recordings[-1].start()
            else:
                recordings[-1].stop()
            return x + 1
        recordings = []
        x = torch.ones(4)
        with torch.no_grad():
            for number in range(3):
                x = turn(x, True, number)
                x = x.view(2, 2).t().reshape(-1) + 1
                x = turn(x, False, number)
        print(x.tolist())
    """))  # fmt: skip
    shown = python(program, cwd=tmp_path)
    assert (shown.status, shown.out) == (0, b"[10.0, 10.0, 10.0, 10.0]\n"), shown.err
    for number in range(3):
        names = memtrace.open(tmp_path / f"{number}.memtrace").operators.column("name").to_pylist()
        assert {"aten::add", "aten::clone"} <= {*names}


def test_a_view_of_pythons_own_tensors_is_told_from_the_second_on(tmp_path: Path) -> None:
    # The first one is over before its kernel in Python could be noticed (view_operators.h).
    text = """
        import torch
        class Wrapped(torch.Tensor):
            @staticmethod
            def __new__(cls, inner):
                made = torch.Tensor._make_wrapper_subclass(cls, inner.shape)
                made.inner = inner
                return made
            @classmethod
            def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
                inner = args[0].inner.view(4, 4)
                return Wrapped(function(inner, *args[1:]).clone())
        with torch.no_grad():
            wrapped = Wrapped(torch.ones(4, 4))
            for _ in range(3):
                wrapped = wrapped.t()
    """
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(text))
    shown = recorded(tmp_path / "t.memtrace", program, cwd=tmp_path)
    assert shown.status == 0, shown.err
    tops = memtrace.open(tmp_path / "t.memtrace").allocations.column("top_operator").to_pylist()
    # torch's own scope around each such kernel
    assert tops == ["aten::ones", "PythonSubclass", "aten::t", "aten::t"]


def test_views_are_left_out_where_autograd_is_off_alone(tmp_path: Path) -> None:
    # A node of autograd belongs to the view that made it.
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent("""
        import torch
        x = torch.ones(4, 4, requires_grad=True)
        kept = [x.view(16), x.t()]
        with torch.no_grad():
            other = [x.unsqueeze(0), x.select(0, 1)]
    """))  # fmt: skip
    shown = recorded(tmp_path / "t.memtrace", program, cwd=tmp_path)
    assert shown.status == 0, shown.err
    names = memtrace.open(tmp_path / "t.memtrace").operators.column("name").to_pylist()
    assert {"aten::view", "aten::t"} <= {*names}
    assert not {"aten::unsqueeze", "aten::select"} & {*names}


def test_it_comes_and_goes_under_threads_in_the_middle_of_operators(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent("""
        import sys, threading, time, torch, memtrace
        sys.setswitchinterval(1e-5)
        @torch.library.custom_op("mine::slow", mutates_args=())
        def slow(x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.0003)
            return x + 1
        slow(torch.zeros(1))  # much is imported at the first call
        done, sums = threading.Event(), []
        def work():
            turns, total = 0, torch.zeros(4, 4)
            with torch.no_grad():
                while turns < 100 or not done.is_set():
                    total = slow(total.view(16).view(4, 4).t()).contiguous() - 1 + turns % 2
                    turns += 1
            sums.append((total.tolist(), [[float(turns // 2)] * 4] * 4))
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(3):
            with memtrace.record(f"{number}.memtrace"):
                for _ in range(100):
                    memtrace.pause()
                    time.sleep(0.001)
                    memtrace.resume()
                    time.sleep(0.001)
        done.set()
        for thread in threads:
            thread.join()
        assert len(sums) == 4 and all(found == wanted for found, wanted in sums)
        print("all are right")
    """))  # fmt: skip
    shown = python(program, cwd=tmp_path)
    assert (shown.status, shown.out) == (0, b"all are right\n"), shown.err
    for number in range(3):
        trace = memtrace.open(tmp_path / f"{number}.memtrace")
        assert trace.processes.column("lost_total").to_pylist() == [0]
        names = {*trace.operators.column("name").to_pylist()} - {None}  # None: cut off by a pause
        assert {"aten::add", "mine::slow"} <= names
