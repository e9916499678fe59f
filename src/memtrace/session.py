"""What a program can say about its recording: record a part of itself, name stages and tensors.

All of it does nothing, and costs next to nothing, while nothing is being recorded: calls may stay
in a program for good.
"""

from __future__ import annotations

import atexit
import os
import sys
from time import monotonic_ns

from memtrace import _core, recording
from memtrace.categories import CATEGORIES
from memtrace.errors import MemtraceError
from memtrace.pauses import PauseBlock, Pauses
from memtrace.recording import Recording, all_of, guarded, say
from memtrace.stages import of_this_task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, TypeVar

    from memtrace.stages import Block, Plain

    Tensor = TypeVar("Tensor")

# A stage that is entered this soon needs no second sample.
_SAME_MOMENT_NS = 1_000_000


class record:  # noqa: N801  # used as a function: `with memtrace.record(path): ...`
    """Record this process while the block runs; the trace is complete when the block is left.

    Args:
        path: The trace directory. Default: NAME.memtrace in the working directory, with the next
            free number, NAME being the program's or "notebook".
        force: Replace `path` when it is a trace already.
        operators: Record which operator allocates.
        cpu: Record the memory of CPU tensors.
        stacks: Record the Python stack and the module of each allocation.
        stack_min_bytes: Take the stack only of allocations of this size or more.

    A trace that cannot be finished never ends the program: leaving the block says why in a line on
    standard error, as `memtrace run` does; stop() raises it.

    Raises:
        MemtraceError: on entry, when another record() is under way or the trace cannot be made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        force: bool = False,
        operators: bool = True,
        cpu: bool = True,
        stacks: bool = True,
        stack_min_bytes: int = 0,
    ) -> None:
        from memtrace.run.environment import Options

        self._wanted = None if path is None else os.fspath(path)
        self._force = force
        self._options = Options(
            cpu=cpu, operators=operators, stacks=stacks, stack_min_bytes=stack_min_bytes
        )
        self._recording: Recording | None = None
        self._whole: str | None = None  # where `memtrace run` records it instead
        #: Where the trace is; None before start().
        self.path: str | None = None

    def __enter__(self) -> record:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except MemtraceError as reason:
            say(str(reason))

    def start(self) -> None:
        """Begin; nothing when it has begun, or when `memtrace run` records the whole program.

        Also what entering the block does. What a signal handler of the program raises meanwhile
        goes on to it, and nothing has begun.
        """
        from memtrace.run import children, output, unrecorded

        path = None
        try:
            with recording.lock():
                unrecorded.count_forked()
                children.leave_parents()
                running = recording.current()
                if running is not None and running is self._recording:
                    return
                if running is not None and running.is_run:
                    self._whole = whole = running.trace_dir
                    say(f"record(): `memtrace run` records all of it already, into {whole}")
                    return
                if running is not None:
                    raise MemtraceError(
                        f"this process is being recorded already, into {running.trace_dir}; "
                        "recordings do not nest"
                    )
                path = output.create_trace(self._wanted, _program_name(), force=self._force)
                self._begin(path)
        except BaseException:
            if path is not None:
                self._take_back(path)
            raise

    def _begin(self, path: str) -> None:
        from memtrace.run import children, ending, output

        self.path = path
        try:
            self._recording = started = Recording(path, self._options, start_method="main")
        except (OSError, RuntimeError) as error:
            if _core.is_programs_exception(error):
                raise
            raise MemtraceError(f"cannot record: {error}") from None
        recording.set_current(started)
        started.export_environment()
        atexit.register(ending.at_exit)
        guarded(ending.watch_os_exit)
        guarded(children.watch)
        guarded(started.sample, "begin")
        guarded(started.watch_torch)
        # The last: until here it can be given back. From then on it is not left half there.
        all_of(lambda: guarded(output.forget_replaced, path))

    def _take_back(self, path: str) -> None:
        from memtrace.run import ending, output

        with recording.lock():
            begun, self._recording, self.path = self._recording, None, None
            if begun is not None:
                recording.set_current(begun)  # maybe it was not yet: it ends as any other does
                begun.end("not begun", quick=True)
                atexit.unregister(ending.at_exit)
                begun.clean_environment()
            output.take_back(path)

    def stop(self) -> None:
        """End and finish the trace; nothing when it has ended. Also what leaving the block does.

        What a signal handler of the program raises meanwhile goes on to it when that is done; while
        the trace is being finished at once: `memtrace recover` finishes it then.

        Raises:
            MemtraceError: the trace cannot be finished.
        """
        ended: list[Recording] = []
        try:
            all_of(lambda: self._end(ended))
        except BaseException:
            for each in ended:
                try:
                    _finalise(each.trace_dir)
                except MemtraceError as reason:
                    say(str(reason))  # the program's own error goes on
            raise
        for each in ended:
            _finalise(each.trace_dir)

    def _end(self, ended: list[Recording]) -> None:
        """End what is on, and put it into `ended`; goes on from there where it was cut off."""
        from memtrace.run import ending

        with recording.lock():
            begun = self._recording
            if begun is None:
                return
            if recording.current() is begun and not ended:
                ended.append(begun)
            if ended:
                all_of(
                    lambda: begun.end("stopped"),
                    lambda: atexit.unregister(ending.at_exit),
                    begun.clean_environment,
                )
            self._recording = None

    def __repr__(self) -> str:
        if self._is_on():
            return f"<memtrace.record: recording into {self.path!r}>"
        if self._whole is not None:
            return f"<memtrace.record: `memtrace run` records all of it, into {self._whole!r}>"
        if self.path is None:
            return "<memtrace.record: not begun>"
        return f"<memtrace.record: {'' if os.path.isdir(self.path) else 'was '}in {self.path!r}>"

    def _is_on(self) -> bool:
        return self._recording is not None and recording.current() is self._recording

    def _finished(self) -> Any:
        if self.path is None or self._is_on():
            return None
        from memtrace import open as open_trace  # the reader's part: only for who wants to see it

        try:
            return open_trace(self.path)
        except MemtraceError:
            return None

    def _repr_html_(self) -> Any:
        trace = self._finished()
        return None if trace is None else trace._repr_html_()

    def _repr_mimebundle_(self, **_: object) -> Any:
        trace = self._finished()
        return None if trace is None else trace._repr_mimebundle_()


def _program_name() -> str:
    script = os.path.basename(getattr(sys.modules.get("__main__"), "__file__", None) or "")
    return script.rpartition(".")[0] or script or "notebook"


def _finalise(trace_dir: str) -> None:
    # In another process: this one never imports pyarrow because of us.
    import subprocess

    from memtrace.run.finaliser import finalise_now, finaliser_environment, recover_hint

    try:
        done = subprocess.run(
            finalise_now(trace_dir), env=finaliser_environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False, start_new_session=True,
        )  # fmt: skip
    except BaseException:  # a signal handler of the program does not want to wait
        say(recover_hint(trace_dir).removeprefix("memtrace: "))
        raise
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1].removeprefix("memtrace: ") if lines else f"status {done.returncode}"
        raise MemtraceError(reason)


class stage:  # noqa: N801  # a mark, and a context manager
    """Name a stage of the program: `memtrace.stage("warmup")`, or `with memtrace.stage("load"):`.

    Called plainly, it begins a stage of the whole process, which lasts until the next plain one; in
    a block it belongs to that block, and ends with it at the latest. As a context manager it is a
    block of the thread that enters it, and lasts until it is left. A forked child begins in the
    stages that it was forked in.

    An allocation belongs to the innermost block of its thread. On a thread that is in no block, as
    a server's workers, it belongs to what the main thread or the whole process began last; on one
    of autograd's, to the block of the thread that ran the forward pass. Tasks that take turns on
    one thread (asyncio) cannot be told apart: there it is the block that was entered last and is
    not left yet.
    """

    def __init__(self, name: str) -> None:
        self._name = _plain_text(name)
        self._recorded: Recording | None = None
        self._plain: Plain | None = None  # what this is, unless it is entered
        self._begun_ns = 0
        self._blocks: list[Block] = []  # it may be entered again, also while it is open
        recorded = recording.current()
        if recorded is not None:
            guarded(self._begin, recorded)

    def _begin(self, recorded: Recording) -> None:
        # In a `with` statement __enter__ comes next: then it was no plain stage, see event.h.
        self._plain = recorded.begin_plain_stage(self._name)
        self._recorded = recorded
        self._begun_ns = monotonic_ns()

    def _enter(self, recorded: Recording) -> None:
        plain, self._plain = self._plain, None
        if self._recorded is not recorded:
            plain = None
        sampled = plain is not None and monotonic_ns() - self._begun_ns < _SAME_MOMENT_NS
        open_before = len(self._blocks)
        try:
            self._blocks.append(recorded.enter_stage(self._name, plain, sample=not sampled))
        except BaseException:
            if len(self._blocks) > open_before:  # __exit__ is not called then
                self._leave()
            raise

    def _leave(self) -> None:
        block = of_this_task(self._blocks)
        self._blocks.remove(block)
        recorded = recording.current()
        if recorded is not None and recorded.stages is block.stages:
            recorded.leave_stage(block)

    def __enter__(self) -> stage:
        recorded = recording.current()
        if recorded is not None:
            guarded(self._enter, recorded)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._blocks:
            guarded(self._leave)

    def __repr__(self) -> str:
        return f"memtrace.stage({self._name!r})"


def pause() -> None:
    """Record nothing more of this process until resume(): it runs as if it were not recorded.

    Neither allocations nor operators, stacks or steps are recorded. The end of memory that was
    recorded before is, and so are a CUDA allocator's segments and failures, stages and labels: what
    was recorded stays exact. resume() lists the CUDA memory that was allocated meanwhile and is
    live; CPU memory of the pause is found as memory from before a recording is: where it is the
    storage of a model's weights or buffers, a gradient or an optimizer's state.

    Of the whole process, all its threads; a forked child begins as its parent is. Nothing where
    nothing is recorded, or where it is paused already: calls do not nest, blocks do
    (`memtrace.paused`).
    """
    with recording.lock():
        if (recorded := recording.current()) is not None:
            recorded.pauses.plain = True
            all_of(lambda: guarded(recorded.follow_pauses))


def resume() -> None:
    """Record again after pause(), or in a program that `memtrace run --paused` began.

    Where a block of `memtrace.paused` is open, it goes on once that is left.
    """
    with recording.lock():
        if (recorded := recording.current()) is not None:
            recorded.pauses.plain = False
            all_of(lambda: guarded(recorded.follow_pauses))


class paused:  # noqa: N801  # a context manager
    """Pause the recording in a block: `with memtrace.paused():`. See pause().

    Blocks may lie in blocks, and be open on several threads: it goes on when the last is left.
    """

    def __init__(self) -> None:
        self._open: list[tuple[Pauses, PauseBlock]] = []

    def __enter__(self) -> paused:
        opened = None
        try:
            with recording.lock():
                if (recorded := recording.current()) is not None:
                    opened = recorded.pauses, PauseBlock()
                    recorded.pauses.enter(opened[1])
                    self._open.append(opened)
                    guarded(recorded.follow_pauses)
        except BaseException:  # __exit__ is not called then
            if opened is not None:
                self._leave(opened)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._open:
            opened = self._open[-1]
            all_of(lambda: self._leave(opened))

    def _leave(self, opened: tuple[Pauses, PauseBlock]) -> None:
        pauses, block = opened
        with recording.lock():
            if opened in self._open:
                self._open.remove(opened)
            pauses.leave(block)
            recorded = recording.current()
            if recorded is not None and recorded.pauses is pauses:
                guarded(recorded.follow_pauses)

    def __repr__(self) -> str:
        return "memtrace.paused()"


class step:  # noqa: N801  # a context manager
    """Mark a step, such as a request: `with memtrace.step("POST /generate"):`.

    What is allocated and called in the block belongs to it: by the task that enters it, by the
    tasks that this one starts, and by threads that work for them in their context
    (`asyncio.to_thread`, the thread pools of web frameworks). Two requests at once are told apart.
    A thread that was started by hand, or works on what several requests gave it, is in no step
    until it marks its own. Steps may lie in steps; listings then tell the outermost. Memory is told
    by steps where stacks are recorded. A step that begins while the recording is paused is none.

    Args:
        name: What it is called; many steps may have one name.
        kind: "request", or another word for what it is; else what it does says so ("inference",
            "training").
    """

    def __init__(self, name: str, *, kind: str | None = None) -> None:
        self._begun_as = self.name = name
        self._kind = kind
        self._open: list[tuple[Recording, int, int] | None] = []  # None: begun in a pause

    #: What it is called; may be changed until it ends, as a server learns which route was asked.
    name: str

    def _enter(self, recorded: Recording) -> None:
        if recorded.is_paused:
            self._open.append(None)
            return
        self._begun_as = self.name
        open_before = len(self._open)
        try:
            self._open.append((recorded, *recorded.enter_step(_plain_text(self.name), self._kind)))
        except BaseException as error:
            if len(self._open) > open_before:  # __exit__ is not called then
                self._leave(type(error).__name__)
            raise

    def _leave(self, error: str) -> None:
        if (left := self._open.pop()) is None:
            return
        recorded, number, before = left
        if recording.current() is recorded:
            name = "" if self.name == self._begun_as else _plain_text(self.name)
            recorded.leave_step(number, before, name=name, error=error)

    def __enter__(self) -> step:
        recorded = recording.current()
        if recorded is not None:
            guarded(self._enter, recorded)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._open:
            guarded(self._leave, "" if kind is None else kind.__name__)

    def __repr__(self) -> str:
        return f"memtrace.step({self.name!r})"


def _plain_text(text: object) -> str:
    return str(text).encode(errors="replace").decode()  # a spool holds UTF-8


def label(tensor: Tensor, name: str | None = None, *, category: str | None = None) -> Tensor:
    """Say what a tensor is: its name in every table, and its category. Returns the tensor.

    Args:
        tensor: Its storage is what is labelled, with all its views.
        name: Shown instead of an operator or a module path.
        category: One of FORMAT.md's: "kv_cache", "input", ...

    Raises:
        MemtraceError: there is no such category.
    """
    if category is not None and category not in CATEGORIES:
        raise MemtraceError(f"no such category: {category!r}; one of {', '.join(CATEGORIES)}")
    recorded = recording.current()
    if recorded is not None and recorded.hook is not None:
        guarded(recorded.hook.label, tensor, name, category)
    return tensor
