"""The memory cgroup of a process, on made-up trees of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.sample.container import find_container

GIB = 1 << 30
UNLIMITED_V1 = "9223372036854771712"


def cgroup_v1(root: Path, path: str, *, usage: int, peak: int, limit: str) -> None:
    folder = root / "memory" / path.strip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.usage_in_bytes").write_text(f"{usage}\n")
    (folder / "memory.max_usage_in_bytes").write_text(f"{peak}\n")
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.stat").write_text("cache 900\ninactive_file 7\ntotal_inactive_file 77\n")


def cgroup_v2(root: Path, path: str, *, usage: int, peak: int | None, limit: str) -> None:
    folder = root / path.strip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.current").write_text(f"{usage}\n")
    if peak is not None:
        (folder / "memory.peak").write_text(f"{peak}\n")
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.stat").write_text("anon 900\ninactive_file 55\n")


def readings(root: Path, text: str, *, whole: bool = False) -> dict[str, int] | None:
    container = find_container(text.encode(), str(root))
    return None if container is None else dict(container.readings(whole=whole))


V1 = "9:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/system\n"


def test_v1(tmp_path: Path) -> None:
    cgroup_v1(tmp_path, "/", usage=9, peak=99, limit=UNLIMITED_V1)
    cgroup_v1(tmp_path, "/docker/abc", usage=5, peak=8, limit=str(GIB))
    assert readings(tmp_path, V1) == {"usage": 5, "peak": 8, "limit": GIB}
    assert readings(tmp_path, V1, whole=True) == {
        "usage": 5, "peak": 8, "limit": GIB, "inactive_file": 77,
    }  # fmt: skip


def test_v1_whose_mount_begins_at_the_container(tmp_path: Path) -> None:
    # The path is the host's, of which the mount shows only what is below the container.
    cgroup_v1(tmp_path, "/", usage=5, peak=8, limit=str(GIB))
    assert readings(tmp_path, V1) == {"usage": 5, "peak": 8, "limit": GIB}
    cgroup_v1(tmp_path, "/job", usage=3, peak=4, limit=str(GIB // 2))
    inside = "4:memory:/docker/abc/job\n"
    assert readings(tmp_path, inside) == {"usage": 3, "peak": 4, "limit": GIB // 2}


def test_v2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory\n")  # the root has no files of its own
    cgroup_v2(tmp_path, "/kubepods/pod1", usage=50, peak=80, limit=str(4 * GIB))
    cgroup_v2(tmp_path, "/kubepods/pod1/c1", usage=5, peak=8, limit="max")
    text = "0::/kubepods/pod1/c1\n"
    assert readings(tmp_path, text) == {"usage": 50, "peak": 80, "limit": 4 * GIB}
    cgroup_v2(tmp_path, "/kubepods/pod1/c1", usage=5, peak=8, limit=str(GIB))
    assert readings(tmp_path, text, whole=True) == {
        "usage": 5, "peak": 8, "limit": GIB, "inactive_file": 55,
    }  # fmt: skip
    # The limit above is the tighter one.
    cgroup_v2(tmp_path, "/kubepods/pod1", usage=50, peak=80, limit=str(GIB // 2))
    assert readings(tmp_path, text) == {"usage": 50, "peak": 80, "limit": GIB // 2}
    # Equal ones: the process's own.
    cgroup_v2(tmp_path, "/kubepods/pod1", usage=50, peak=80, limit=str(GIB))
    assert readings(tmp_path, text) == {"usage": 5, "peak": 8, "limit": GIB}


def test_v2_of_an_older_kernel_has_no_peak(tmp_path: Path) -> None:
    cgroup_v2(tmp_path, "/a", usage=5, peak=None, limit="max")
    assert readings(tmp_path, "0::/a\n") == {"usage": 5}


def test_v2_in_a_namespace_of_its_own(tmp_path: Path) -> None:
    cgroup_v2(tmp_path, "/", usage=5, peak=8, limit=str(GIB))
    assert readings(tmp_path, "0::/\n") == {"usage": 5, "peak": 8, "limit": GIB}
    assert readings(tmp_path, "0::/../../elsewhere\n") == {"usage": 5, "peak": 8, "limit": GIB}


def test_unlimited_shows_its_own_use(tmp_path: Path) -> None:
    cgroup_v1(tmp_path, "/", usage=9, peak=99, limit=UNLIMITED_V1)
    cgroup_v1(tmp_path, "/docker/abc", usage=5, peak=8, limit=UNLIMITED_V1)
    assert readings(tmp_path, V1) == {"usage": 5, "peak": 8}


@pytest.mark.parametrize("text", ["", "garbage", "0::/none\n", "4:memory:/none\n", "4:cpu:/\n"])
def test_no_memory_cgroup(tmp_path: Path, text: str) -> None:
    assert readings(tmp_path, text) is None
    assert readings(tmp_path / "absent", text) is None


def test_files_that_say_nothing(tmp_path: Path) -> None:
    cgroup_v2(tmp_path, "/a", usage=5, peak=8, limit="max")
    for name in ("memory.current", "memory.peak", "memory.max", "memory.stat"):
        (tmp_path / "a" / name).write_text("")
    assert readings(tmp_path, "0::/a\n", whole=True) == {}
