"""Ends while a daemon thread sits in a read of the terminal, in Python or in C."""

from __future__ import annotations

import ctypes
import sys
import threading
import time


def read_in_c() -> None:
    libc = ctypes.CDLL(None)
    libc.fgets(ctypes.create_string_buffer(10), 10, ctypes.c_void_p.in_dll(libc, "stdin"))


threading.Thread(target=input if sys.argv[1] == "python" else read_in_c, daemon=True).start()
time.sleep(0.3)
print("main ends")
