"""The memory of a process from outside, against psutil and what the process knows of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from memtrace.sample import process

MIB = 1 << 20
HOLDS = """
import sys
held = b"x" * (64 << 20)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield child
        child.kill()


def test_as_psutil_has_it(child: subprocess.Popen[bytes]) -> None:
    folder = process.open_folder(child.pid)
    for _ in range(10):  # a page of it may come or go between two looks
        expected = psutil.Process(child.pid).memory_full_info()
        resident, shares = process.resident_bytes(folder), process.share_bytes(folder)
        again = psutil.Process(child.pid).memory_full_info()
        if again == expected:
            break
    assert resident == expected.rss > 64 * MIB
    assert shares == {"pss": expected.pss, "uss": expected.uss}
    assert 64 * MIB < shares["uss"] <= shares["pss"] <= expected.rss
    os.close(folder)


def test_a_folder_never_means_a_later_process(child: subprocess.Popen[bytes]) -> None:
    folder = process.open_folder(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.resident_bytes(folder) == 0  # not reaped yet
    child.wait()
    with pytest.raises(OSError, match=r"."):
        process.resident_bytes(folder)
    with pytest.raises(OSError, match=r"."):
        process.share_bytes(folder)
    os.close(folder)
    with pytest.raises(OSError, match=r"."):
        process.open_folder(child.pid)


def test_the_cuda_driver_is_seen_by_its_library(child: subprocess.Popen[bytes]) -> None:
    folder = process.open_folder(child.pid)
    assert not process.uses_cuda(folder)
    os.close(folder)
