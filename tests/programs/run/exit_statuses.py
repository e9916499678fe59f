"""Every way to leave with a status: argv[1] says which."""

from __future__ import annotations

import os
import sys

print("before", flush=False)  # left in the buffer: whoever skips the flush loses it
how = sys.argv[1]
if how == "none":
    sys.exit(None)
if how == "text":
    sys.exit("a reason, on stderr")
if how == "object":
    sys.exit(["not", "a", "number"])
if how == "os._exit":
    os._exit(7)
if how == "os._exit-keyword":
    os._exit(status=8)
if how == "os._exit-wrong":
    os._exit("text")  # TypeError, with a traceback that shows only this file
if how == "abort":
    os.abort()
if how == "raise":
    raise SystemExit(41)
if how != "end":
    sys.exit(int(how))
