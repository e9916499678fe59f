"""One process's recording: its spool, its hooks, and what it notes at its beginning and end.

There is at most one per process at a time (`current()`). It lives in the watched program: it
imports built-in modules and `os` only, and what goes wrong in it never becomes the program's error.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock

from memtrace import _core
from memtrace.pauses import Pauses
from memtrace.plain_json import to_json
from memtrace.run import environment
from memtrace.run.facts import new_key, process_facts, resident_bytes
from memtrace.stages import Block, Plain, Stages
from memtrace.steps import Steps, current_step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import TypeVar

    from memtrace.hook.installed import InstalledHook
    from memtrace.run.environment import Options
    from memtrace.sample.container import Container

    Result = TypeVar("Result")

# What is recorded and not read yet may take as much again as the trace, and at least so much: more
# than ten million events.
_LEAST_UNREAD_BYTES = 1 << 30

_lock = RLock()
_lock_pid = os.getpid()
_current: Recording | None = None


def lock() -> RLock:
    """What guards starting and stopping.

    In a forked child it is another one: a thread that is not there may have held its parent's.
    """
    global _lock, _lock_pid
    if _lock_pid != os.getpid():
        _lock, _lock_pid = RLock(), os.getpid()
    return _lock


def current() -> Recording | None:
    """The recording of this process, if one is on."""
    return _current if _current is not None and _current.pid == os.getpid() else None


def parents() -> Recording | None:
    """The recording that a forked child finds on, which is its parent's."""
    return _current if _current is not None and _current.pid != os.getpid() else None


def set_current(recording: Recording | None) -> None:
    """What `current()` answers from now on; call it with `lock()` held."""
    global _current
    _current = recording


