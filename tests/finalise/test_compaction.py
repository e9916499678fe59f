"""A spool that is converted while it is written gives the trace that it gives afterwards."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from finalise.recorded_spools import all_rows, copied, finaliser_of, leave_spool, start
from memtrace import _core
from memtrace.errors import MemtraceError
from memtrace.finalise import compaction as compactions
from memtrace.finalise import compactor as compactors
from memtrace.finalise import finalise
from memtrace.finalise.compaction import Compaction
from memtrace.finalise.compactor import Compactor
from memtrace.finalise.convert import recover
from memtrace.finalise.process_files import make_anew, work_folder
from memtrace.finalise.spools import open_spool
from memtrace.run.output import pid_of_key
from native_spool import NativeSpool
from program_runs import memtrace as run
from program_runs import processes, wait_for_finaliser
from spool_writer import CHUNK_BYTES

PROGRAMS = Path(__file__).parents[1] / "programs" / "compaction"
TRAINING, LEFT_BEHIND = PROGRAMS / "training.py", PROGRAMS / "left_behind.py"
OUTLIVES_CHILD = PROGRAMS / "outlives_child.py"


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return leave_spool(tmp_path_factory.mktemp("compaction") / "t.memtrace", TRAINING, "700")


def key_of(spool: Path) -> str:
    return spool.name.partition("=")[2]


def disk_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def packed_bytes(spool: Path) -> int:
    return sum(map(disk_bytes, spool.glob("packed-*.bin")))


def compactor_of(spool: Path, trace: Path) -> Compactor:
    """To which the spool is that of the program itself."""
    compactor = Compactor(trace, main_pid=pid_of_key(key_of(spool)) or 0)
    compactor._large_bytes = 1
    return compactor


def begun_by(compactor: Compactor) -> dict[str, Compaction]:
    """What it has begun when it is stopped at once after the first."""
    compactor.start()
    deadline_s = time.monotonic() + 60
    while not compactor._compactions and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return compactor.stop()


def test_the_rows_are_those_of_a_conversion_afterwards(spool: Path, tmp_path: Path) -> None:
    whole, followed = tmp_path / "whole.memtrace", tmp_path / "followed.memtrace"
    copied(spool, whole)
    finalise(whole)
    place = copied(spool, followed)
    compaction = Compaction(key_of(spool), place, followed)
    while not compaction.step():
        pass
    records = _core.SpoolReader(spool).records
    assert compaction.records == records
    assert disk_bytes(place / "records.bin") < 5 << 20  # the last of it stays as it is
    assert packed_bytes(place) * 4 < records * 64
    finalise(followed, compactions={key_of(spool): compaction})
    assert all_rows(followed) == all_rows(whole)
    assert not list(followed.glob(".*"))


def test_a_packed_spool_is_converted_from_its_beginning(spool: Path, tmp_path: Path) -> None:
    """The finaliser that packed it was killed."""
    whole, packed = tmp_path / "whole.memtrace", tmp_path / "packed.memtrace"
    copied(spool, whole)
    finalise(whole)
    compaction = Compaction(key_of(spool), copied(spool, packed), packed)
    while not compaction.step():
        pass
    result = recover(packed)
    assert result.keys == (key_of(spool),)
    assert all_rows(packed) == all_rows(whole)


def test_one_that_cannot_go_on_is_as_if_it_had_not_begun(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole.memtrace", tmp_path / "broken.memtrace"
    copied(spool, whole)
    finalise(whole)
    compaction = Compaction(key_of(spool), copied(spool, broken), broken)
    compaction.step()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compaction, "finish", fail)
    finalise(broken, compactions={key_of(spool): compaction})
    assert all_rows(broken) == all_rows(whole)


def test_another_finaliser_was_at_work_meanwhile(spool: Path, tmp_path: Path) -> None:
    """It failed, and took away what it, and we, had written."""
    whole, shared = tmp_path / "whole.memtrace", tmp_path / "shared.memtrace"
    copied(spool, whole)
    finalise(whole)
    compaction = Compaction(key_of(spool), copied(spool, shared), shared)
    compaction.step()
    shutil.rmtree(work_folder(shared, key_of(spool)))
    finalise(shared, compactions={key_of(spool): compaction})
    assert all_rows(shared) == all_rows(whole)


def test_another_finaliser_has_begun_meanwhile(spool: Path, tmp_path: Path) -> None:
    """What it writes is neither mixed with ours nor taken away."""
    compaction = Compaction(key_of(spool), copied(spool, tmp_path), tmp_path)
    compaction.step()
    work = work_folder(tmp_path, key_of(spool))
    make_anew(work)
    (work / "events").mkdir()
    with pytest.raises(MemtraceError, match="was taken away"):
        compaction.step()
    with pytest.raises(MemtraceError, match="was taken away"):
        compaction.finish(open_spool(key_of(spool), spool))
    compaction.abandon()
    assert [file.name for file in work.iterdir()] == ["events"]


def test_what_was_begun_goes_on_after_a_stop(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program has ended, a child of it not yet."""
    monkeypatch.setattr(compactions, "_MOST_STEP_NS", 1_000_000)
    copied(spool, tmp_path)
    work = work_folder(tmp_path, key_of(spool))
    compactor = compactor_of(spool, tmp_path)
    (begun,) = begun_by(compactor).values()
    read = begun.records
    assert read < _core.SpoolReader(spool).records
    compactor.start()
    deadline_s = time.monotonic() + 60
    while begun.records == read and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert list(compactor.stop().values()) == [begun]
    assert begun.records > read
    assert work.exists()
    compactor.abandon()
    assert not work.exists()


