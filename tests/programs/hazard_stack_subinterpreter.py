"""Takes stacks in a sub-interpreter: they may be missing, they may not crash."""

from __future__ import annotations

import memtrace_stack_testing as stacks

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

stacks.start()
code = """
import memtrace_stack_testing as stacks
def f(left):
    return f(left - 1) if left else stacks.take()
for i in range(1000):
    f(i % 50)
"""
try:
    try:
        other = interpreters.create("legacy")
    except TypeError:
        other = interpreters.create(isolated=False)
    result = interpreters.run_string(other, code)
except ImportError as error:
    print("skip", error)
else:
    if result is not None and "ImportError" in str(result):
        print("skip", result)
    interpreters.destroy(other)
shown = stacks.frames(stacks.take())
print("ok" if shown[0][0] == "<module>" else shown, flush=True)
