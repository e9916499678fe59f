"""The peaks of a recording so far, by torch's own counters."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

#: What is told of a device, and what torch calls it.
MEASURES = {"allocated": "allocated_bytes", "reserved": "reserved_bytes"}


class CudaPeaks:
    """Torch keeps the peak since its last reset: what it was at each reset is kept here."""

    def __init__(self, torch: ModuleType) -> None:
        self._torch = torch
        # Of what was before the recording torch may tell still: no peak of ours, unless above it.
        self._before = self._counted()
        self._at_resets: dict[tuple[str, str], int] = {}

    def before_reset(self) -> None:
        """A counter is about to be reset."""
        for key, value in self._counted().items():
            self._at_resets[key] = max(value, self._at_resets.get(key, 0))

    def read(self) -> dict[tuple[str, str], int]:
        """Exact, in bytes, by device and measure; one that is not known for sure is left out."""
        found = {}
        for key, value in self._counted().items():
            peak = max(value, self._at_resets.get(key, 0))
            if peak > self._before.get(key, 0):
                found[key] = peak
        return found

    def _counted(self) -> dict[tuple[str, str], int]:
        torch = self._torch
        if torch.version.cuda is None or not torch.cuda.is_initialized():
            return {}
        found = {}
        for index in range(torch.cuda.device_count()):
            stats = torch._C._cuda_memoryStats(index)
            for measure, name in MEASURES.items():
                found[f"cuda:{index}", measure] = int(stats[name]["all"]["peak"])
        return found
