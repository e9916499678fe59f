"""`python -m memtrace` and the `memtrace` command.

`run` is handled here, without click, because it becomes the user's program; everything else is the
command line of memtrace.cli.
"""

from __future__ import annotations

import sys

from memtrace.errors import MemtraceError


def main() -> int:
    """Run the command of sys.argv; the exit status."""
    try:
        if sys.argv[1:2] == ["run"]:
            from memtrace.run.command import run_command

            return run_command(sys.argv[2:])
        from memtrace.cli import main as cli_main

        return cli_main()
    except MemtraceError as error:
        sys.stderr.write(f"memtrace: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
