"""Leaks of real programs on the CPU, found with the line that allocated what is kept."""

from __future__ import annotations

from pathlib import Path

import program_runs
from memtrace.analyse.leaks import CACHE, CARRIED, GROWTH, WARM_UP, Leaks, Site, find_leaks
from memtrace.trace import open_trace

#: What each line of the program keeps is named by the comment at its end.
PROGRAM = """
import sys
import memtrace, torch
from torch import nn

LEAKY = "leaky" in sys.argv
SEEN, LOG = [], []

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(128, 128), nn.Linear(128, 8)

    def forward(self, x):
        hidden = self.body(x)
        seen = hidden.detach().relu()  # seen
        if LEAKY:
            SEEN.append(seen)
        return self.head(hidden)

net = Net()
optimizer = torch.optim.AdamW(net.parameters())
cache, best = {}, None
for step in range(60):
    with memtrace.stage("step"):
        batch = torch.zeros(16 + step % 3, 128)  # batch
        loss = net(batch).square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        cache[step % 4] = torch.zeros(1000)  # cache
        if LEAKY and step % 10 == 0:
            LOG.append(torch.zeros(2500))  # log
        if step == 1:
            workspace = torch.zeros(3000)  # workspace
"""
LINES = {
    line.rpartition("# ")[2]: number
    for number, line in enumerate(PROGRAM.splitlines(), 1)
    if "  # " in line
}


def leaks_of(tmp_path: Path, *words: str) -> Leaks:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    trace = tmp_path / "t.memtrace"
    shown = program_runs.recorded(trace, program, *words)
    assert shown.status == 0, shown.err
    return find_leaks(open_trace(trace))


def sites(leaks: Leaks) -> dict[str, Site]:
    """By the names at the ends of the lines, or by the source."""
    names = {f"program.py:{number}": name for name, number in LINES.items()}
    (device,) = leaks.devices
    return {
        names.get((site.owner.key or "").split(" ")[0], site.owner.name): site
        for site in device.sites
    }


def test_what_grows_is_found_among_what_is_kept(tmp_path: Path) -> None:
    leaks = leaks_of(tmp_path, "leaky")
    found = sites(leaks)
    assert {name for name, site in found.items() if site.kind == GROWTH} == {"seen", "log"}
    seen, log = found["seen"], found["log"]
    assert seen.growth is not None
    assert log.growth is not None
    assert seen.owner.key == f"program.py:{LINES['seen']} Net.forward"
    assert seen.owner.module == "Net"
    # 16, 17 and 18 rows of 128 floats in turn; 2500 floats in every tenth step.
    assert abs(seen.growth.bytes_per_step - 17 * 128 * 4) < 128 * 4
    assert seen.growth.every == 1
    assert abs(log.growth.bytes_per_step - 1000) < 50
    assert log.growth.every == 10
    assert (found["cache"].kind, found["cache"].kept_bytes) == (CACHE, 4 * 4000)
    assert (found["workspace"].kind, found["workspace"].kept_bytes) == (WARM_UP, 12_000)
    assert found["batch"].kind == CARRIED


def test_a_program_without_a_leak(tmp_path: Path) -> None:
    leaks = leaks_of(tmp_path)
    (device,) = leaks.devices
    assert device.growing == ()
    found = sites(leaks)
    assert found["cache"].kind == CACHE
    # AdamW keeps two states of each parameter from its first step on.
    parameters = (128 * 128 + 128 + 128 * 8 + 8) * 4
    state = max((s for s in found.values() if s.kind == WARM_UP), key=lambda s: s.kept_bytes)
    assert 2 * parameters <= state.kept_bytes <= 2 * parameters + 64
