"""A spool turned into rows while its process writes it.

What has been read is packed and leaves records.bin, so that a long recording takes a fifth of the
disk and its trace is nearly there when it ends. The spool stays whole (spool_compactor.h): whatever
goes wrong here, it is converted from its beginning, as if this had never been. Only within
`max_disk_bytes` (thinning.py) that is given up, before any row is.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from time import monotonic
from typing import Any

from memtrace import _core
from memtrace.errors import MemtraceError
from memtrace.finalise.background import BackgroundWriter
from memtrace.finalise.process_files import (
    BATCH_ROWS,
    PART_ROWS,
    ProcessFiles,
    make_anew,
    work_folder,
)
from memtrace.finalise.spools import Spool, open_spool

_NS = 1_000_000_000
_MOST_STEP_NS = _NS // 4
# What is behind the program by so much is raw records still, which must fit as well.
_SETTLE_NS = 10 * _NS
_SETTLE_NS_ON_LITTLE_DISK = _NS
_LITTLE_DISK_BYTES = 4 << 30
_FULL_DISK_S = 60.0  # until it is tried again to pack
# Of the limit: what is aimed at when it was reached; what rows may have, those of all processes
# together, whatever else there is; and what a round of thinning must bring, which rewrites many.
_AIM, _LEAST_OF_ROWS, _LEAST_ROUND = 0.75, 0.25, 0.02


class Compaction:
    """Of one process's spool.

    Raises:
        MemtraceError, ValueError, OSError, pyarrow.ArrowException: by any method, and it cannot go
            on; abandon() it.
    """

    def __init__(
        self,
        key: str,
        spool_dir: Path,
        target: Path,
        *,
        max_disk_bytes: int | None = None,
        settle_ns: int | None = None,
    ) -> None:
        spool = open_spool(key, spool_dir)
        self._spool_dir = spool_dir
        self._trace_dir = target
        self._max_disk_bytes = max_disk_bytes
        if settle_ns is None:
            little = max_disk_bytes is not None and max_disk_bytes < _LITTLE_DISK_BYTES
            settle_ns = _SETTLE_NS_ON_LITTLE_DISK if little else _SETTLE_NS
        self._work = work_folder(target, key)
        self._conversion = _core.FollowedConversion(
            spool_dir, batch_rows=BATCH_ROWS, part_rows=PART_ROWS, settle_ns=settle_ns
        )
        make_anew(self._work)
        self._folder = os.open(self._work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._files = ProcessFiles(
            self._work,
            spool_dir,
            origin_ns=spool.control["start_monotonic_ns"],
            thinned=max_disk_bytes is not None,
        )
        self._packs_from_s = 0.0
        self._sharers = 1

    @property
    def records(self) -> int:
        """That were read so far."""
        return self._conversion.consumed

    def step(self, *, sharers: int = 1) -> bool:
        """Works for a moment; True: there is nothing more to do for now.

        sharers: So many processes share the limit.
        """
        self._sharers = sharers
        self._check_folder()
        for batch in self._conversion.advance(ended=False, most_ns=_MOST_STEP_NS):
            self._files.write(batch)
        # Where it cannot be packed (no holes in files, a full disk) the spool grows as ever.
        if monotonic() >= self._packs_from_s and not self._conversion.compact():
            self._packs_from_s = monotonic() + _FULL_DISK_S
        self._keep_to_limit()
        return self._conversion.idle

    def finish(self, spool: Spool) -> tuple[dict[str, Any], dict[str, int]]:
        """The process has ended: the rest. The totals of the conversion, the numbers of rows."""
        self._check_folder()
        with self._files as files:
            with BackgroundWriter(files.write) as background:
                while not self._conversion.finished:
                    for batch in self._conversion.advance(ended=True, most_ns=_MOST_STEP_NS):
                        background.write(batch)
            rows = files.finish(spool)
        self._check_folder()
        totals = self._conversion.totals()
        if files.thinner is not None:
            self._keep_to_limit()
            dropped = files.thinner.dropped
            rows = {name: number - dropped.rows.get(name, 0) for name, number in rows.items()}
            if any(dropped.rows.values()):
                told = {"max_disk_bytes": self._max_disk_bytes, **dropped.rows}
                totals["dropped"] = json.dumps({**told, "largest_bytes": dropped.largest_bytes})
        self._let_go()
        return totals, rows

    def abandon(self) -> None:
        """Takes away what was written; the spool stays."""
        if self._has_folder():
            shutil.rmtree(self._work, ignore_errors=True)
        self._let_go()

    def _check_folder(self) -> None:
        if not self._has_folder():
            raise MemtraceError(f"{self._work} was taken away")

    def _has_folder(self) -> bool:
        """No other finaliser was at work meanwhile: it would have made the folder anew."""
        try:
            return os.path.samestat(self._work.stat(), os.fstat(self._folder))
        except OSError:
            return False

    def _let_go(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
        self._folder = -1

    def _keep_to_limit(self) -> None:
        limit, thinner = self._max_disk_bytes, self._files.thinner
        if limit is None or thinner is None or self._used_bytes() <= limit:
            return
        aim = int(limit * _AIM)
        packed = sorted(self._spool_dir.glob("packed-*.bin"), key=lambda p: int(p.stem[7:]))
        for path in packed[:-1]:  # the last one is written to
            if self._used_bytes() <= aim:
                return
            path.unlink()
        # What else there is (names, marks, what is not read yet) must not cost all rows.
        rows = sum(map(_disk_bytes, self._files.thinned_parts()))
        to_free = min(self._used_bytes() - aim, rows - int(limit * _LEAST_OF_ROWS / self._sharers))
        if to_free < limit * _LEAST_ROUND:
            return
        # Nothing that speaks of the rows that go is to stay behind where it cannot be reached.
        for batch in self._conversion.take_all():
            self._files.write(batch)
        self._files.end_parts()
        thinner.thin(to_free)

    def _used_bytes(self) -> int:
        """Of the disk, when attribution writes `allocations` anew."""
        sizes = (_disk_bytes(path) for path in self._trace_dir.rglob("*"))
        again = (_disk_bytes(path) for path in (self._work / "allocations").iterdir())
        return sum(sizes) + sum(again)


def _disk_bytes(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:  # it is gone
        return 0
