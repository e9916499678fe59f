"""Native core: recorder, spool reader, analysis loops. No torch inside."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

StrPath = str | PathLike[str]

# ---- store, analyse (csrc/bind/bind_store.cpp, bind_analyse.cpp) ------------------------------

class SpoolError(ValueError):
    """A spool that cannot be read; the message is one line for the user."""

class SpoolReader:
    """One process's spool, also of a killed or a running process."""

    def __init__(self, directory: StrPath) -> None: ...
    @property
    def control(self) -> dict[str, Any]: ...
    @property
    def records(self) -> int: ...
    @property
    def logs(self) -> int: ...
    def process_notes(self) -> list[bytes]: ...
    def damage(self) -> dict[str, int]: ...
    def add_clock_anchor(self, *, ticks: int, monotonic_ns: int) -> None: ...

class WindowPacker:
    """Takes full windows from a process that records, in this one (csrc/store/window_packer.h).

    Raises:
        SpoolError: the spool is not there (yet) or not one, or it cannot be packed.
    """

    def __init__(self, directory: StrPath) -> None: ...
    def work(self) -> Literal["stopped", "writer_ended", "unable"]: ...
    def stop(self) -> None: ...
    @property
    def windows_packed(self) -> int: ...

# What a running process holds, read from its spool as it is written. memtrace.live.follow makes
# values of the dicts.
class Live:
    def __init__(self, directory: StrPath) -> None: ...
    # True: all that is settled was read. `ended`: the writer publishes nothing more.
    def advance(self, *, ended: bool = False, most_ns: int = 50_000_000) -> bool: ...
    def state(self) -> dict[str, Any]: ...
    def devices(self) -> dict[str, dict[str, Any]]: ...
    # Name (or None), bytes and blocks now, bytes and blocks at the peak.
    def groups(self, device: str, by: str) -> list[tuple[str | None, int, int, int, int]]: ...
    # The most in each of `points` equal parts of the time until now: allocated, reserved.
    def curve(self, device: str, points: int) -> tuple[list[int], list[int]]: ...
    def process_notes(self) -> list[bytes]: ...

# What a column is made of: 64-bit values (codes for strings), validity bitmap, dictionary, list
# offsets. `kind` is one of int64, uint64, int32, bool, string, int64_list.
class Column:
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def values(self) -> npt.NDArray[Any]: ...
    @property
    def validity(self) -> npt.NDArray[np.uint8] | None: ...
    @property
    def dictionary(self) -> list[str] | None: ...
    @property
    def offsets(self) -> npt.NDArray[np.int32] | None: ...

