"""Post-mortems of torch's real allocator: what they say would have made it fit is then tried."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import simcuda
from memtrace.analyse.failures import list_ooms
from memtrace.analyse.fragmentation import find_fragmentation
from memtrace.analyse.leaks import find_leaks
from memtrace.analyse.oom import PostMortem, post_mortem
from memtrace.analyse.request import Fit
from memtrace.trace import Trace, open_trace

pytestmark = pytest.mark.cuda_sim

MIB = 2**20
HEAD = """
import memtrace, simcuda, sys, torch
from torch import nn
MIB = 2**20

def tensor(mib, device="cuda"):
    return torch.empty(int(mib * MIB), dtype=torch.uint8, device=device)

def attempt(mib, device="cuda"):
    try:
        return tensor(mib, device)
    except torch.OutOfMemoryError:
        return None
"""


def recorded(tmp_path: Path, code: str, *, settings: str = "", **machine: int) -> tuple[Trace, str]:
    """Runs a program on a simulated machine, under memtrace; what it printed."""
    program = tmp_path / "program.py"
    program.write_text(HEAD + textwrap.dedent(code))
    env = simcuda.environment(simcuda.Machine(**{"memory_mb": 1024, **machine}))
    env |= {"PYTORCH_ALLOC_CONF": settings} if settings else {}
    env["PYTHONPATH"] = os.pathsep.join([str(simcuda.TESTS_FOLDER), env.get("PYTHONPATH", "")])
    trace = tmp_path / "t.memtrace"
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "--force", "-o", str(trace)]
    done = subprocess.run(
        [*argv, str(program)], env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return open_trace(trace), done.stdout


def examined(trace: Trace, **how: Any) -> PostMortem:
    found = post_mortem(trace, **how)
    assert found is not None
    if found.fragmentation is not None:
        assert found.fragmentation.mismatch_bytes == 0
        assert found.unusable_bytes == found.fragmentation.free_bytes
        moment = found.oom.moment
        assert moment.reserved_bytes is not None
        assert moment.allocated_bytes is not None
        unused = moment.reserved_bytes - moment.allocated_bytes
        assert unused == found.fragmentation.free_bytes + found.fragmentation.waiting_bytes
    return found


def fits(found: PostMortem) -> dict[str, Fit]:
    return {fit.name or fit.what: fit for fit in found.fits}


def test_too_large_for_the_device(tmp_path: Path) -> None:
    code = """
    class Net(nn.Module):
        def forward(self, mib):
            return tensor(mib)
    held = tensor(100)
    net = Net()
    for mib in (2000, 700):
        try:
            net(mib)
        except torch.OutOfMemoryError:
            pass
    free, total = torch.cuda.mem_get_info()
    short = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    simcuda.set_capacity(1024 * MIB + (700 * MIB - free) - 2 * MIB)
    print(attempt(700) is None)
    simcuda.set_capacity(1024 * MIB + (700 * MIB - free))
    print(attempt(700) is not None, 700 * MIB - free)
    """
    trace, out = recorded(tmp_path, code)
    first, second, third = (examined(trace, number=n) for n in (1, 2, 3))
    assert first.oom.asked_bytes == first.needed_bytes == 2000 * MIB
    assert (first.oom.operator, first.oom.module) == ("aten::empty", "Net")
    assert first.oom.source == "program.py:7 tensor"
    assert [oom.went_on for oom in list_ooms(trace)] == [True, True, True]
    assert first.outside_bytes == 300 * MIB
    assert out.split() == ["True", "True", str(second.short_bytes)]
    assert fits(second)["device_free"].fits
    assert third.short_bytes == 2 * MIB


def test_freeing_a_category_makes_it_fit(tmp_path: Path) -> None:
    """Segments of 20 MiB with one block of 5 MiB in each."""
    code = """
    board = [tensor(5) for _ in range(4 * 36)]
    kept = board[1::4]
    del board
    caches = [memtrace.label(block, category="kv_cache") for block in kept[:24]]
    others = [memtrace.label(block, category="input") for block in kept[24:]]
    del kept
    print(attempt(300) is None, attempt(500) is None)
    others.clear()
    print(attempt(300) is None)
    caches.clear()
    print(attempt(300) is not None, attempt(500) is not None)
    """
    trace, out = recorded(tmp_path, code)
    assert set(out.split()) == {"True"}
    # 24 segments and the 4 MiB that were left are enough for the one, not for the other.
    for number, enough in ((1, True), (2, False)):
        what = fits(examined(trace, number=number))
        assert what["kv_cache"] == Fit("category", "kv_cache", 24 * 5 * MIB, enough)
        assert what["input"] == Fit("category", "input", 12 * 5 * MIB, False)
    found = examined(trace, number=1)
    assert found.largest_usable_bytes == 10 * MIB
    assert found.unusable == {"pieces": 36 * 15 * MIB}


@pytest.mark.parametrize(
    ("asked_mib", "fit"), [(250, True), (680, True), (690, None), (702, False)]
)
def test_expandable_segments_do_what_is_said(
    tmp_path: Path, asked_mib: int, fit: bool | None
) -> None:
    """The same program with and without; 20 MiB in either segment's middle cannot go back."""
    code = f"""
    held, kept = [], []
    for _ in range(2):
        segment = tensor(300)
        del segment
        held.append(tensor(100))
        kept.append(tensor(4))
        held.append(tensor(196))
    del held
    print(attempt({asked_mib}) is not None)
    """
    trace, out = recorded(tmp_path, code)
    assert out.split() == ["False"]
    assert fits(examined(trace))["expandable"] == Fit("expandable", "", 560 * MIB, fit)
    _, out = recorded(tmp_path, code, settings="expandable_segments:True")
    if fit is not None:
        assert out.split() == [str(fit)]


