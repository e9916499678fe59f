"""The native hook at work in this process: found for the torch at hand, loaded once, started."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import stat
import sys
from pathlib import Path

from memtrace.hook.torch_build import hook_file_name, python_refusal
from memtrace.recording import guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from memtrace.hook.native import NativeHook
    from memtrace.recording import Recording

PACKAGE_DIR = Path(__file__).resolve().parent.parent
_native: NativeHook | None = None


class HookError(Exception):
    """Torch cannot be recorded; the text is one line that says why and what to do."""


def cache_dir() -> Path:
    """Where `memtrace build-hook` puts what it compiles: per user and version of memtrace.

    Raises:
        RuntimeError: the user has no home that anybody knows of.
    """
    from memtrace import __version__

    named = os.environ.get("XDG_CACHE_HOME")
    root = Path(named) if named else Path("~/.cache").expanduser()
    return root / "memtrace" / f"hooks-{__version__}"


def hook_dirs() -> list[Path]:
    """Folders that may hold compiled hooks; one built by the user comes first."""
    try:
        return [cache_dir(), PACKAGE_DIR / "_hooks"]
    except RuntimeError:
        return [PACKAGE_DIR / "_hooks"]


def find_hook(version: str, *, cxx11_abi: bool) -> Path:
    """The compiled hook that fits this torch and this Python.

    Raises:
        HookError: there is none; names what there is and the command that builds one, if one can.
    """
    named = os.environ.get("MEMTRACE_HOOK")
    if named:
        return Path(named)
    if refusal := python_refusal():
        raise HookError(f"{refusal}: torch's memory is not recorded")
    wanted = hook_file_name(version, cxx11_abi=cxx11_abi)
    others: list[Path] = []
    for folder in hook_dirs():
        try:
            if (folder / wanted).is_file() and not _is_older_than_package(folder / wanted):
                if not _may_be_anybodys(folder / wanted):
                    return folder / wanted
                others.append(folder)
        except OSError:  # a home that this user may not look into
            continue
    files = [file for folder in hook_dirs() for file in folder.glob("_hook-torch*.so")]
    built = sorted({file.name for file in files if not _is_older_than_package(file)})
    found = "is not built"
    if others:
        found = f"in {others[0]} belongs to another user, or others may write there"
    elif any(file.name == wanted for file in files):
        found = "was built before memtrace was installed again"
    elif built:
        found = f"is built for {_describe(built)}"
    python = sys.implementation.cache_tag
    raise HookError(
        f"this is torch {version} (C++11 ABI {int(cxx11_abi)}, {python}), but memtrace's hook "
        f"{found}: torch's memory is not recorded; to build it: python -m memtrace build-hook"
    )


def _is_older_than_package(hook: Path) -> bool:
    # Built by the user before memtrace was installed again, maybe from other sources with the same
    # version number: its records would not be those that this recorder writes.
    if hook.parent == PACKAGE_DIR / "_hooks":
        return False
    installed = [file.stat().st_mtime_ns for file in PACKAGE_DIR.glob("_core*.so")]
    return hook.stat().st_mtime_ns < max(installed, default=0)


def _may_be_anybodys(hook: Path) -> bool:
    """Whether some other user could have put it there, whose code would run in this process."""
    if hook.parent == PACKAGE_DIR / "_hooks":
        return False  # as trusted as memtrace itself
    places = [hook.stat(), hook.parent.stat()]
    return any(
        place.st_uid not in (0, os.geteuid()) or place.st_mode & stat.S_IWOTH for place in places
    )


def _describe(names: list[str]) -> str:
    """Hooks by what else they were built for than a version: a wheel brings many."""
    versions: dict[str, list[str]] = {}
    for name in names:
        stem = name.partition(".cpython")[0] if ".cpython" in name else name.rpartition(".so")[0]
        version, _, abi = stem.removeprefix("_hook-torch").partition("-cxx11abi")
        python = name[len(stem) :].strip(".").split("-x86")[0].split("-linux")[0].split("-aarch")[0]
        build = f"C++11 ABI {abi}, {python.removesuffix('.so') or 'any Python'}"
        versions.setdefault(build, []).append(version)
    return " and ".join(
        f"torch {', '.join(sorted(each, key=_in_numbers))} ({build})"
        for build, each in versions.items()
    )


def _in_numbers(version: str) -> list[str]:
    return [part.zfill(4) for part in version.split(".")]  # 2.9 comes before 2.11


def load_native(torch: ModuleType) -> NativeHook:
    """The native hook for this torch, loaded once per process.

    Raises:
        HookError: none fits, or the one that should does not load.
    """
    global _native
    if _native is None:
        version = str(torch.__version__).partition("+")[0]
        path = find_hook(version, cxx11_abi=bool(torch._C._GLIBCXX_USE_CXX11_ABI))
        loader = importlib.machinery.ExtensionFileLoader("memtrace._hook", str(path))
        spec = importlib.util.spec_from_file_location("memtrace._hook", path, loader=loader)
        try:
            if _is_cut_short(path):
                raise ImportError("the file is cut short")
            assert spec is not None
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
        except ImportError as error:
            raise HookError(
                f"memtrace's hook {path.name} does not load into torch {torch.__version__} "
                f"({error}); to build it again: python -m memtrace build-hook"
            ) from None
        sys.modules["memtrace._hook"] = module
        _native = module
    assert _native is not None
    return _native


def _is_cut_short(library: Path) -> bool:
    """Whether the end of an ELF file is missing: loading it would end the program by SIGBUS."""
    try:
        with library.open("rb") as file:
            header = file.read(64)
    except OSError:
        return False  # the import says why
    if header[:5] != b"\x7fELF\x02":
        return False  # likewise
    # The table of sections is the last thing in the file.
    start = int.from_bytes(header[40:48], sys.byteorder)
    entry_bytes = int.from_bytes(header[58:60], sys.byteorder)
    entries = int.from_bytes(header[60:62], sys.byteorder)
    return library.stat().st_size < max(start + entries * entry_bytes, len(header))


class InstalledHook:
    """What one recording has installed into torch."""

    def __init__(self, recording: Recording, torch: ModuleType, native: NativeHook) -> None:
        from memtrace.hook.cuda import CudaWatch
        from memtrace.hook.cuda_peaks import CudaPeaks
        from memtrace.hook.scan import Scan

        self._recording, self._torch, self._native = recording, torch, native
        self._is_quiet = True  # no thread is inside a hook, once they are removed
        self._cuda = CudaWatch(recording, torch, native)
        self._scan = Scan(recording, torch, native)
        self.cuda_peaks = CudaPeaks(torch)

    def begin(self) -> None:
        """Record from now on."""
        recording, torch = self._recording, self._torch
        options = recording.options
        no_stacks = self._native.start(
            recording.recorder.api,
            cpu=options.cpu,
            operators=options.operators,
            stacks=options.stacks,
            stack_min_bytes=options.stack_min_bytes,
            module_class=torch.nn.Module,
            tensor_class=torch.Tensor,
            runner_prefixes=[str(PACKAGE_DIR) + os.sep],
        )
        if no_stacks:
            recording.note({"stacks_on": False, "stacks_off_reason": no_stacks})
        guarded(self._cuda.begin)
        guarded(self._scan.begin)
        if recording.is_paused:
            self.pause()

    def pause(self) -> None:
        """The end of recorded memory alone, and what is rare."""
        self._native.pause()

    def resume(self) -> None:
        """Everything again."""
        self._native.resume()

    def steps_changed(self, variable: object, recording: int) -> bool:
        """A marked step was begun or ended (NativeHook.steps_changed)."""
        return self._native.steps_changed(variable, recording)

    def sample(self, reason: str) -> None:
        """Torch's counters, and the names of what the known models hold now."""
        guarded(self._cuda.sample, reason)
        if reason == "end":
            guarded(self._scan.look_last)
            guarded(self._note_cpu_kernels)
        elif not self._recording.is_paused:
            guarded(self._scan.look)

    def label(self, tensor: object, name: str | None, category: str | None) -> None:
        """memtrace.label."""
        self._scan.label(tensor, name, category)

    def note_compiled(self) -> None:
        """Inductor has loaded a file of generated code."""
        self._scan.note_compiled()

    def _note_cpu_kernels(self) -> None:
        from memtrace.hook.cpu_kernels import describe_cpu_kernels

        self._recording.note({"cpu_kernels": describe_cpu_kernels(self._torch)})

    def remove(self) -> bool:
        """Record no more; torch is as before except for a tracker that does nothing.

        False: a thread is inside a hook still, or may be. Call it again where it was cut off.
        """
        if self._native.recording():
            self._is_quiet = False  # unless stop() says so, which says it once
            self._is_quiet = self._native.stop()
        self._scan.end()
        return self._is_quiet

    def abandon_in_child(self) -> None:
        """After a fork: what hangs on the parent's recording is taken out of torch."""
        self._native.stop()


def prepare(recording: Recording, torch: ModuleType) -> InstalledHook:
    """The hook for this torch, which records nothing before its begin().

    Raises:
        HookError: this torch cannot be recorded.
    """
    if not hasattr(torch, "__version__") or not hasattr(torch, "_C"):
        where = getattr(torch, "__file__", None) or "without a file"
        raise HookError(f"the program's module torch ({where}) is not PyTorch")
    note_versions(recording, torch)
    return InstalledHook(recording, torch, load_native(torch))


def note_versions(recording: Recording, torch: ModuleType) -> None:
    """Which torch the program has imported."""
    from memtrace import __version__

    versions: dict[str, object] = {
        "memtrace": __version__,
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
    }
    # No error any more, where an earlier import of it had failed.
    recording.note({"torch_seen": True, "versions": versions, "hook_error": None})
