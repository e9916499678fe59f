"""torch.profiler with memory, shapes and stacks: what it counts is what it counts without us."""

from __future__ import annotations

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function, schedule


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"profile_memory": True, "record_shapes": True, "with_stack": True}

    def step() -> None:
        with record_function("my step"):
            model(torch.randn(8, 32)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    step()
    with profile(activities=[ProfilerActivity.CPU], **options) as profiler:
        for _ in range(3):
            step()
    show(profiler)
    plan = schedule(wait=1, warmup=1, active=2)
    with profile(activities=[ProfilerActivity.CPU], schedule=plan, **options) as profiler:
        for _ in range(4):
            step()
            profiler.step()
    show(profiler)
    with torch.autograd.profiler.profile(profile_memory=True) as old:
        step()
    print(len(old.function_events))


def show(profiler: profile) -> None:
    for row in sorted(profiler.key_averages(group_by_input_shape=True), key=str_of):
        print(*str_of(row), row.cpu_memory_usage, row.self_cpu_memory_usage)
    deepest = max(len(event.stack or ()) for event in profiler.events())
    print(deepest > 0, len(profiler.events()))


def str_of(row: object) -> tuple[str, str, int]:
    return row.key, str(row.input_shapes), row.count


main()
