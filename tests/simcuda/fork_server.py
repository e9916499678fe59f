"""Runs pieces of code, each in a fork of a process that has imported torch and not used CUDA.

Importing torch takes longer than most tests. A request is a line of JSON on standard input, with
`code` and `output` (a file for what the code prints); the answer is its exit status.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback

import torch  # noqa: F401  (what this process is for)

TIMEOUT_S = 120


def run_forked(code: str, output: str) -> int:
    """Returns the exit status of a child process that runs the code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # The default action of the alarm ends a child that hangs.
    signal.alarm(TIMEOUT_S)
    status = 0
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        exec(compile(code, "<test>", "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    """Serves until standard input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        print(run_forked(request["code"], request["output"]), flush=True)


if __name__ == "__main__":
    main()
