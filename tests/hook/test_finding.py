"""Which compiled hook is taken for a torch, and the one line that refuses a wrong one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from memtrace.hook import installed
from memtrace.hook.installed import HookError, find_hook
from memtrace.hook.torch_build import hook_file_name


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MEMTRACE_HOOK", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(installed, "PACKAGE_DIR", tmp_path / "package")
    folder = installed.cache_dir()
    folder.mkdir(parents=True)
    return folder


def test_exact_version_and_abi(cache: Path) -> None:
    for version, abi in (("2.11.0", True), ("2.13.0", True), ("2.13.0", False)):
        (cache / hook_file_name(version, cxx11_abi=abi)).touch()
    found = find_hook("2.13.0", cxx11_abi=False)
    assert found == cache / hook_file_name("2.13.0", cxx11_abi=False)


@pytest.mark.parametrize(("version", "abi"), [("2.12.0", True), ("2.11.0", False)])
def test_another_version_or_abi_is_refused_in_one_line(
    cache: Path, version: str, abi: bool
) -> None:
    (cache / hook_file_name("2.11.0", cxx11_abi=True)).touch()
    with pytest.raises(HookError) as refusal:
        find_hook(version, cxx11_abi=abi)
    line = str(refusal.value)
    assert f"torch {version} (C++11 ABI {int(abi)}" in line
    assert "torch 2.11.0 (C++11 ABI 1" in line
    assert "python -m memtrace build-hook" in line
    assert "\n" not in line


def test_the_many_hooks_of_a_wheel_are_named_in_order(cache: Path) -> None:
    for version in ("2.11.0", "2.9.1", "2.13.0"):
        (cache / hook_file_name(version, cxx11_abi=True)).touch()
    (cache / hook_file_name("2.6.0", cxx11_abi=False)).touch()
    with pytest.raises(HookError) as refusal:
        find_hook("2.99.0", cxx11_abi=True)
    assert "torch 2.9.1, 2.11.0, 2.13.0 (C++11 ABI 1, cpython-3" in str(refusal.value)
    assert "torch 2.6.0 (C++11 ABI 0, cpython-3" in str(refusal.value)
    assert " and torch " in str(refusal.value)


def test_a_python_that_is_too_new(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / hook_file_name("2.11.0", cxx11_abi=True)).touch()
    monkeypatch.setattr(sys, "version_info", (3, 14, 0, "final", 0))
    with pytest.raises(HookError) as refusal:
        find_hook("2.11.0", cxx11_abi=True)
    assert str(refusal.value) == (
        "memtrace's hook is for Python 3.10 to 3.13, and this is 3.14: "
        "torch's memory is not recorded"
    )


def test_no_hook_at_all(cache: Path) -> None:
    with pytest.raises(HookError, match="hook is not built"):
        find_hook("2.11.0", cxx11_abi=True)


def test_a_hook_from_before_memtrace_was_installed_again(cache: Path, tmp_path: Path) -> None:
    hook = cache / hook_file_name("2.11.0", cxx11_abi=True)
    hook.touch()
    os.utime(hook, (1, 1))
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "_core.so").touch()
    with pytest.raises(HookError, match="was built before memtrace was installed again"):
        find_hook("2.11.0", cxx11_abi=True)


@pytest.mark.parametrize("open_to_all", ["the file", "the folder"])
def test_a_hook_that_anybody_can_have_put_there(cache: Path, open_to_all: str) -> None:
    hook = cache / hook_file_name("2.11.0", cxx11_abi=True)
    hook.touch(mode=0o644)
    cache.chmod(0o755)
    assert find_hook("2.11.0", cxx11_abi=True) == hook
    (hook if open_to_all == "the file" else cache).chmod(0o777)
    with pytest.raises(HookError, match="others may write there"):
        find_hook("2.11.0", cxx11_abi=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_hook_of_another_user(cache: Path) -> None:
    hook = cache / hook_file_name("2.11.0", cxx11_abi=True)
    hook.touch()
    os.chown(hook, 12345, 12345)
    with pytest.raises(HookError, match="belongs to another user"):
        find_hook("2.11.0", cxx11_abi=True)


def test_the_users_own_build_comes_first(cache: Path, tmp_path: Path) -> None:
    name = hook_file_name("2.11.0", cxx11_abi=True)
    packaged = tmp_path / "package" / "_hooks" / name
    packaged.parent.mkdir(parents=True)
    packaged.touch()
    assert find_hook("2.11.0", cxx11_abi=True) == packaged
    (cache / name).touch()
    assert find_hook("2.11.0", cxx11_abi=True) == cache / name


def test_a_home_that_is_not_there_or_not_ours_is_passed_over(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    packaged = cache.parents[1] / "package" / "_hooks"
    packaged.mkdir(parents=True)
    built = packaged / hook_file_name("2.11.0", cxx11_abi=True)
    built.touch()

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(installed, "cache_dir", nobody)
    assert find_hook("2.11.0", cxx11_abi=True) == built

    class Forbidden(type(cache)):  # type: ignore[misc]
        def is_file(self) -> bool:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(installed, "cache_dir", lambda: Forbidden(cache))
    assert find_hook("2.11.0", cxx11_abi=True) == built
