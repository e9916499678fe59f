"""The pytest plugin: limits on what a test holds and leaves behind, and every test's peak.

    @pytest.mark.limit_memory("2 GiB", device="cuda")    the most that the test holds at once
    @pytest.mark.limit_leaks("0 B")                      what is still held when it has ended
    pytest --memtrace                                    the peak of every test, in the summary

Counted is tensor memory that was allocated while the test's own function ran; fixtures are not in
it. A test that is measured is recorded for itself: about half a second each.
"""

from __future__ import annotations

import gc
import hashlib
import shutil
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

#: Rows of the summary, and owners in a message.
_MOST_TESTS = 30
_MOST_OWNERS = 5
_PROPERTY = "memtrace_peaks"
_FOLDER = pytest.StashKey[Path]()


@dataclass(frozen=True)
class _Limit:
    """A marker's arguments."""

    mark: str
    size_bytes: int
    device: str | None


def pytest_addoption(parser: pytest.Parser) -> None:
    """--memtrace and --memtrace-dir."""
    group = parser.getgroup("memtrace", "memory of tensors")
    group.addoption("--memtrace", action="store_true", help="show every test's peak memory")
    group.addoption(
        "--memtrace-dir", metavar="DIR", help="keep the trace of every measured test in DIR"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tells pytest of the markers."""
    for line in (
        "limit_memory(size, device=None): fail if the test holds more than SIZE ('2 GiB') at once",
        "limit_leaks(size, device=None): fail if more than SIZE is still held when the test ends",
    ):
        config.addinivalue_line("markers", line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the traces of tests that kept within their limits."""
    folder = config.stash.get(_FOLDER, None)
    if folder is not None and config.getoption("--memtrace-dir") is None and _is_empty(folder):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Records the test where it is to be measured, and judges it if it has not failed by itself."""
    limits = list(_limits(item))
    if not limits and not item.config.getoption("--memtrace"):
        return (yield)
    import memtrace

    trace_dir = _folder(item.config) / f"{_file_name(item)}.memtrace"
    recording = memtrace.record(trace_dir, force=True)
    try:
        recording.start()
    except memtrace.MemtraceError as error:
        pytest.fail(f"memtrace cannot measure this test: {error}", pytrace=False)
    if recording.path is None or not Path(recording.path).is_dir():
        pytest.fail("memtrace cannot measure this test: it is being recorded", pytrace=False)
    try:
        result = yield
    except BaseException:
        recording.stop()
        _forget(item.config, trace_dir)
        raise
    if any(limit.mark == "limit_leaks" for limit in limits):
        gc.collect()  # what only a cycle holds is no leak
    recording.stop()
    try:
        _judge(item, trace_dir, limits)
    except memtrace.MemtraceError as error:
        pytest.fail(f"memtrace cannot measure this test: {error}", pytrace=False)
    _forget(item.config, trace_dir)
    return result


def _limits(item: pytest.Item) -> Iterator[_Limit]:
    from memtrace.errors import MemtraceError
    from memtrace.quantities import parse_size

    for name in ("limit_memory", "limit_leaks"):
        for mark in item.iter_markers(name):
            unknown = set(mark.kwargs) - {"size", "device"}
            sizes = [*mark.args, *([mark.kwargs["size"]] if "size" in mark.kwargs else [])]
            if unknown or len(sizes) != 1:
                pytest.fail(f"{name}: write {name}('2 GiB') or {name}('2 GiB', device='cuda')")
            try:
                size = parse_size(str(sizes[0]), name, least=0)
            except MemtraceError as error:
                pytest.fail(str(error), pytrace=False)
            device = mark.kwargs.get("device")
            yield _Limit(name, size, None if device is None else str(device))


def _judge(item: pytest.Item, trace_dir: Path, limits: list[_Limit]) -> None:
    from memtrace.frameworks.held_by_test import held_by_test

    held = held_by_test(trace_dir)
    # A plain value: with pytest-xdist it goes to another process.
    peaks = {device.device: device.peak_bytes for device in held}
    item.user_properties.append((_PROPERTY, peaks))
    failures = []
    for limit in limits:
        for device in held:
            if limit.device not in (None, device.device, device.device.partition(":")[0]):
                continue
            most = device.peak_bytes if limit.mark == "limit_memory" else device.left_bytes
            if most > limit.size_bytes:
                failures.append(_told(limit, device, most))
        if limit.device is not None and limit.device != "cpu":
            _refuse_unrecorded(trace_dir, limit, {device.device for device in held})
    if failures:
        text = "\n".join(failures)
        pytest.fail(f"{text}\ntrace: {trace_dir}", pytrace=False)


def _told(limit: _Limit, device: Any, most: int) -> str:
    from memtrace.report.units import size

    if limit.mark == "limit_memory":
        head = f"the test held {size(most)} of {device.device} at once"
        owners = device.peak_owners
    else:
        head = f"{size(most)} of {device.device} are still held after the test"
        owners = device.left_owners
    lines = [f"{head}; its limit is {size(limit.size_bytes)} ({limit.mark}):"]
    lines += [f"  {size(owner.total_bytes):>10}  {owner.told}" for owner in owners[:_MOST_OWNERS]]
    rest = owners[_MOST_OWNERS:]
    if rest:
        total = sum(owner.total_bytes for owner in rest)
        lines.append(f"  {size(total):>10}  in {len(rest):,} other places")
    return "\n".join(lines)


def _refuse_unrecorded(trace_dir: Path, limit: _Limit, used: set[str]) -> None:
    """A limit on a device whose memory could not be recorded is not kept, it is unknown."""
    import memtrace

    if any(limit.device in (name, name.partition(":")[0]) for name in used):
        return
    for process in memtrace.open(trace_dir).process_list:
        if process.row.get("hook_error"):
            pytest.fail(f"{limit.mark}: {process.row['hook_error']}", pytrace=False)


def _folder(config: pytest.Config) -> Path:
    folder = config.stash.get(_FOLDER, None)
    if folder is None:
        wanted = config.getoption("--memtrace-dir")
        if wanted is None:
            folder = Path(tempfile.mkdtemp(prefix="memtrace-pytest-"))
        else:
            folder = Path(wanted).absolute()
            folder.mkdir(parents=True, exist_ok=True)
        config.stash[_FOLDER] = folder
    return folder


def _file_name(item: pytest.Item) -> str:
    words = "".join(c if c.isalnum() or c in "._-" else "_" for c in item.nodeid)[-160:]
    # Two tests must not have one: of a[x/y] and a[x_y] the letters are the same here.
    return f"{words}-{hashlib.sha256(item.nodeid.encode(errors='replace')).hexdigest()[:8]}"


def _forget(config: pytest.Config, trace_dir: Path) -> None:
    if config.getoption("--memtrace-dir") is None:
        shutil.rmtree(trace_dir, ignore_errors=True)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """With --memtrace: the peak of every test, the largest first."""
    if not config.getoption("--memtrace"):
        return
    from memtrace.report.units import size

    rows: list[tuple[str, int, str]] = []
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, peaks in getattr(report, "user_properties", ()):
                if name == _PROPERTY and getattr(report, "when", "") == "call":
                    rows += [(device, peak, report.nodeid) for device, peak in peaks.items()]
    rows.sort(key=lambda row: (row[0] == "cpu", row[0], -row[1], row[2]))
    terminalreporter.section("memtrace: peak of tensor memory by test")
    for device, peak, node in rows[:_MOST_TESTS]:
        terminalreporter.write_line(f"{device:>8}  {size(peak):>10}  {node}")
    if len(rows) > _MOST_TESTS:
        terminalreporter.write_line(f"{len(rows) - _MOST_TESTS:,} smaller ones are not shown")
    if not rows:
        terminalreporter.write_line("no test used tensor memory")
