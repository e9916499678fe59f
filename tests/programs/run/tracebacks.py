"""Uncaught exceptions, plain and chained, groups, notes, deep recursion: argv[1] says which."""

from __future__ import annotations

import sys
import threading
import traceback


def chained() -> None:
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("outer") from error


def recursion() -> None:
    depth = 0

    def deeper() -> None:
        nonlocal depth
        depth += 1
        deeper()

    try:
        deeper()
    except RecursionError:
        print("depth", depth)
    deeper()


def stack() -> None:
    traceback.print_stack()
    print(len(traceback.extract_stack()), sys._getframe().f_back.f_back is None)


def own_hook() -> None:
    sys.excepthook = lambda kind, value, tb: print(
        "hook", kind.__name__, len(traceback.extract_tb(tb))
    )
    raise ValueError("for the hook")


def failing_hook() -> None:
    def hook(kind: type, value: BaseException, tb: object) -> None:
        raise RuntimeError("the hook fails")

    sys.excepthook = hook
    raise ValueError("for the failing hook")


def in_thread() -> None:
    def target() -> None:
        raise ValueError("in a thread")

    threads = [
        threading.Thread(target=target, name="t1"),
        threading.Thread(target=sys.exit, args=(5,)),
    ]
    for thread in threads:
        thread.start()
        thread.join()
    print("main goes on")


def syntax() -> None:
    exec("x = = 1")


globals()[sys.argv[1]]()
