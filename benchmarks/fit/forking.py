"""Runs programs of this folder in forks of one process, which has imported what all of them need.

    echo '{"program": "program", "argv": ["--model", "gpt2"], "trace": "gpt2.memtrace"}' \
        | python benchmarks/fit/forking.py

Importing torch and transformers takes most of a run. A request is a line of JSON: the program (a
module with a main()), its arguments, and the trace that it is recorded to, or none. The answer is
one too: status, and what was printed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch

# On being imported, which transformers does, torchao starts CUDA: a fork can't use it then.
sys.modules["torchao"] = None  # type: ignore[assignment]
import transformers  # noqa: F401
from models import MODELS

import memtrace


def warm() -> None:
    """Imports what the models need; no operator runs, so that no thread is there to be lost."""
    for model in MODELS.values():
        with torch.device("meta"):
            model.build()
    del sys.modules["torchao"]


def run(request: dict[str, Any]) -> None:
    """In the fork: to its end."""
    sys.argv = [request["program"], *request["argv"]]
    main = importlib.import_module(request["program"]).main
    if request.get("trace"):
        with memtrace.record(request["trace"]):
            main()
    else:
        main()


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Forks, waits, and reads what was printed."""
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if not child:
            status = 1
            try:
                os.dup2(printed.fileno(), 1)
                os.dup2(errors.fileno(), 2)
                run(request)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, state = os.waitpid(child, 0)
        printed.seek(0)
        errors.seek(0)
        return {
            "status": os.waitstatus_to_exitcode(state),
            "printed": printed.read(),
            "errors": errors.read(),
        }


def main() -> None:
    """Answers until the input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print what they like
    warm()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