def test_expandable_segments(tmp_path: Path) -> None:
    code = """
    held = [tensor(30) for _ in range(20)]
    del held[1::2]
    print(attempt(700) is None)
    free, total = torch.cuda.mem_get_info()
    print(free)
    """
    trace, out = recorded(tmp_path, code, settings="expandable_segments:True")
    found = examined(trace)
    assert "expandable" not in fits(found)
    assert found.fragmentation is not None
    assert all(part.kind.expandable for part in found.fragmentation.parts)
    # What lay free in whole pages has gone back.
    assert found.fragmentation.empty_bytes == 0
    assert found.needed_bytes == 700 * MIB
    assert out.split() == ["True", str(found.oom.device_free_bytes)]


def test_in_a_backward(tmp_path: Path) -> None:
    """It runs in autograd's thread of the device, which has no frame of the program."""
    code = """
    class Wide(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return torch.cat([y, y], dim=1)
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.wide = nn.Linear(1024, 1024), Wide(1024, 2048)
        def forward(self, x):
            return self.wide(self.first(x).relu()).sum()
    net = Net().cuda()
    out = net(torch.zeros(4096, 1024, device="cuda"))
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    simcuda.set_capacity(1024 * MIB - free)
    try:
        out.backward()
    except torch.OutOfMemoryError:
        print("caught")
    """
    trace, out = recorded(tmp_path, code)
    assert out.split() == ["caught"]
    oom = examined(trace).oom
    # 4096 x 2048 numbers, what the backward of cat adds up.
    assert oom.asked_bytes == 32 * MIB
    assert (oom.operator, oom.forward_operator) == ("aten::add", "aten::cat")
    assert (oom.module, oom.module_class) == ("wide", "Wide")
    assert oom.source == "program.py:18 Wide.forward"
    assert oom.stack[0].line == 18
    assert not oom.went_on


def test_in_the_backward_of_a_backward(tmp_path: Path) -> None:
    """The call that made the node is one of a backward: it is the forward's all the same."""
    code = """
    class Cube(nn.Module):
        def forward(self, x):
            return x ** 3
    x = torch.zeros(4 * MIB, device="cuda", requires_grad=True)
    (slope,) = torch.autograd.grad(Cube()(x).sum(), x, create_graph=True)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    simcuda.set_capacity(1024 * MIB - free)
    try:
        slope.sum().backward()
    except torch.OutOfMemoryError:
        print("caught")
    """
    trace, out = recorded(tmp_path, code)
    assert out.split() == ["caught"]
    oom = examined(trace).oom
    assert oom.forward_operator is not None
    assert (oom.module, oom.source) == ("Cube", "program.py:17 Cube.forward")


