"""The view in the terminal, driven as by a person, on recordings that run and on made ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from live.stopping_program import StoppingProgram, stopping_program
from memtrace.analyse.live_view import FINISHED, DeviceView, Holder
from memtrace.live.app import Drawing, HelpScreen, LiveApp
from memtrace.live.drawing import chart, holders_table
from memtrace.report.units import size
from spool_writer import SpoolWriter

_PATIENCE = 400


def shown(app: LiveApp, widget: str) -> str:
    return app.query_one(f"#{widget}", Drawing).text.plain


async def until(pilot: Pilot[None], true: Callable[[], object]) -> None:
    for _ in range(_PATIENCE):
        await pilot.pause(0.05)
        if true():
            return
    raise AssertionError(shown(pilot.app, "state"))  # type: ignore[arg-type]


def drive(
    app: LiveApp,
    script: Callable[[LiveApp, Pilot[None]], Coroutine[Any, Any, None]],
    terminal: tuple[int, int] = (80, 24),
) -> None:
    async def run() -> None:
        async with app.run_test(size=terminal) as pilot:
            await script(app, pilot)

    asyncio.run(run())


def test_a_running_program_is_shown_until_its_end(tmp_path: Path) -> None:
    trace = tmp_path / "t.memtrace"
    with stopping_program(trace) as program:
        for _ in range(3):
            program.go_on()
        drive(LiveApp(trace, interval_s=0.1), lambda app, pilot: _watch(app, pilot, program))


def test_what_comes_when_the_view_is_closed_is_not_drawn(tmp_path: Path) -> None:
    app = LiveApp(tmp_path, interval_s=0.1)

    async def seen_at_last(app: LiveApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "nothing is written yet" in shown(app, "state"))

    drive(app, seen_at_last)
    app.on_live_app_seen(LiveApp.Seen(app.view))  # a view that was on its way
    app._draw_device(device_view())  # put off until the next refresh


async def _watch(app: LiveApp, pilot: Pilot[None], program: StoppingProgram) -> None:
    await until(pilot, lambda: app.process and app.process.step == 2)
    assert str(app.process and app.process.pid) in shown(app, "title")
    assert "recording" in shown(app, "state")
    assert app.device is not None
    before = app.device
    await until(pilot, lambda: size(before.allocated_bytes) in shown(app, "totals"))
    assert size(before.peak_bytes) in shown(app, "totals")
    assert "optimizer_state" in shown(app, "category")
    assert "not known yet" in shown(app, "category")
    assert "blocks.0.up" in shown(app, "module")
    assert "aten::" in shown(app, "operator")
    assert "█" in shown(app, "chart")
    for widget in ("category", "module", "operator"):
        assert "Now ▼" in shown(app, widget)
        assert all(len(line) <= 80 for line in shown(app, widget).splitlines())
    await pilot.press("s")
    await pilot.pause()
    assert "Peak ▼" in shown(app, "module")

    program.go_on()
    await until(pilot, lambda: app.process and app.process.step == 3)
    assert app.device.allocated_bytes > before.allocated_bytes

    # Paused: nothing moves, until the key is pressed again.
    await pilot.press("space")
    await pilot.pause(0.3)
    program.go_on()
    await pilot.pause(0.5)
    assert app.process is not None
    assert app.process.step == 3
    assert "paused" in shown(app, "state")
    await pilot.press("space")
    await until(pilot, lambda: app.process and app.process.step == 4)

    last = app.device
    await asyncio.to_thread(program.end)
    await until(pilot, lambda: app.process and app.process.state == FINISHED)
    await until(pilot, lambda: "memtrace summary" in shown(app, "state"))
    assert app.device is not None
    assert app.device.peak_bytes == last.peak_bytes


def made_trace(folder: Path) -> Path:
    """Two processes; the first of two devices."""
    trace = folder / "made.memtrace"
    for number, devices in ((1, (0, None)), (2, (None,))):
        spool = SpoolWriter(trace, f"host-{number}-a", end=None, exit_status=None)
        log = spool.log()
        for order, device in enumerate(devices, 1):
            log.alloc(10 * order, 0x1000 * order, 512 * number, device=device, order=order)
        spool.process(pid=number, start_method="main" if number == 1 else "fork")
        spool.finish()
    return trace


def test_devices_and_processes_are_chosen_by_keys(tmp_path: Path) -> None:
    async def script(app: LiveApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.device)
        seen = []
        for key in ("d", "d", "p", "p"):
            assert app.process is not None
            assert app.device is not None
            seen.append((app.process.pid, app.device.device, app.device.allocated_bytes))
            await pilot.press(key)
            await pilot.pause()
        assert seen == [(1, "cuda:0", 512), (1, "cpu", 512), (1, "cuda:0", 512), (2, "cpu", 1024)]
        assert app.process is not None
        assert app.process.pid == 1
        assert "[1 of 2 processes]" in shown(app, "title")
        assert "cuda:0 [1 of 2]" in shown(app, "totals")
        assert "reserved" in shown(app, "totals")
        # They are killed ones: what to do about it is said.
        assert "memtrace recover" in shown(app, "state")

    drive(LiveApp(made_trace(tmp_path), interval_s=0.1), script)


def test_what_is_asked_for_is_shown_first(tmp_path: Path) -> None:
    async def script(app: LiveApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.device)
        assert app.process is not None
        assert app.device is not None
        assert (app.process.pid, app.device.device) == (2, "cpu")

    drive(LiveApp(made_trace(tmp_path), device="cpu", process="2"), script)


def test_help_is_a_key_away_and_any_key_closes_it(tmp_path: Path) -> None:
    async def script(app: LiveApp, pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await pilot.press("q")  # closes the help, and no more
        await until(pilot, lambda: not isinstance(app.screen, HelpScreen))
        assert app.is_running

    drive(LiveApp(made_trace(tmp_path)), script)


@pytest.mark.parametrize("terminal", [(80, 24), (200, 60), (40, 12)])
def test_it_fits_the_terminal(tmp_path: Path, terminal: tuple[int, int]) -> None:
    async def script(app: LiveApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.device and shown(app, "chart"))
        await pilot.pause()
        width, height = terminal
        plot = shown(app, "chart").splitlines()
        assert {len(line) for line in plot} == {width}
        assert len(plot) <= height
        if height >= 24:
            for widget in ("title", "state", "totals", "chart", "category", "module", "operator"):
                region = app.query_one(f"#{widget}").region
                assert region.height > 0, widget
                assert region.bottom < height, widget  # the footer has the last line
                assert region.right <= width, widget

    drive(LiveApp(made_trace(tmp_path)), script, terminal)


def test_a_recording_that_has_not_begun_is_waited_for(tmp_path: Path) -> None:
    trace = tmp_path / "made.memtrace"
    (trace / "spool").mkdir(parents=True)

    async def script(app: LiveApp, pilot: Pilot[None]) -> None:
        await pilot.pause(0.3)
        assert "starts" in shown(app, "state")
        for key in ("d", "p", "s"):
            await pilot.press(key)
        made_trace(tmp_path)
        await until(pilot, lambda: app.device)

    drive(LiveApp(trace, interval_s=0.1), script)


# ---- drawing ---------------------------------------------------------------------------------


def device_view(**more: Any) -> DeviceView:
    known: dict[str, Any] = {
        "device": "cuda:0", "allocated_bytes": 4, "active_bytes": 4, "reserved_bytes": 8,
        "peak_bytes": 4, "peak_time_ns": 0, "peak_reserved_bytes": 8, "external_bytes": 0,
        "total_bytes": None, "allocations": 1, "frees": 0, "ooms": 0,
        "allocated_curve": (0, 4, 4, 4), "reserved_curve": (8, 8, 8, 8), "holders": {},
    }  # fmt: skip
    return DeviceView(**{**known, **more})


def test_the_chart_has_reserved_memory_behind_the_allocated() -> None:
    lines = chart(device_view(), width=15, height=2).plain.split("\n")
    assert lines == ["       8 B ████", "       0 B ████"]
    styles = {str(span.style) for span in chart(device_view(), width=15, height=2).spans}
    assert {"cyan", "grey37"} <= styles
    lines = chart(device_view(reserved_curve=()), width=15, height=2).plain.split("\n")
    assert lines == ["       4 B  ███", "       0 B  ███"]


def test_little_is_seen_in_a_chart_of_much() -> None:
    view = device_view(allocated_curve=(1, 1 << 40), reserved_curve=())
    assert chart(view, width=13, height=3).plain.split("\n")[-1].endswith("▁█")


def test_a_table_says_how_many_it_leaves_out_and_sums_them() -> None:
    holders = tuple(Holder(f"module.{n}", n, 1, 100 - n, 1) for n in range(1, 7))
    view = device_view(holders={"module": holders})
    lines = holders_table(view, "module", at_peak=False, width=40, height=4).plain.split("\n")
    assert [line.split() for line in lines] == [
        ["Module", "Now", "▼", "Peak"],
        ["module.6", "6", "B", "94", "B"],
        ["module.5", "5", "B", "95", "B"],
        ["…", "4", "more", "10", "B", "390", "B"],
    ]
    lines = holders_table(view, "module", at_peak=True, width=26, height=9).plain.split("\n")
    assert len(lines) == 7
    assert lines[1] == "…ule.1       1 B      99 B"  # the end of a name says more


def test_names_cannot_steer_the_terminal() -> None:
    view = device_view(holders={"module": (Holder("a\x1b]0;owned\x07", 1, 1, 1, 1),)})
    shown = holders_table(view, "module", at_peak=False, width=60, height=4).plain
    assert "a\\x1b]0;owned\\x07" in shown
    assert "\x1b" not in shown