class Batch:
    """Rows of one dataset, ready to be written; `ends_part`: the next rows go to a new file."""

    @property
    def dataset(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def ends_part(self) -> bool: ...
    @property
    def columns(self) -> Sequence[Column]: ...

class Conversion:
    """Turns a spool into the rows of all datasets but `processes`, a batch at a time."""

    def __init__(
        self, reader: SpoolReader, *, batch_rows: int = 131072, part_rows: int = 524288
    ) -> None: ...
    def advance(self) -> list[Batch]: ...
    @property
    def finished(self) -> bool: ...
    @property
    def consumed(self) -> int: ...
    def totals(self) -> dict[str, Any]: ...
    def layout(self) -> dict[str, list[tuple[int, int, int, int, int]]]: ...

class FollowedConversion:
    """The same rows of a process that runs; what was read of its spool can be packed."""

    def __init__(
        self,
        directory: StrPath,
        *,
        batch_rows: int = 131072,
        part_rows: int = 131072,
        settle_ns: int = 10_000_000_000,
    ) -> None: ...
    def advance(self, *, ended: bool, most_ns: int) -> list[Batch]: ...
    def take_all(self) -> list[Batch]: ...
    def compact(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    @property
    def idle(self) -> bool: ...
    @property
    def consumed(self) -> int: ...
    def totals(self) -> dict[str, Any]: ...

def clock_now() -> tuple[int, int]: ...

# ---- record (csrc/bind/bind_record.cpp) ----------------------------------------------------------

class Recorder:
    """The spool that this process writes."""

    def __init__(self, spool_dir: StrPath, *, most_records_bytes: int = 0) -> None: ...
    @property
    def api(self) -> object: ...
    @property
    def most_records_bytes(self) -> int: ...
    def intern(self, text: str, /) -> int: ...
    def text(self, kind: int, id: int, payload: bytes, /) -> bool: ...  # noqa: A002
    def process_note(self, json: str, /) -> bool: ...
    def tensor_note(self, json: str, /) -> bool: ...
    def note(
        self,
        action: int,
        name: str = "",
        text: str = "",
        target: str = "",
        source: str = "",
        reason: str = "",
        value: int = 0,
        value2: int = 0,
        device: int = 0,
        thread: int = 0,
    ) -> None: ...
    def next_step(self) -> int: ...
    def thread_id(self) -> int: ...
    def event(
        self,
        action: int,
        *,
        device: int,
        memory_or_pool: int = 0,
        address: int,
        size_bytes: int,
        stream: int = 0,
    ) -> None: ...
    def set_exit_status(self, status: int, /) -> None: ...
    def note_exit_status(self) -> None: ...  # when this process exits
    def lost(self) -> dict[str, int]: ...
    def ticks(self) -> int: ...
    def close(self, quiet: bool = True) -> None: ...
    def abandon(self) -> None: ...

ACTION_alloc: int
ACTION_free_requested: int
ACTION_free_completed: int
ACTION_segment_alloc: int
ACTION_preexisting: int
ACTION_external: int
ACTION_mark: int
ACTION_sample: int
ACTION_stage_begin: int
ACTION_stage_end: int
ACTION_step_begin: int
ACTION_step_end: int
KIND_name: int
KIND_stack: int
KIND_module: int
KIND_module_path: int
KIND_pool: int
KIND_thread: int
KIND_tensor: int
KIND_process: int
KIND_source_map: int
MEMORY_host: int
MEMORY_pinned: int
MEMORY_mapped: int
MEMORY_shared: int

# ---- the watched process (csrc/bind/bind_process.cpp) ------------------------------------------

def watch_process_end(end_fifo: StrPath, done_fifo: StrPath, hint: str | bytes) -> None:
    """At the exit of this process, tell the finaliser and wait for it."""

def run_at_process_end(command: list[bytes], environment: list[bytes], hint: bytes) -> None:
    """At the exit of this process, run a command and wait for it; its last word is the status."""

def adopts_orphans() -> bool:
    """Whether processes whose parent dies become children of this one: process 1, a subreaper."""

def announce_process_end(status: int) -> None:
    """The same, now; the first call counts."""

def wait_after_interrupt(status: int) -> None:
    """Also wait when the process ends by an unhandled KeyboardInterrupt."""

class ObservedCall:
    """What observed() gives: to whoever asks, it looks like the original."""

def is_programs_exception(exception: BaseException) -> bool: ...
def observed(
    original: Callable[..., Any],
    before: Callable[..., object] | None = None,
    after: Callable[..., object] | None = None,
    failed: Callable[[BaseException], object] | None = None,
) -> Callable[..., Any]:
    """The original, telling before(args, kwargs), and after(result, args, kwargs) or
    failed(exception), of each call.
    """

def seal_spool(
    directory: StrPath,
    *,
    exit_status: int | None = None,
    complete: bool = False,
    process_note: str = "",
) -> None:
    """Add what is known of a process that writes no more."""

def writer_life(directory: StrPath) -> Literal["running", "ended", "unknown"]:
    """Whether the writer of a spool still runs, as far as it can be told from here."""

def writer_pid(directory: StrPath) -> int:
    """The number of a spool's writer here; 0: it has ended, or is another namespace's."""

# ---- the CUDA caching allocator, replayed (csrc/bind/bind_replay.cpp) ---------------------------

REQUEST_KINDS: tuple[str, ...]
SEGMENT_ACTIONS: tuple[str, ...]

class ReplayRequests:
    """What a program asked of one device's allocator, in order (csrc/replay/requests.h).

    kind: numbers of REQUEST_KINDS; detail: the allocation, or the number of a setting or fraction;
    stream, pool: numbers below `streams` and `pools`, streams in the order of their handles, pool
    0 the default one; address: of a malloc's block, 0: not known, or an empty array. settings: as
    the text of a `settings` mark. ranges, blocks, segment_events: columns by name, as in the
    structs HeldRange (address, size_bytes, stream, pool, small, expandable), HeldBlock (address,
    block_bytes, size_bytes, allocation) and SegmentEvent (action: number of SEGMENT_ACTIONS,
    address, size_bytes, stream).
    """

    def __init__(
        self,
        *,
        kind: npt.NDArray[np.uint8],
        detail: npt.NDArray[np.uint32],
        size_bytes: npt.NDArray[np.uint64],
        stream: npt.NDArray[np.uint16],
        pool: npt.NDArray[np.uint16],
        address: npt.NDArray[np.uint64],
        settings: list[str],
        fractions: list[float],
        ranges: dict[str, Any],
        blocks: dict[str, Any],
        segment_events: dict[str, Any],
        allocations: int,
        streams: int,
        pools: int,
    ) -> None: ...
    def replay(
        self,
        *,
        addresses: Literal["recorded", "rising", "falling"],
        total_bytes: int,
        first_settings: str = "{}",
        settings: list[str] | None = None,
        capacity_bytes: int | None = None,
        first_fraction: float = 1.0,
        fraction: float | None = None,
        goes_on: bool = False,
        keeps_totals: bool = False,
    ) -> dict[str, Any]:
        """One replay, without the GIL (csrc/replay/replay.h).

        settings: what each recorded change of settings is instead. fraction: used throughout,
        whatever the recording's was. goes_on: also after an allocation failed that did not fail in
        the recording. keeps_totals: with `totals` after each
        request and `block_bytes` of each allocation, as arrays of int64.
        """