def test_caught_and_tried_again_with_less(tmp_path: Path) -> None:
    code = """
    net = nn.Linear(256, 256).cuda()
    rows = 1 << 22
    while True:
        try:
            y = net(torch.zeros(rows, 256, device="cuda"))
            break
        except torch.OutOfMemoryError:
            rows //= 2
    print(rows)
    """
    trace, _ = recorded(tmp_path, code)
    listed = list_ooms(trace)
    assert len(listed) >= 2
    assert all(oom.went_on for oom in listed)
    assert [oom.asked_bytes for oom in listed] == sorted(
        (oom.asked_bytes for oom in listed), reverse=True
    )
    # The input fits before its output does.
    assert listed[-1].module == "Linear"
    assert listed[-1].operator == "aten::addmm"


def test_two_devices(tmp_path: Path) -> None:
    code = """
    held = tensor(200, "cuda:0")
    attempt(600, "cuda:1")
    attempt(1600, "cuda:1")
    attempt(900, "cuda:0")
    """
    trace, _ = recorded(tmp_path, code, devices=2)
    assert [oom.device for oom in list_ooms(trace)] == ["cuda:1", "cuda:0"]
    assert [oom.device for oom in list_ooms(trace, device="cuda:0")] == ["cuda:0"]
    found = examined(trace, device="cuda:1")
    assert (found.oom.allocated_bytes, found.unusable_bytes) == (0, 0)


def test_a_private_pool_keeps_what_it_has(tmp_path: Path) -> None:
    code = """
    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        inside = tensor(300)
        del inside
    print(attempt(500) is None)
    del pool
    print(attempt(500) is not None)
    """
    trace, out = recorded(tmp_path, code)
    found = examined(trace)
    assert out.split() == ["True", "True"]
    assert found.unusable == {"pool": 300 * MIB}
    assert fits(found)["device_free"].size_bytes == found.short_bytes


def test_another_streams_memory(tmp_path: Path) -> None:
    code = """
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        board = [tensor(5) for _ in range(80)]
        del board[1::2]
    print(attempt(400) is None)
    with torch.cuda.stream(side):
        print(attempt(400) is None)
        print(side.cuda_stream)
    """
    trace, out = recorded(tmp_path, code)
    assert out.split()[:2] == ["True", "True"]
    default, own = examined(trace, number=1), examined(trace, number=2)
    assert default.unusable == {"stream": 200 * MIB}
    assert (default.largest_usable_bytes, own.largest_usable_bytes) == (0, 5 * MIB)
    assert own.unusable == {"pieces": 200 * MIB}
    assert (default.oom.stream, own.oom.stream) == (0, int(out.split()[2]))


def test_a_memory_fraction(tmp_path: Path) -> None:
    code = """
    torch.cuda.set_per_process_memory_fraction(0.25)
    held = tensor(200)
    print(attempt(100) is None)
    torch.cuda.set_per_process_memory_fraction(0.25 + (44 - 2) / 1024)
    print(attempt(100) is None)
    torch.cuda.set_per_process_memory_fraction(0.25 + 44 / 1024)
    print(attempt(100) is not None)
    """
    trace, out = recorded(tmp_path, code)
    assert out.split() == ["True", "True", "True"]
    found = examined(trace, number=1)
    assert (found.limit_bytes, found.short_bytes) == (256 * MIB, 44 * MIB)
    assert fits(found)["limit"] == Fit("limit", "", 44 * MIB, True)
    assert fits(examined(trace, number=2))["limit"].size_bytes == 2 * MIB


def test_a_memory_fraction_counts_a_segment_where_pages_are_taken(tmp_path: Path) -> None:
    code = """
    held = tensor(200)
    for mib in (240, 248, 250):
        torch.cuda.set_per_process_memory_fraction(mib / 1024)
        print(attempt(50) is None)
    print(torch.cuda.memory_reserved() // MIB)
    """
    trace, out = recorded(tmp_path, code, settings="expandable_segments:True")
    assert out.split() == ["True", "True", "False", "260"]
    found = examined(trace, number=1)
    assert (found.needed_bytes, found.short_bytes) == (60 * MIB, 10 * MIB)
    assert fits(found)["limit"] == Fit("limit", "", 10 * MIB, True)


