"""Memory of GPUs as the driver counts it, through nvidia-ml-py: of a device, and of a process."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class NvmlError(Exception):
    """NVML cannot be used; the text is a reason in a few words."""


class Gpus:
    """The GPUs of this machine by uuid, MIG instances among them."""

    def __init__(self) -> None:
        """
        Raises:
            NvmlError: nvidia-ml-py or the driver is not there.
        """
        try:
            import pynvml
        except ImportError:
            raise NvmlError("nvidia-ml-py is not installed") from None
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self._handles = dict(self._find())
        except Exception as error:
            raise NvmlError(f"NVML failed: {error}") from None

    def _find(self) -> Iterator[tuple[str, Any]]:
        nvml = self._nvml
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            yield _text(nvml.nvmlDeviceGetUUID(handle)), handle
            try:
                instances = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
            except Exception:  # not supported, by the device or by the driver
                continue
            for number in range(instances):
                try:
                    instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
                except nvml.NVMLError:  # there is none of this number
                    continue
                yield _text(nvml.nvmlDeviceGetUUID(instance)), instance

    @property
    def uuids(self) -> list[str]:
        return list(self._handles)

    def used_and_total_bytes(self, uuid: str) -> tuple[int, int]:
        """
        Raises:
            NvmlError: the driver does not tell.
        """
        memory = self._ask("nvmlDeviceGetMemoryInfo", uuid)
        # With what the driver keeps for itself, as cudaMemGetInfo counts.
        return int(memory.total) - int(memory.free), int(memory.total)

    def process_bytes(self, uuid: str) -> dict[int, int]:
        """What each process holds of a device, by pid; not of one that the driver hides.

        Raises:
            NvmlError: the driver does not tell.
        """
        found = self._ask("nvmlDeviceGetComputeRunningProcesses", uuid)
        return {p.pid: int(p.usedGpuMemory) for p in found if p.usedGpuMemory is not None}

    def _ask(self, function: str, uuid: str) -> Any:
        try:
            return getattr(self._nvml, function)(self._handles[uuid])
        except self._nvml.NVMLError as error:
            raise NvmlError(f"NVML failed: {error}") from None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
