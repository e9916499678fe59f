"""Non-daemon threads and atexit handlers run after the main thread's end; daemon threads die."""

from __future__ import annotations

import atexit
import concurrent.futures
import sys
import threading
import time
import weakref


class Object:
    def __del__(self) -> None:
        sys.stdout.write("deleted\n")


def late() -> None:
    time.sleep(0.2)
    print("thread ends")


def failing() -> None:
    raise ValueError("in atexit")


kept = Object()
finalized = Object()
weakref.finalize(finalized, print, "finalize")
atexit.register(print, "first registered")
atexit.register(failing)
atexit.register(print, "last registered")
threading.Thread(target=late).start()
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
pool = concurrent.futures.ThreadPoolExecutor()
pool.submit(late)
print("main ends")