def test_a_child_that_ends_before_the_program_is_finished_then(tmp_path: Path) -> None:
    """What is known of its blocks need not be kept."""
    trace = tmp_path / "t.memtrace"
    done = run("run", "--quiet", "--max-disk", "64MiB", "-o", trace, OUTLIVES_CHILD)
    assert (done.status, done.out.split()) == (0, [b"True"])
    main, child = processes(trace)
    assert (main["start_method"], child["start_method"]) == ("main", "subprocess")
    assert child["events"] >= 80_000
    for process in (main, child):
        assert process["complete"] is True
        assert process["lost_total"] == 0
        assert process["dropped"] is None
    assert not (trace / "spool").exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("odd")])
def test_a_child_that_cannot_be_finished_is_tried_again_at_the_end(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The disk was full for a while; or whatever it was."""

    def fail(*_: object) -> None:
        raise error

    place = copied(spool, tmp_path)
    compactor = Compactor(tmp_path, main_pid=1)
    compactor._large_bytes = 1
    with monkeypatch.context() as patch:
        patch.setattr("memtrace.finalise.convert._put_in_place", fail)
        compactor.start()
        deadline_s = time.monotonic() + 60
        while not compactor._given_up and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert compactor.stop() == {}
    assert place.exists()
    assert not work_folder(tmp_path, key_of(spool)).exists()
    finalise(tmp_path)
    (process,) = processes(tmp_path)
    assert process["lost_total"] == 0


def test_where_there_may_be_no_more_threads_all_is_left_to_the_end(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    copied(spool, tmp_path)
    compactor = Compactor(tmp_path, main_pid=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        compactor.start()
        assert compactor.stop() == {}
        compactor.abandon()
    finalise(tmp_path)
    (process,) = processes(tmp_path)
    assert process["lost_total"] == 0


def test_within_a_limit_the_finaliser_stays_as_long_as_a_child(tmp_path: Path) -> None:
    """What it gave up of the child's records is in its tables alone."""
    trace = tmp_path / "t.memtrace"
    assert run("run", "--quiet", "--max-disk", "64MiB", "-o", trace, LEFT_BEHIND).status == 0
    deadline_s = time.monotonic() + 60
    while (trace / "spool").exists() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert not (trace / "spool").exists()
    main, child = processes(trace)
    assert main["start_method"] == "main"
    assert child["complete"] is True
    assert child["events"] >= 200_000
    assert child["lost_total"] == 0


@pytest.mark.parametrize("is_read", [False, True], ids=["nobody reads it", "it is read"])
def test_records_that_are_not_read_take_no_more_than_allowed(tmp_path: Path, is_read: bool) -> None:
    allowed_bytes, pairs = 12 << 20, 200_000  # of which some 98,000 fit
    trace = tmp_path / "t.memtrace"
    spool = NativeSpool(trace, most_records_bytes=allowed_bytes)
    spool.process(devices=[{"index": None, "kind": "cpu", "name": "cpu"}])
    spool.log()
    thread = spool.log(1)
    compaction = Compaction("host-1-start", spool.path, trace, settle_ns=0)
    for pair in range(pairs):
        thread.alloc(spool.recorder.ticks(), 0x1000 + 64 * (pair % 999), 64)
        thread.free(spool.recorder.ticks(), 0x1000 + 64 * (pair % 999))
        while is_read and pair % 20_000 == 0 and not compaction.step():
            pass
    assert disk_bytes(spool.path / "records.bin") <= allowed_bytes + CHUNK_BYTES
    path = spool.finish()
    compactions = {"host-1-start": compaction} if is_read else {}
    if not is_read:
        compaction.abandon()
    finalise(trace, compactions=compactions)
    assert not path.exists()
    (process,) = processes(trace)
    lost = json.loads(process["lost_events"])["event_no_space"]
    assert process["events"] + lost == 2 * pairs
    assert (lost == 0) == is_read
    assert process["lost_total"] == lost


def test_a_limit_holds_in_the_program_and_its_children(tmp_path: Path) -> None:
    """Each leaves as much again to what is not read yet, and at least 1 GiB."""
    told = (
        "import os, sys, subprocess\n"
        "from memtrace.recording import current\n"
        "print(current().recorder.most_records_bytes, flush=True)\n"
        "if len(sys.argv) == 1:\n"
        "    subprocess.run([sys.executable, '-c', sys.orig_argv[2], 'child'], check=True)\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        print(current().recorder.most_records_bytes, flush=True)\n"
        "        os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
    )
    for number, (limit, bytes_left) in enumerate(
        [((), 0), (("--max-disk", "64MiB"), 1 << 30), (("--max-disk", "3GiB"), 3 << 30)]
    ):
        trace = tmp_path / f"{number}.memtrace"
        done = run("run", "--quiet", *limit, "-o", trace, "-c", told)
        assert done.status == 0, done.err
        assert [int(line) for line in done.out.split()] == [bytes_left] * 3


def test_it_goes_on_when_a_spool_could_not_be_opened(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors are short now and then."""
    trace = tmp_path / "t.memtrace"
    copied(spool, trace)
    held, refused = compactors.held, []

    @contextmanager
    def refusing(spool_dir: Path, *, wait: bool = True) -> Iterator[bool]:
        if not refused:
            refused.append(spool_dir)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        with held(spool_dir, wait=wait) as is_ours:
            yield is_ours

    monkeypatch.setattr(compactors, "held", refusing)
    monkeypatch.setattr(compactors, "_PERIOD_S", 0.01)
    compactor = compactor_of(spool, trace)
    begun = begun_by(compactor)
    assert refused
    assert list(begun) == [key_of(spool)]


@pytest.mark.parametrize(("max_disk_bytes", "most"), [(None, 2), (1 << 30, 3)])
def test_so_many_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_disk_bytes: int | None, most: int
) -> None:
    """Each takes memory; within a limit all must be kept small."""
    monkeypatch.setattr(compactors, "_MOST_AT_ONCE", 2)
    monkeypatch.setattr(compactors, "_PERIOD_S", 0.01)
    monkeypatch.setattr(compactors, "_PERIOD_ON_LITTLE_DISK_S", 0.01)
    spools = [NativeSpool(tmp_path, f"host-{number}-start") for number in (1, 2, 3)]
    compactor = Compactor(tmp_path, max_disk_bytes=max_disk_bytes)
    compactor._large_bytes = 0
    looked_at: list[Path] = []
    step = compactor._step
    monkeypatch.setattr(
        compactor, "_step", lambda folder: (looked_at.append(folder), step(folder))[1]
    )
    compactor.start()
    deadline_s = time.monotonic() + 60
    while len(looked_at) < 3 * len(spools) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert len(compactor.stop()) == most
    compactor.abandon()


@pytest.mark.parametrize("max_disk_bytes", [None, 1 << 30])
def test_only_without_a_limit_it_has_the_lowest_priority(
    tmp_path: Path, max_disk_bytes: int | None
) -> None:
    """What it has not read yet takes disk: within a limit it must keep up on a busy machine."""
    compactor = Compactor(tmp_path, max_disk_bytes=max_disk_bytes)
    compactor.start()
    own = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = own if max_disk_bytes else 19
    deadline_s = time.monotonic() + 10
    while (
        os.getpriority(os.PRIO_PROCESS, compactor._thread.native_id) != wanted
        and time.monotonic() < deadline_s
    ):
        time.sleep(0.01)
    time.sleep(0.2)
    assert os.getpriority(os.PRIO_PROCESS, compactor._thread.native_id) == wanted
    compactor.stop()


def test_the_finaliser_may_open_as_many_files_as_the_system_allows(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        program = start(tmp_path / "t.memtrace", TRAINING, "1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with program as process:
        finaliser = finaliser_of(tmp_path / "t.memtrace")
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (256, hard)
        deadline_s = time.monotonic() + 30  # it begins with little priority
        while resource.prlimit(finaliser, resource.RLIMIT_NOFILE) != (hard, hard):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


def test_a_program_is_compacted_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the finaliser beside it; short recordings are left alone until their end."""
    trace = tmp_path / "t.memtrace"
    compactor = Compactor(trace)
    monkeypatch.setattr(compactors, "_PERIOD_S", 0.01)
    monkeypatch.setattr(compactions, "_SETTLE_NS", 200_000_000)
    compactor._large_bytes = 1 << 20
    with ExitStack() as stack:  # what fails here leaves no process for other tests to hear of
        options = ("--max-disk", "10GiB")
        process = stack.enter_context(start(trace, TRAINING, "1500", options=options))
        (spool,) = (trace / "spool").glob("process=*")
        finaliser = finaliser_of(trace)
        os.kill(finaliser, signal.SIGSTOP)  # its work is ours
        stack.callback(os.kill, finaliser, signal.SIGCONT)
        stack.callback(compactor.stop)
        compactor.start()
        time.sleep(0.3)
        assert not list(trace.glob(".*"))
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        deadline_s = time.monotonic() + 60
        while not packed_bytes(spool) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert packed_bytes(spool)
        late = _core.SpoolReader(spool)  # whoever looks at it now sees it whole
        assert late.records > 0
        assert late.damage()["missing_chunks"] == 0
        live = _core.Live(str(spool))
        while not live.advance(ended=False, most_ns=1_000_000_000):
            pass
        # The program ends its recording, and waits for an answer that we give: until then it is
        # compacted, on a busy machine mostly after its end.
        while not _core.SpoolReader(spool).control["complete"]:
            time.sleep(0.05)
        compaction = compactor._compactions[key_of(spool)]
        while compaction.records <= 10_000 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        begun = compactor.stop()
        assert begun == {key_of(spool): compaction}
        assert compaction.records > 10_000
        finalise(trace, compactions=begun)
    assert process.returncode == 0
    wait_for_finaliser(trace)
    row = all_rows(trace)["processes"].to_pylist()[0]
    assert row["lost_total"] == 0
    assert row["complete"] is True
    assert row["dropped"] is None
    events = all_rows(trace)["events"]
    assert events.num_rows == row["events"]
    assert events["seq"].to_pylist() == list(range(row["events"]))
