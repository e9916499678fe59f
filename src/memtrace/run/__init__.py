"""Running a program under memtrace.

    command.py      `memtrace run`: makes the trace, starts the finaliser, becomes the program
    arguments.py    its command line              output.py   the trace directory
    finaliser.py    starting the other process    environment.py  what children inherit
    site/           sitecustomize.py: the first thing that a recorded Python process runs
    start.py        what it starts there          facts.py    what a process notes about itself
    children.py     forks, and Python children that cannot be recorded
    ending.py       how a process ends, noted in its spool

`memtrace run` does not run the program inside itself: it execs a plain `python SCRIPT ...` whose
environment makes that interpreter record itself. So sys.argv, sys.path, __main__, tracebacks, exit
status, signals, the process id and the terminal are Python's own, with nothing to imitate.

Everything that is imported in the watched process keeps to built-in modules and `os`: a program may
have a `queue.py` or `types.py` of its own, and must find it as it would without us.
"""

from __future__ import annotations


def main(words: list[str]) -> int:
    """`memtrace run` with these words; never returns once the program is started."""
    from memtrace.run.command import run_command

    return run_command(words)
