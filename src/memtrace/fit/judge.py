"""Whether a program, as recorded or as it would be, fits each GPU: headroom, context, price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memtrace.analyse.breakdown import Breakdown, break_down
from memtrace.analyse.counters import equals
from memtrace.analyse.weights import largest_external, weights_at
from memtrace.fit.catalogue import Gpu
from memtrace.fit.context import Context, find_context
from memtrace.fit.error_band import band_permille
from memtrace.fit.kv_cache import KvCache, find_kv_cache
from memtrace.fit.served import Served, serve
from memtrace.fit.stage_needs import StageNeed, stage_needs
from memtrace.replay.requests import Requests, read_requests
from memtrace.trace import Process, Trace
from memtrace.whatif.change import Change
from memtrace.whatif.registry import apply_all

YES, NO, UNCERTAIN = "yes", "no", "uncertain"
_BF16_FROM = (8, 0)
_OWNERS = 10


@dataclass(frozen=True)
class Verdict:
    """One GPU.

    Attributes:
        usable_bytes: what torch may reserve: CUDA's total less the context; of a range the least.
        fits: "uncertain": within the error of the prediction, or of the context.
        headroom_bytes: usable less what is needed; below zero: so much is missing.
        stages: of each stage, whether what it allocates fits.
        context_tokens: the longest context, all else as it was; None: no KV cache is known.
        relative_price: its cheapest price to that of the cheapest GPU that fits.
        notes: what else stands against it.
    """

    gpu: Gpu
    usable_bytes: int
    fits: str
    headroom_bytes: int
    stages: dict[str, str]
    context_tokens: int | None
    relative_price: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """A program on GPUs.

    Attributes:
        what: the what-ifs, in words.
        least_bytes, most_bytes: with less than the first it does not complete, with the second it
            does; without the error.
        mapped_bytes: of that, weights in mapped files, which a GPU would hold as well.
        band_permille: the error of the prediction.
        peak_place: where most is allocated: `categories` and `modules` are of there.
        assumptions: one line each.
    """

    trace: Trace
    process: Process
    device: str
    what: tuple[str, ...]
    least_bytes: int
    most_bytes: int
    mapped_bytes: int
    band_permille: int
    allocated_bytes: int
    peak_place: float
    context: Context
    stages: tuple[StageNeed, ...]
    kv_cache: KvCache | None
    categories: Breakdown
    modules: Breakdown
    verdicts: tuple[Verdict, ...]
    cheapest: Gpu | None
    assumptions: tuple[str, ...]


def judge(
    trace: Trace,
    gpus: Sequence[Gpu],
    *,
    asked: Mapping[str, Sequence[str]] | None = None,
    device: str | None = None,
    process: str | int | None = None,
) -> Fit:
    """Holds a program against GPUs.

    Args:
        asked: what-ifs, as `whatif.registry.apply_all` takes them.
        device: whose requests; by default those of the accelerator, else of the CPU.

    Raises:
        MemtraceError: there is no such device or process, or a what-if is refused.
    """
    asked = asked or {}
    recorded = read_requests(trace, device=device, process=process)
    requests, changes = apply_all(recorded, asked)
    served = serve(requests, on_gpu=True)
    mapped = _mapped_bytes(recorded)
    stages = stage_needs(served.outcome)
    kv_cache = find_kv_cache(served.outcome)
    context = find_context(trace, requests.process, requests.device)
    band = band_permille(asked, cpu_as_gpu=requests.on_cpu)
    bf16 = _uses_bf16(requests, asked)
    need = _Need(served, stages, kv_cache, mapped, band, bool(requests.failures), bf16)
    verdicts = [_verdict(gpu, need, context) for gpu in gpus]
    verdicts, cheapest = _with_prices(verdicts)
    peak = served.outcome.peak()
    held = served.outcome.held(peak.place)
    parts = {
        by: break_down(held, by=by, total_bytes=peak.total_bytes, top=_OWNERS)
        for by in ("category", "module")
    }
    return Fit(
        trace=trace,
        process=requests.process,
        device=requests.device,
        what=tuple(change.what for change in changes),
        least_bytes=served.low_bytes + mapped,
        most_bytes=served.high_bytes + mapped,
        mapped_bytes=mapped,
        band_permille=band,
        allocated_bytes=peak.total_bytes,
        peak_place=peak.place,
        context=context,
        stages=stages,
        kv_cache=kv_cache,
        categories=parts["category"],
        modules=parts["module"],
        verdicts=tuple(verdicts),
        cheapest=cheapest,
        assumptions=_assumptions(need, requests, context, changes),
    )


@dataclass(frozen=True)
class _Need:
    served: Served
    stages: tuple[StageNeed, ...]
    kv_cache: KvCache | None
    mapped_bytes: int
    band_permille: int
    failed: bool
    bf16: bool

    def fits(self, low: int, high: int, usable: tuple[int, int]) -> str:
        """low, high: the bounds of what is needed; `usable`: those of what there is."""
        if high * (1000 + self.band_permille) // 1000 <= usable[0]:
            return UNCERTAIN if self.failed else YES
        return NO if low * (1000 - self.band_permille) // 1000 > usable[1] else UNCERTAIN


def _verdict(gpu: Gpu, need: _Need, context: Context) -> Verdict:
    usable = (gpu.cuda_bytes - context.high_bytes, gpu.cuda_bytes - context.low_bytes)
    mapped = need.mapped_bytes
    low, high = need.served.low_bytes + mapped, need.served.high_bytes + mapped
    notes = []
    if need.bf16 and gpu.capability is not None and gpu.capability < _BF16_FROM:
        notes.append(f"no bfloat16 below compute capability 8.0, this is {gpu.capability[0]}."
                     f"{gpu.capability[1]}")  # fmt: skip
    return Verdict(
        gpu=gpu,
        usable_bytes=usable[0],
        fits=need.fits(low, high, usable),
        headroom_bytes=usable[0] - high,
        stages={
            stage.name: need.fits(stage.peak_bytes + mapped, stage.peak_bytes + mapped, usable)
            for stage in need.stages
        },
        context_tokens=need.kv_cache.longest(usable[0] - mapped) if need.kv_cache else None,
        relative_price=None,
        notes=tuple(notes),
    )


def _with_prices(verdicts: Sequence[Verdict]) -> tuple[list[Verdict], Gpu | None]:
    """Each beside the cheapest that fits, by the cheapest price of either in its currency."""
    fitting = [(v.gpu.cheapest, v.gpu) for v in verdicts if v.fits == YES and v.gpu.cheapest]
    if not fitting:
        return list(verdicts), None
    currency = fitting[0][0].currency if fitting[0][0] else ""
    same = [(p.per_hour, gpu) for p, gpu in fitting if p is not None and p.currency == currency]
    least, cheapest = min(same, key=lambda item: item[0])

    def relative(gpu: Gpu) -> float | None:
        price = gpu.cheapest
        return price.per_hour / least if price and price.currency == currency else None

    return [replace(v, relative_price=relative(v.gpu)) for v in verdicts], cheapest


def _mapped_bytes(requests: Requests) -> int:
    """Weights of the host that no allocator gave, and that a GPU must hold too; of a CPU's trace."""
    if not requests.on_cpu:
        return 0
    found = largest_external(requests.trace, process=requests.process.key, device="cpu")
    return 0 if found is None else weights_at(requests.trace, found[0]).mapped_weight_bytes


def _uses_bf16(requests: Requests, asked: Mapping[str, Sequence[str]]) -> bool:
    if any("bf" in text.lower() for text in asked.get("dtype", ())):
        return True
    for group in requests.trace.datasets["names"].row_groups(requests.process.key):
        table = group.read(["dtype"])
        if np.any(equals(table, "dtype", "bfloat16") | equals(table, "dtype", "torch.bfloat16")):
            return "dtype" not in asked
    return False


def _assumptions(
    need: _Need, requests: Requests, context: Context, changes: Sequence[Change]
) -> tuple[str, ...]:
    lines = [line for change in changes for line in change.assumptions]
    lines += need.served.caveats
    if requests.on_cpu:
        lines.append(
            "tensors of the CPU served as a GPU would: an estimate; its kernels have other "
            "temporaries, and cuBLAS has workspaces"
        )
    if need.mapped_bytes:
        lines.append("weights in mapped files or shared memory are copied to the GPU, once")
    if need.failed:
        lines.append("the recording ran out of memory: what came after that is not known")
    others = len(requests.trace.process_list) - 1
    if others:
        lines.append(f"a GPU of its own for {requests.process}; {others} others were recorded")
    return tuple(dict.fromkeys(lines))
