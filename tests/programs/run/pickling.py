"""Classes of __main__ travel to children and back, with every start method (argv[1])."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from dataclasses import dataclass


@dataclass
class Point:
    x: int

    def doubled(self) -> Point:
        return Point(2 * self.x)


def work(point: Point) -> Point:
    return point.doubled()


if __name__ == "__main__":
    print(pickle.dumps(Point(1)).count(b"__main__"), pickle.loads(pickle.dumps(Point(3))))
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(2) as pool:
        print(pool.map(work, [Point(i) for i in range(4)]))
    process = context.Process(target=sys.exit, args=(6,))
    process.start()
    process.join()
    print(process.exitcode)