class Recording:
    """What this process writes into a trace, from construction until end()."""

    def __init__(
        self,
        trace_dir: str,
        options: Options,
        *,
        start_method: str,
        parent: str | None = None,
        main_pid: int = 0,
        pauses: Pauses | None = None,
    ) -> None:
        """Make the spool; nothing of the program is hooked yet (see watch_torch).

        pauses: Those of the process that this one was forked from.

        Raises:
            RuntimeError, OSError: the spool cannot be made; the text says where and why.
        """
        self.trace_dir = trace_dir
        self.options = options
        self.main_pid = main_pid
        self.pid = os.getpid()
        self.key = new_key()
        self.hook: InstalledHook | None = None
        self._is_quiet = True  # no thread is inside a hook that was removed
        self.stages = Stages()
        self.steps = Steps()
        self.pauses = pauses or Pauses(paused=options.paused)
        self.is_paused = False
        self._container: Container | None = None
        spool = os.path.join(trace_dir, "spool", f"process={self.key}")
        os.mkdir(spool, 0o700)
        # First: a child that is killed as it begins leaves no spool that does not say whose it is.
        facts = process_facts(options, key=self.key, parent=parent, start_method=start_method)
        limit = options.max_disk_bytes
        unread = max(limit, _LEAST_UNREAD_BYTES) if limit else 0
        self.recorder = _core.Recorder(spool, most_records_bytes=unread)
        try:
            self.note(facts)
            self.follow_pauses()
        except BaseException:
            self.recorder.close()
            raise

    @property
    def is_main(self) -> bool:
        """Whether this is the process that `memtrace run` became."""
        return self.main_pid == self.pid

    @property
    def is_run(self) -> bool:
        """Whether `memtrace run` began it, here or in a parent, and not `record()`."""
        return self.main_pid != 0

    def note(self, facts: dict[str, object]) -> None:
        """Add to what the trace knows of this process; later notes win."""
        self.recorder.process_note(to_json(facts))

    def follow_pauses(self) -> None:
        """Pause or go on, if that is wanted by now. Call it with `lock()` held.

        It may be called again where it was cut off: what is noted and what is done are one.
        """
        if self.pauses.wanted == self.is_paused:
            return
        if not self.is_paused:
            guarded(self.sample, "pause")  # the last counters that all events add up to
            try:
                self.is_paused = True
                self.recorder.note(_core.ACTION_mark, name="pause")
            finally:
                if self.hook:
                    guarded(self.hook.pause)
        else:
            if self.hook:
                guarded(self.hook.resume)
            self.is_paused = False
            self.recorder.note(_core.ACTION_mark, name="resume")
            guarded(self.sample, "resume")

    def begin_plain_stage(self, name: str) -> Plain:
        """It lasts until the next one in its place; if it is entered, it was none."""
        self.sample("mark")
        plain, around = self.stages.begin_plain(name)
        try:
            self._note_plain(plain, around)
        except BaseException:  # nobody gets to know of it who could enter it: it is over
            self.leave_stage(self.enter_stage(name, plain, sample=False))
            raise
        return plain

    def enter_stage(self, name: str, plain: Plain | None, *, sample: bool) -> Block:
        """It lasts until leave_stage(); the plain stage is the one that it seemed to be so far."""
        block = None
        try:
            if sample:
                self.sample("mark")
            block = self._begin_block(name, plain)
            self._note_block(block)
        except BaseException:  # nobody gets to know of it who could leave it: it is over
            if block is None:
                block = self._begin_block(name, plain)
                self._note_block(block)
            self.leave_stage(block)
            raise
        return block

    def _begin_block(self, name: str, plain: Plain | None) -> Block:
        return self.stages.enter(name, plain, thread=self.recorder.thread_id())

    def leave_stage(self, block: Block) -> None:
        """The block is left."""
        try:
            self.sample("mark")
        finally:
            all_of(lambda: self._end_stages(block))

    def _end_stages(self, block: Block) -> None:
        for ended in self.stages.open_inside(block):
            ended.is_open = False
            self.recorder.note(_core.ACTION_stage_end, name=ended.name, value=ended.number)
        self.stages.left(block)

    def enter_step(self, name: str, kind: str | None) -> tuple[int, int]:
        """This task is in a marked step from now on. Returns what to leave it with."""
        number = self.recorder.next_step()
        before = current_step.get()
        text = to_json({"name": name, "kind": kind})
        around, thread = self.steps.innermost(), self.recorder.thread_id()
        try:
            self.recorder.note(
                _core.ACTION_step_begin, text=text, value=number, value2=around, thread=thread
            )
            self.steps.enter(number)
            self.tell_steps()
        except BaseException as error:  # nobody gets to know of it who could leave it
            self.leave_step(number, before, name="", error=type(error).__name__)
            raise
        return number, before

    def leave_step(self, number: int, before: int, *, name: str, error: str) -> None:
        """It is over; `name`: what it is called, if that has changed; `error`: what ended it."""
        try:
            all_of(lambda: self.steps.leave(number, before), self.tell_steps)
        finally:
            self.recorder.note(_core.ACTION_step_end, name=name, text=error, value=number)

    def tell_steps(self) -> None:
        """The hook is to look again which step a task is in."""
        if not self.hook or not self.steps.any:
            return
        if not self.hook.steps_changed(current_step, self.steps.recording) and self.steps.are_told:
            self.steps.are_told = False
            say("no memory is told by marked steps: this Python's contexts are of an unknown form")

    def continue_stages(self, parent: Recording) -> None:
        """In a forked child: what it was forked in goes on here."""
        self.stages = parent.stages
        if self.stages.plain is not None:
            self._note_plain(self.stages.plain, None)
        for block in self.stages.of_fork(self.recorder.thread_id()):
            self._note_block(block)
            if block.plain is not None:
                self._note_plain(block.plain, block)

    def _note_plain(self, plain: Plain, around: Block | None) -> None:
        self._note_begin(plain.number, plain.name, "user", around, around.thread if around else 0)

    def _note_block(self, block: Block) -> None:
        self._note_begin(block.number, block.name, "scope", block.around, block.thread)

    def _note_begin(
        self, number: int, name: str, kind: str, around: Block | None, thread: int
    ) -> None:
        self.recorder.note(
            _core.ACTION_stage_begin,
            name=name,
            text=kind,
            value=number,
            value2=around.number if around else 0,
            thread=thread,
        )

    def export_environment(self) -> None:
        """Make Python children of this process join the trace."""
        os.environ.update(
            environment.variables(
                self.trace_dir,
                self.options,
                main_pid=self.main_pid,
                parent=self.key,
                python_path=os.environ.get("PYTHONPATH"),
            )
        )

    def clean_environment(self) -> None:
        """Take out of the environment what export_environment() put in, and nothing else."""
        cleaned = environment.clean(dict(os.environ))
        for name in (environment.RECORD, environment.OPTIONS, "PYTHONPATH"):
            if name not in cleaned:
                os.environ.pop(name, None)
            elif os.environ.get(name) != cleaned[name]:
                os.environ[name] = cleaned[name]

    def watch_torch(self) -> None:
        """Install the hooks now if torch is there, else as soon as anyone has imported it."""
        from memtrace.hook import arrival

        arrival.on_import("torch", self._install_hook, self._note_failed_import)

    def _install_hook(self, torch: ModuleType) -> None:
        from memtrace.hook import installed

        if current() is not self:
            return  # it ended before torch was there: another one may be on by now
        try:
            # Known before it begins: whoever ends the recording meanwhile must find it.
            self.hook = installed.prepare(self, torch)
            self.hook.begin()
            self.tell_steps()
            guarded(self._note_cells)
        except BaseException as error:
            self._remove_hook()
            if _core.is_programs_exception(error):
                self.note({"torch_seen": True, "hook_error": "interrupted as it began"})
                raise
            text = str(error)
            self.note({"torch_seen": True, "hook_error": text})
            say(text)

    def _remove_hook(self) -> None:
        if self.hook:
            self._is_quiet = bool(guarded(self.hook.remove)) and self._is_quiet
            self.hook = None

    def _note_unseen_torch(self) -> None:
        # A finder of the program's that asks no other finder imports past our watch.
        if self.hook is None and hasattr(sys.modules.get("torch"), "Tensor"):
            self.note({"torch_seen": True, "hook_error": "torch was imported unseen by memtrace"})

    def _note_failed_import(self, error: BaseException) -> None:
        # Python shows it, unless the program goes on without torch.
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        self.note({"hook_error": f"importing torch failed: {why}"})

    def _note_cells(self) -> None:
        if "IPython" in sys.modules:
            from memtrace.hook.cells import note_cells

            note_cells(self)

    def sample(self, reason: str) -> None:
        """Write down the counters of this moment: the host's and torch's."""
        self.note_sample("host", "rss", "rss", resident_bytes(), reason)
        if not self.is_run:  # nobody samples it from outside
            guarded(self._sample_surroundings, reason)
        if self.hook:
            self.hook.sample(reason)

    def _sample_surroundings(self, reason: str) -> None:
        from memtrace.sample import container, process

        if self._container is None:
            self._container = container.find_container(process.read("/proc/self/cgroup"))
        ends = reason == "end"
        if self._container is not None:
            for metric, value in self._container.readings(whole=ends):
                self.note_sample("container", "cgroup", metric, value, reason)
        if ends:
            folder = process.open_folder("self")
            try:
                if process.resident_bytes(folder) <= process.SHARES_LIMIT_BYTES:
                    for metric, value in process.share_bytes(folder).items():
                        self.note_sample("host", metric, metric, value, reason)
            finally:
                os.close(folder)

    def note_sample(
        self,
        target: str,
        source: str,
        metric: str,
        value: int,
        reason: str,
        *,
        device: int = 0,
    ) -> None:
        """One row of `samples`."""
        self.recorder.note(
            _core.ACTION_sample,
            name=metric,
            target=target,
            source=source,
            reason=reason,
            value=value,
            device=device,
        )

    def end(self, reason: str, *, status: int | None = None, quick: bool = False) -> None:
        """Stop the hooks and close the spool. The first call counts.

        quick: leave out the last look at torch: the process is about to vanish in os._exit, maybe
        in a state in which torch must not be called (a forked child, a crash handler).
        """
        from memtrace.hook import arrival

        with lock():
            if current() is not self:
                return
            set_current(None)
            try:
                arrival.forget_all()
                if not quick:
                    guarded(self._note_unseen_torch)
                    guarded(self.sample, "end")
                    guarded(self._note_cells)
            finally:
                all_of(
                    self._remove_hook,
                    lambda: guarded(self.note, {"end_reason": reason}),
                    lambda: None if status is None else self.recorder.set_exit_status(status),
                    lambda: self.recorder.close(quiet=self._is_quiet and not self.hook),
                )

    def abandon_in_child(self) -> None:
        """After a fork: this is the parent's; forget it without touching its files."""
        self.recorder.abandon()
        if self.hook:
            self.hook.abandon_in_child()


