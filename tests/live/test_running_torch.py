"""Live figures of real programs, while they stand still and after their end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from live.finished_figures import FinishedFigures
from live.stopping_program import seen_when, settled, stopping_program
from memtrace.analyse.live_view import FINISHED, GONE, RECORDING, ProcessView
from memtrace.cli.main import main
from memtrace.live.follow import TraceFollower
from memtrace.live.recordings import running_recordings


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ProcessView]]:
    """A finished trace, and what was seen at each stop of the program and at the end."""
    trace = tmp_path_factory.mktemp("followed") / "t.memtrace"
    views = []
    with stopping_program(trace) as program:
        follower = TraceFollower(trace)
        for _ in range(6):
            program.go_on()
            (process,) = settled(follower).processes
            views.append(process)
        program.end()
        (process,) = follower.refresh(points=50, most_s=10).processes
        views.append(process)
    return trace, views


def test_figures_at_each_stop_are_those_of_the_finished_trace(
    followed: tuple[Path, list[ProcessView]],
) -> None:
    trace, views = followed
    figures = FinishedFigures(trace, "cpu")
    (loaded,) = views[0].devices
    figures.check(loaded, views[0].events, by=["operator", "source"])  # weights have no names yet
    for view in views[1:]:
        (device,) = view.devices
        figures.check(device, view.events, by=["operator", "source", "module"])
    figures.check(device, view.events, by=["category"])
    assert views[-1].events == len(figures.events)


def test_more_is_seen_at_each_stop(followed: tuple[Path, list[ProcessView]]) -> None:
    _, views = followed
    assert [view.state for view in views] == [RECORDING] * 6 + [FINISHED]
    assert [view.step for view in views[:6]] == list(range(6))
    assert views[0].stage is None
    assert views[0].program.endswith("stops.py")
    assert views[3].step_name == "Model"
    assert not views[3].lost
    assert not views[3].step_running
    curve = views[5].devices[0].allocated_curve
    assert max(curve) == views[5].devices[0].peak_bytes
    assert curve[-1] >= views[5].devices[0].allocated_bytes


def test_what_identity_proves_is_known_while_it_runs(
    followed: tuple[Path, list[ProcessView]],
) -> None:
    _, views = followed
    (device,) = views[5].devices
    held = {h.name: h for h in device.holders["category"]}
    weights = 3 * 4 * (128 * 256 + 256 + 256 * 128 + 128)
    assert held["weight"].now_bytes == weights
    assert held["buffer"].now_bytes == 3 * 4 * 128
    assert held["optimizer_state"].now_bytes == 2 * weights + 3 * 4 * 4  # and `step` of each
    assert held["kv_cache"].now_bytes == 4000  # by its label
    kept = 4 * 5000 * (1 + 2 + 3 + 4 + 5)
    assert held[None].now_bytes == kept
    assert held["gradient"].now_bytes == 0
    assert held["gradient"].peak_bytes > 0
    assert sum(h.now_bytes for h in held.values()) == device.allocated_bytes
    modules = {h.name: h.now_bytes for h in device.holders["module"]}
    assert modules["blocks.1.up"] == 3 * 4 * (128 * 256 + 256) + 2 * 4


def test_once_prints_what_is_there_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "t.memtrace"
    monkeypatch.chdir(tmp_path)
    with stopping_program(trace) as program:
        for _ in range(3):
            program.go_on()
        (seen,) = settled(TraceFollower(trace)).processes
        # Without a name: the one that runs, in this folder or elsewhere.
        (elsewhere := tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(elsewhere)
        assert trace in running_recordings()
        monkeypatch.chdir(tmp_path)
        assert main(["live", "--once", "--json"]) == 0
        out, err = capsys.readouterr()
        assert err == "memtrace: t.memtrace\n"
        (process,) = json.loads(out)["processes"]
        (device,) = process["devices"]
        assert process["state"] == "recording"
        assert process["lost_events"] == {}
        assert device["allocated_bytes"] == seen.devices[0].allocated_bytes
        assert device["peak_allocated_bytes"] == seen.devices[0].peak_bytes
        assert device["reserved_bytes"] is None
        assert device["holders"]["category"][0] == {
            "name": "optimizer_state",
            **{
                f"{when}_{what}": getattr(seen.devices[0].top("category")[0], f"{when}_{what}")
                for when in ("now", "peak")
                for what in ("bytes", "blocks")
            },
        }
        assert main(["live", "--once", "t.memtrace", "--device", "cpu", "--top", "4"]) == 0
        out, _ = capsys.readouterr()
        assert f"({seen.devices[0].allocated_bytes:,} bytes)" in out
        assert "stage load" not in out
        assert "nothing lost" in out
        assert "not known yet" in out
        assert "more, in --json" in out
        assert main(["live", "--once", "t.memtrace", "--device", "cuda:3"]) == 1
        _, err = capsys.readouterr()
        assert err.splitlines() == [
            "memtrace: --device cuda:3: nothing was allocated on it; there are: cpu"
        ]
        assert main(["live", "--once", "t.memtrace", "--process", "1"]) == 1
        assert f"there are: {process['pid']}" in capsys.readouterr().err


def test_a_killed_program_is_told_of(tmp_path: Path) -> None:
    trace = tmp_path / "t.memtrace"
    with stopping_program(trace) as program:
        program.go_on()
        follower = TraceFollower(trace)
        (before,) = settled(follower).processes
        program.process.kill()
        view = seen_when(follower, lambda view: view.processes[0].state == FINISHED)
        (after,) = view.processes
        assert view.over
        assert after.devices[0].allocated_bytes == before.devices[0].allocated_bytes
        assert after.events == before.events


def test_children_are_processes_of_their_own(tmp_path: Path) -> None:
    trace = tmp_path / "t.memtrace"
    with stopping_program(trace, "children.py") as program:
        follower = TraceFollower(trace)
        view = seen_when(follower, lambda v: sum(len(p.devices) for p in v.processes) == 3)
        held = sorted(process.devices[0].allocated_bytes for process in view.processes)
        assert held == [4_000, 40_000, 400_000]
        assert view.processes[0].devices[0].allocated_bytes == 400_000  # the program itself
        program.end()
        view = seen_when(follower, lambda view: view.over)
        assert {process.state for process in view.processes} <= {FINISHED, GONE}
