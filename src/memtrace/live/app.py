"""`memtrace live` in the terminal: one process and one device of a recording at a time.

A thread follows the recording and posts what it sees; the app draws it. Nothing is read while the
view is paused.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import Key, Resize
from textual.message import Message
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Footer, Static

from memtrace.analyse.live_view import DeviceView, LiveView, ProcessView
from memtrace.errors import without_controls
from memtrace.live.drawing import SCALE_COLUMNS, chart, holders_table
from memtrace.live.follow import TraceFollower
from memtrace.report.live import lost_text, process_text, progress_text, state_text, totals_text

# Of a recording that is caught up with, in one refresh, and of the time a follower works.
_MOST_READ_S = 0.1
_WORK_SHARE = 0.5

_HELP = """\
Follows a recording from what it writes, and touches nothing.

d      the next device      p  the next process
s      largest now, or at the peak so far
space  pause the view       q  quit; the recording goes on

Peak: what each held when the device held most so far.
Categories are those that identity proves already, and what
memtrace.label said; lifetimes prove the others when the
recording has ended. The grey area behind the curve is
reserved memory.

Any key closes this."""


class HelpScreen(ModalScreen[None]):
    """What is shown and which keys there are."""

    def compose(self) -> ComposeResult:
        """One box."""
        yield Static(_HELP, id="help", markup=False)

    def on_key(self, event: Key) -> None:
        """Any key closes it, and does nothing else."""
        event.stop()
        self.dismiss()


class Drawing(Widget):
    """Text that was made for the size of the widget: drawn again only when it is another one."""

    def __init__(self, *, id: str) -> None:  # noqa: A002  # as all widgets have it
        super().__init__(id=id)
        self.text = Text()

    def draw(self, text: Text, *, layout: bool = False) -> None:
        """`layout`: its height follows from it."""
        if text != self.text:
            self.text = text
            self.refresh(layout=layout)

    def render(self) -> Text:
        """As it was made."""
        return self.text


class LiveApp(App[None]):
    """Shows a TraceFollower's views."""

    CSS_PATH = "live.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("d", "next_device", "Device"),
        Binding("p", "next_process", "Process"),
        Binding("s", "switch_order", "Now/peak"),
        Binding("space", "pause", "Pause"),
        Binding("question_mark", "help", "Help", key_display="?"),
    ]

    class Seen(Message):
        """The follower has a new view."""

        def __init__(self, view: LiveView) -> None:
            super().__init__()
            self.view = view

    def __init__(
        self,
        trace_dir: Path,
        *,
        interval_s: float = 0.5,
        device: str | None = None,
        process: str | None = None,
    ) -> None:
        """`device` and `process` (a pid or key) are shown first, where they are there."""
        super().__init__()
        self._follower = TraceFollower(trace_dir)
        self._interval_s = interval_s
        self._device, self._process = device, process
        self._at_peak = False
        self._paused = threading.Event()
        self._ending = threading.Event()
        self.view = LiveView(str(trace_dir), ())

    def compose(self) -> ComposeResult:
        """Lines, a chart, three tables."""
        yield Drawing(id="title")
        yield Drawing(id="state")
        yield Drawing(id="totals")
        yield Drawing(id="chart")
        with Horizontal(id="tables"):
            yield Drawing(id="category")
            with Vertical(id="owners"):
                yield Drawing(id="module")
                yield Drawing(id="operator")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begins to follow."""
        self._draw()
        self._follow()

    def on_unmount(self) -> None:
        """The thread ends at its next look."""
        self._ending.set()

    @work(thread=True)
    def _follow(self) -> None:
        while not self._ending.is_set():
            wait_s = self._interval_s
            if not self._paused.is_set():
                begin_s = time.monotonic()
                view = self._follower.refresh(
                    points=max(self.size.width - SCALE_COLUMNS - 1, 1),
                    most_s=min(_MOST_READ_S, self._interval_s * _WORK_SHARE),
                )
                self.post_message(self.Seen(view))
                if any(process.read_permille < 1000 for process in view.processes):
                    took_s = time.monotonic() - begin_s
                    wait_s = min(wait_s, took_s * (1 / _WORK_SHARE - 1))
            self._ending.wait(wait_s)

    def on_live_app_seen(self, message: Seen) -> None:
        """Draws it."""
        if self._paused.is_set():  # it was on its way
            return
        self.view = message.view
        self._draw()

    def on_resize(self, _event: Resize) -> None:
        """Everything is drawn for a size."""
        self.call_after_refresh(self._draw)

    # ---- what is chosen --------------------------------------------------------------------------

    @property
    def process(self) -> ProcessView | None:
        """The process shown."""
        processes = self.view.processes
        wanted = (p for p in processes if self._process in (p.key, str(p.pid)))
        return next(wanted, processes[0] if processes else None)

    @property
    def device(self) -> DeviceView | None:
        """The device shown."""
        process = self.process
        if process is None or not process.devices:
            return None
        return process.device(self._device or "") or process.devices[0]

    def action_next_device(self) -> None:
        """The next device of the process."""
        if self.process is not None and self.device is not None:
            devices = self.process.devices
            place = devices.index(self.device)
            self._device = devices[(place + 1) % len(devices)].device
            self._draw()

    def action_next_process(self) -> None:
        """The next process of the recording."""
        if self.process is not None:
            processes = self.view.processes
            place = processes.index(self.process)
            self._process = processes[(place + 1) % len(processes)].key
            self._draw()

    def action_switch_order(self) -> None:
        """Largest now, or largest at the peak."""
        self._at_peak = not self._at_peak
        self._draw()

    def action_pause(self) -> None:
        """Stands still, and reads nothing, until pressed again."""
        if self._paused.is_set():
            self._paused.clear()
        else:
            self._paused.set()
        self._draw()

    def action_help(self) -> None:
        """Shows the help."""
        self.push_screen(HelpScreen())

    # ---- drawing ---------------------------------------------------------------------------------

    def _draw(self) -> None:
        if not self.is_running:  # the last messages come when the widgets are gone
            return
        process, device = self.process, self.device
        if process is None:
            self._write("title", f"memtrace live · {self.view.trace}")
            self._write("state", "the recording starts, nothing is written yet")
            return
        self._write("title", self._title_text(process))
        text, style = state_text(self.view, process)
        if not process.over:
            text = f"{text} · {progress_text(process)}"
        if self._paused.is_set():
            text, style = f"view paused · {progress_text(process)}", "yellow"
        if process.lost:
            text, style = f"{lost_text(process)} · {text}", "yellow"
        self._write("state", text, style)
        if device is None:
            self._write("totals", "nothing was allocated yet")
            return
        self._write("totals", f"{self._device_text(process, device)}: {totals_text(device)}")
        # The lines above may have taken more room.
        self.call_after_refresh(self._draw_device, device)

    def _draw_device(self, device: DeviceView) -> None:
        if not self.is_running:
            return
        plot = self.query_one("#chart", Drawing)
        plot.draw(chart(device, width=plot.size.width, height=plot.size.height))
        for by in ("category", "module", "operator"):
            widget = self.query_one(f"#{by}", Drawing)
            width, height = widget.content_size
            widget.draw(
                holders_table(device, by, at_peak=self._at_peak, width=width, height=height)
            )

    def _title_text(self, process: ProcessView) -> str:
        number = len(self.view.processes)
        which = ""
        if number > 1:
            which = f"[{self.view.processes.index(process) + 1} of {number} processes] "
        # One line, in which the process has room.
        named = replace(self.view, trace=Path(self.view.trace).name)
        return which + process_text(named, process)

    def _device_text(self, process: ProcessView, device: DeviceView) -> str:
        number = len(process.devices)
        if number == 1:
            return device.device
        return f"{device.device} [{process.devices.index(device) + 1} of {number}]"

    def _write(self, widget: str, text: str, style: str = "") -> None:
        self.query_one(f"#{widget}", Drawing).draw(
            Text(without_controls(text), style=style), layout=True
        )
