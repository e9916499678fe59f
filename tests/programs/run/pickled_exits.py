"""os._exit and os.posix_spawn are pickled by name: as results, and as what a child is to do."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

if __name__ == "__main__":
    for function in (os._exit, os.posix_spawn, os.posix_spawnp):
        assert pickle.loads(pickle.dumps(function)) is function
    try:
        ProcessPoolExecutor(1).submit(os._exit, 1).result()
    except BrokenProcessPool:
        print("the pool is broken, as it must be")
    child = multiprocessing.get_context("spawn").Process(target=os._exit, args=(7,))
    child.start()
    child.join()
    print(child.exitcode)
    for wrong in ((2**40,), (1, 2), ("x",)):
        try:
            os._exit(*wrong)
        except (OverflowError, TypeError) as error:
            print(type(error).__name__)
