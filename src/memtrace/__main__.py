"""`python -m memtrace` and the `memtrace` command.

`run` is handled here, without click, because it becomes the user's program; everything else is the
command line of memtrace.cli.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command of sys.argv; the exit status."""
    from memtrace.errors import MemtraceError

    try:
        if sys.argv[1:2] == ["run"]:
            from memtrace.run.command import run_command

            return run_command(sys.argv[2:])
        from memtrace.cli import main as cli_main
        from memtrace.finalise import use_no_pandas

        if sys.argv[1:2] != ["mlflow"]:  # mlflow itself needs it
            use_no_pandas()
        return cli_main()
    except MemtraceError as error:
        sys.stderr.write(f"memtrace: {error}\n")
        return 1


def _leave_working_folder() -> None:
    # `python -m` looks for modules in the working folder first, where the user may keep a
    # signal.py: that is the program's, not ours. memtrace itself may have been found there; its
    # package knows where it lies.
    if getattr(sys.flags, "safe_path", sys.flags.isolated):
        return
    try:
        if sys.path[:1] == [os.getcwd()]:  # noqa: PTH109  # pathlib might be the user's
            del sys.path[0]
    except OSError:
        pass  # the working folder is gone, and so it is not in sys.path either


if __name__ == "__main__":
    _leave_working_folder()
    sys.exit(main())
