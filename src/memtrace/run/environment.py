"""What recorded processes hand to the Python processes they start: three environment variables.

MEMTRACE_RECORD    the trace directory, absolute
MEMTRACE_OPTIONS   "main=PID,parent=KEY,operators=1,..."
PYTHONPATH         begins with run/site, whose sitecustomize.py starts the recording
"""

from __future__ import annotations

import os

RECORD = "MEMTRACE_RECORD"
OPTIONS = "MEMTRACE_OPTIONS"
SITE_DIR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "site")


class Options:
    """How to record; the same for all processes of one trace."""

    __slots__ = (
        "argv", "cpu", "max_disk_bytes", "operators", "paused", "quiet", "stack_min_bytes",
        "stacks",
    )  # fmt: skip

    def __init__(
        self,
        *,
        cpu: bool = True,
        operators: bool = True,
        stacks: bool = True,
        stack_min_bytes: int = 0,
        argv: bool = True,
        quiet: bool = False,
        paused: bool = False,
        max_disk_bytes: int = 0,
    ) -> None:
        self.cpu = cpu
        self.operators = operators
        self.stacks = stacks
        self.stack_min_bytes = stack_min_bytes
        self.argv = argv  # False: arguments of the program are left out of the trace
        self.quiet = quiet  # nothing is printed at the end
        self.paused = paused  # until memtrace.resume(), in each process
        self.max_disk_bytes = max_disk_bytes  # that the trace is to take; 0: as much as it needs

    def to_text(self) -> str:
        """The options as they travel in the environment."""
        return ",".join(f"{name}={int(getattr(self, name))}" for name in self.__slots__)


class Inherited:
    """What this process was told by its environment."""

    __slots__ = ("main_pid", "options", "parent", "trace_dir")

    def __init__(
        self, trace_dir: str, options: Options, *, main_pid: int, parent: str | None
    ) -> None:
        self.trace_dir = trace_dir
        self.options = options
        self.main_pid = main_pid  # the process that `memtrace run` became; 0: none
        self.parent = parent  # KEY of the process that set this environment


def read() -> Inherited | None:
    """The recording that this process is to join; None when there is none."""
    trace_dir = os.environ.get(RECORD)
    if not trace_dir:
        return None
    words = dict(
        word.split("=", 1) for word in os.environ.get(OPTIONS, "").split(",") if "=" in word
    )
    options = Options(
        cpu=words.get("cpu") != "0",
        operators=words.get("operators") != "0",
        stacks=words.get("stacks") != "0",
        stack_min_bytes=int(words.get("stack_min_bytes") or 0),
        argv=words.get("argv") != "0",
        quiet=words.get("quiet") == "1",
        paused=words.get("paused") == "1",
        max_disk_bytes=int(words.get("max_disk_bytes") or 0),
    )
    return Inherited(
        trace_dir, options, main_pid=int(words.get("main") or 0), parent=words.get("parent")
    )


def variables(
    trace_dir: str, options: Options, *, main_pid: int, parent: str | None, python_path: str | None
) -> dict[str, str]:
    """The variables that make a Python child of this process join the recording."""
    words = [f"main={main_pid}", options.to_text()]
    if parent:
        words.insert(1, f"parent={parent}")
    return {
        RECORD: trace_dir,
        OPTIONS: ",".join(words),
        "PYTHONPATH": with_site_dir(python_path),
    }


def with_site_dir(python_path: str | None) -> str:
    """A PYTHONPATH that begins with our folder, once."""
    rest = without_site_dir(python_path)
    return SITE_DIR + os.pathsep + rest if rest else SITE_DIR


def without_site_dir(python_path: str | None) -> str | None:
    """A PYTHONPATH as it was before with_site_dir; None: it was not set."""
    if not python_path:
        return None
    return os.pathsep.join(p for p in python_path.split(os.pathsep) if p != SITE_DIR) or None


def clean(environ: dict[str, str]) -> dict[str, str]:
    """A copy of an environment in which Python children are not recorded."""
    cleaned = {k: v for k, v in environ.items() if k not in (RECORD, OPTIONS, "PYTHONPATH")}
    python_path = without_site_dir(environ.get("PYTHONPATH"))
    if python_path:
        cleaned["PYTHONPATH"] = python_path
    return cleaned


def is_recording(environ: dict[bytes, bytes]) -> bool:
    """Whether a Python process started with this environment would find us."""
    path = environ.get(b"PYTHONPATH", b"").split(os.fsencode(os.pathsep))
    return RECORD.encode() in environ and os.fsencode(SITE_DIR) in path