def test_of_a_killed_process(tmp_path: Path) -> None:
    """Spans of what was running were never written; the stack tells what there is."""
    code = """
    import os, signal, threading
    class Net(nn.Module):
        def forward(self, mib):
            try:
                tensor(mib)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
    if os.fork() == 0:
        Net()(2000)
    os.wait()
    """
    trace, _ = recorded(tmp_path, code)
    oom = examined(trace).oom
    assert (oom.module, oom.source) == ("Net", "program.py:7 tensor")


def test_layouts_are_those_of_the_allocator(tmp_path: Path) -> None:
    code = """
    import json, random
    random.seed(3)
    live = []
    for _ in range(600):
        if live and random.random() < 0.45:
            live.pop(random.randrange(len(live)))
        else:
            live.append(tensor(random.choice([0.001, 0.3, 0.9, 1.2, 3, 6, 11, 25])))
            if torch.cuda.memory_reserved() > 500 * MIB:
                del live[: len(live) // 2]
    last = tensor(0.001)
    free = [b["size"] for s in torch.cuda.memory_snapshot() for b in s["blocks"]
            if b["state"] == "inactive"]
    pinned = [b["size"] for s in torch.cuda.memory_snapshot() for b in s["blocks"]
              if b["state"] == "inactive" and s["active_size"] > 0]
    print(sum(free), max(free), sum(pinned))
    """
    for settings in ("", "expandable_segments:True"):
        trace, out = recorded(tmp_path, code, settings=settings)
        end_ns = trace.process_list[0].row["end_time_ns"]
        rows = trace.allocations.to_pylist()
        last = max(row["alloc_time_ns"] for row in rows)
        found = find_fragmentation(trace, time_ns=min(last, end_ns))
        assert found.mismatch_bytes == 0
        free, largest, pinned = map(int, out.split())
        assert (found.free_bytes, found.largest_free_bytes) == (free, largest)
        if not settings:
            assert found.pinned_bytes == pinned
        assert sum(pin.keeps_bytes for pin in found.pins) == found.pinned_bytes


def test_a_list_of_losses_on_a_device(tmp_path: Path) -> None:
    code = """
    net = nn.Linear(64, 64).cuda()
    optimizer = torch.optim.AdamW(net.parameters())
    history = []
    for _ in range(30):
        with memtrace.stage("step"):
            loss = net(torch.zeros(512, 64, device="cuda")).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            history.append(loss)
    """
    trace, _ = recorded(tmp_path, code)
    gpu = find_leaks(trace, device="cuda:0").devices[0]
    # Each step's graph is freed by its backward: what is left is the loss, a block of 512 bytes.
    (site,) = gpu.growing
    assert site.growth is not None
    assert site.growth.bytes_per_step == 512
    assert site.owner.key is not None
    assert (
        "square().mean()"
        in (tmp_path / "program.py")
        .read_text()
        .splitlines()[int(site.owner.key.split(":")[1].split()[0]) - 1]
    )
    assert gpu.steps_until_full is not None
    assert gpu.steps_until_full > 1_000_000


RANDOM = """
import random
random.seed({seed})
categories = ("kv_cache", "input", "workspace")
failed = 0

def tried(mib):
    global failed
    got = attempt(mib) is not None
    failed += not got
    return got

for _ in range(40):
    live = {{name: [] for name in categories}}
    whole = [tensor(random.choice([0.3, 0.9, 1.5, 3, 6, 11, 26, 40])) for _ in range(28)]
    random.shuffle(whole)
    del whole[len(whole) // 2 :]
    while whole:
        name = random.choice(categories)
        live[name].append(memtrace.label(whole.pop(), category=name))
    mib = random.choice([350, 420, 500, 560, 600, 640])
    if tried(mib):
        continue
    number, name = failed, random.choice(categories)
    live.pop(name)
    print(number, name, tried(mib))
    live.clear()
    torch.cuda.empty_cache()
"""


@pytest.mark.parametrize("settings", ["", "expandable_segments:True"])
@pytest.mark.parametrize("seed", range(3))
def test_any_category_at_random(tmp_path: Path, seed: int, settings: str) -> None:
    """What is said of a category is what happens when its tensors go."""
    trace, out = recorded(tmp_path, RANDOM.format(seed=seed), settings=settings)
    tried = [line.split() for line in out.splitlines()]
    assert len(tried) >= 4
    for number, name, got in tried:
        fit = fits(examined(trace, number=int(number))).get(name)
        if fit is not None and fit.fits is not None:
            assert str(fit.fits) == got, (number, name, fit)
