"""All that a program can see of how it was started."""

from __future__ import annotations

import os
import sys
import warnings

names = ("__name__", "__file__", "__spec__", "__package__", "__doc__", "__cached__", "__builtins__")
for name in names:
    print(name, repr(globals().get(name, "absent")))
print(sys.argv, sys.orig_argv[1:], sys.path[0], sys.flags, sys.warnoptions, sys._xoptions)
print(warnings.filters)
print(sys.modules["__main__"].__dict__ is globals(), "sitecustomize" in sys.modules)
print(os.getcwd(), os.getppid() > 0, os.getsid(0) == os.getsid(os.getppid()))
print(sys.stdin.encoding, sys.stdout.line_buffering, sys.stdout.write_through)
print(sorted(k for k in os.environ if "MEMTRACE" not in k and k != "PYTHONPATH"))
warnings.warn("a warning, with its line")