def guarded(action: Callable[..., Result], *args: object) -> Result | None:
    """Call it; a failure of ours is dropped, as the program must not see it, and None returned.

    Raises:
        BaseException: what a signal handler of the program raised meanwhile, which is its own.
    """
    try:
        return action(*args)
    except Exception as error:
        if _core.is_programs_exception(error):
            raise
        if os.environ.get("MEMTRACE_DEBUG"):
            say(f"{type(error).__name__}: {error}")
    return None


def all_of(*steps: Callable[[], object]) -> None:
    """Take all these steps, whatever signal handlers of the program raise meanwhile.

    One that was cut off is taken once more: each must be such that it can be.

    Raises:
        BaseException: what was raised first, after all of them.
    """
    first: BaseException | None = None
    for step in steps:
        try:
            step()
        except BaseException as error:
            first = first or error
            try:
                step()
            except BaseException:  # there is no end to it: the next step must do without this one
                pass
    if first is not None:
        try:
            raise first
        finally:
            first = None  # it knows this frame: a ring that would hold the program's tensors


def _has_stderr() -> bool:
    try:
        os.fstat(2)
    except OSError:
        return False
    return True


# Started without one, number 2 becomes the first file that the program opens.
_starts_with_stderr = _has_stderr()


def say(text: str) -> None:
    """One line for the user, past whatever the program made of sys.stderr."""
    if not _starts_with_stderr:
        return
    try:
        os.write(2, f"memtrace: {' '.join(text.split())}\n".encode(errors="replace"))
    except OSError:
        pass
