"""The first thing that a recorded Python process runs (PYTHONPATH begins with this folder).

It takes itself out of the way (sys.path and the name `sitecustomize` are as without memtrace),
starts the recording, and lets the sitecustomize of the system or the user, if there is one, have
its turn. It must not fail, must not print, and must run in any Python: also one that memtrace is
not made for, back to Python 2.7 (so no annotations). There it leaves a mark that says so.
"""

import os
import sys


def _begin():
    # type: () -> None
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if p != here]
    sys.path_importer_cache.pop(here, None)
    if not os.environ.get("MEMTRACE_RECORD") or _in_subinterpreter():
        return
    # The memtrace that recorded the parent, whatever else is installed here.
    package_parent = os.path.dirname(os.path.dirname(os.path.dirname(here)))
    known = package_parent in sys.path
    try:
        if not known:
            sys.path.insert(0, package_parent)
        try:
            from memtrace.run.start import start_from_environment
        finally:
            if not known:
                sys.path.remove(package_parent)
        start_from_environment()
    except BaseException as error:
        for name in list(sys.modules):
            if name.partition(".")[0] == "memtrace":
                del sys.modules[name]
        _leave_mark(type(error).__name__ + ": " + str(error))
        if isinstance(error, KeyboardInterrupt):
            raise  # it ends a Python that begins, recorded or not


def _in_subinterpreter():
    # type: () -> bool
    # The main one records the process; a native module that is loaded a second time may hang it.
    options = dict(o.partition("=")[::2] for o in os.environ.get("MEMTRACE_OPTIONS", "").split(","))
    if options.get("parent", "").split("-")[-2:-1] != [str(os.getpid())]:
        return False  # this process has not been recorded before
    for name in ("_interpreters", "_xxsubinterpreters"):
        there = name in sys.modules
        try:
            module = __import__(name)
        except ImportError:
            continue
        if not there:
            del sys.modules[name]
        return bool(module.get_current() != module.get_main())
    return False


def _leave_mark(reason):
    # type: (str) -> None
    # By hand: memtrace could not be imported (another version of Python, a broken installation).
    try:
        folder = os.path.join(os.environ["MEMTRACE_RECORD"], "spool", "unrecorded")
        if not os.path.isdir(folder):
            os.mkdir(folder, 0o700)
        with open(os.path.join(folder, str(os.getpid())), "w") as mark:
            mark.write(reason)
    except Exception:
        pass


def _give_way():
    # type: () -> None
    # `import sitecustomize` is still running: what is in sys.modules afterwards is its result.
    # When there is no other, its ImportError is what site.py expects, and takes our name out again.
    sys.modules.pop("sitecustomize", None)
    __import__("sitecustomize")  # the next one on sys.path


_begin()
_give_way()
