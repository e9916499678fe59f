"""Whether a program, as recorded or as it would be, fits each GPU: headroom, context, price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memtrace.analyse.breakdown import Breakdown, break_down
from memtrace.analyse.counters import equals
from memtrace.analyse.weights import largest_external, weights_at
from memtrace.errors import MemtraceError
from memtrace.fit.batches import largest_batches
from memtrace.fit.catalogue import Gpu, cheapest_of, relative_prices
from memtrace.fit.context import Context, find_context
from memtrace.fit.error_band import band_permille
from memtrace.fit.gpu_kernels import kind_of_work
from memtrace.fit.kv_cache import KvCache, find_kv_cache
from memtrace.fit.served import Served, serve
from memtrace.fit.stage_needs import StageNeed, stage_needs
from memtrace.replay.requests import Requests, read_requests
from memtrace.trace import Process, Trace
from memtrace.whatif.change import Change
from memtrace.whatif.registry import apply_all
from memtrace.whatif.scaling import Scaling

YES, NO, UNCERTAIN = "yes", "no", "uncertain"
_BF16_FROM = (8, 0)
_BATCH = "batch"


@dataclass(frozen=True)
class Verdict:
    """One GPU.

    Attributes:
        usable_bytes: what torch may reserve: CUDA's total less the context; of a range the least.
        fits: "uncertain": within the error of the prediction, or of the context.
        headroom_bytes: usable less what is needed; below zero: so much is missing.
        stages: of each stage, whether what it allocates fits.
        largest_batch: that surely fits; None: the trace does not tell.
        context_tokens: the longest context, all else as it was; None: no KV cache is known.
        relative_price: its lowest and its highest price to the lowest of the cheapest that fits.
        notes: what else stands against it.
    """

    gpu: Gpu
    usable_bytes: int
    fits: str
    headroom_bytes: int
    stages: dict[str, str]
    largest_batch: int | None
    context_tokens: int | None
    relative_price: tuple[float, float] | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Batches:
    """Of largest batches: which were recorded; or why there are none. `band_permille`: with it."""

    recorded: tuple[int, ...] = ()
    band_permille: int = 0
    why_not: str | None = None


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
    batches: Batches
    assumptions: tuple[str, ...]


def judge(
    trace: Trace,
    gpus: Sequence[Gpu],
    *,
    asked: Mapping[str, Sequence[str]] | None = None,
    device: str | None = None,
    process: str | int | None = None,
    top: int = 10,
) -> Fit:
    """Holds a program against GPUs.

    Args:
        asked: what-ifs, as `whatif.registry.apply_all` takes them.
        device: whose requests; by default those of the accelerator, else of the CPU.
        top: modules to name.

    Raises:
        MemtraceError: there is no such device or process, or a what-if is refused.
    """
    asked = asked or {}
    recorded = read_requests(trace, device=device, process=process)
    requests, changes = apply_all(recorded, asked)
    served = serve(requests, on_gpu=True).with_failed()
    mapped = _mapped_bytes(recorded)
    stages = stage_needs(served.outcome)
    kv_cache = find_kv_cache(served.outcome, recorded)
    context = find_context(trace, requests.process, requests.device)
    work = kind_of_work(requests) if requests.on_cpu else None
    band = band_permille(asked, cpu_as_gpu=work)
    bf16 = _uses_bf16(requests, asked)
    need = _Need(served, stages, kv_cache, mapped, band, bool(requests.failures), bf16)
    verdicts = [_verdict(gpu, need, context) for gpu in gpus]
    batches, verdicts = _with_batches(recorded, requests, asked, need, verdicts)
    cheapest = cheapest_of(verdict.gpu for verdict in verdicts if verdict.fits == YES)
    relative = relative_prices(gpus, cheapest)
    verdicts = [replace(v, relative_price=relative.get(v.gpu.name)) for v in verdicts]
    peak = served.outcome.peak()
    held = served.outcome.held(peak.place)
    parts = {
        by: break_down(held, by=by, total_bytes=peak.total_bytes, top=top)
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
        batches=batches,
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
        largest_batch=None,
        context_tokens=need.kv_cache.longest(usable[0] - mapped) if need.kv_cache else None,
        relative_price=None,
        notes=tuple(notes),
    )


def _with_batches(
    recorded: Requests,
    requests: Requests,
    asked: Mapping[str, Sequence[str]],
    need: _Need,
    verdicts: list[Verdict],
) -> tuple[Batches, list[Verdict]]:
    """The largest batch of each that fits with all the error that its prediction may have."""
    band = need.band_permille + band_permille([_BATCH])
    if _BATCH in asked:
        return Batches(), verdicts
    capacities = [(v.usable_bytes - need.mapped_bytes) * 1000 // (1000 + band) for v in verdicts]
    try:
        scaling = Scaling(recorded)
        found = largest_batches(scaling, requests, capacities, on_gpu=True)
    except MemtraceError as error:
        return Batches(why_not=str(error)), verdicts
    batches = Batches(scaling.recorded_values(_BATCH), band)
    return batches, [
        replace(verdict, largest_batch=most) for verdict, most in zip(verdicts, found, strict=True)
    ]


def _mapped_bytes(requests: Requests) -> int:
    """Of a CPU's trace: weights that no allocator gave, and that a GPU must hold too."""
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
            "an estimate from tensors of the CPU: with cuBLAS's workspaces, and an optimizer that "
            "takes all parameters at once; other kernels (of attention above all) are not known"
        )
        if kind_of_work(requests) == "cudnn":
            lines.append("cuDNN's workspaces are not counted: they depend on what it chooses")
    if need.mapped_bytes:
        line = "weights in mapped files or shared memory are copied to the GPU, once"
        lines.append(f"{line}; the what-if leaves them as they are" if changes else line)
    if context.sampled:
        lines.append("the CUDA context and libraries are as large on every GPU")
    else:
        lines.append("nothing was sampled of a CUDA context: its size is a usual one")
    if need.failed:
        lines.append(
            "a request failed while it was recorded: it needs at least so much, perhaps more"
        )
    others = len(requests.trace.process_list) - 1
    if others > 0:
        lines.append(f"a GPU of its own for {requests.process}, one of {others + 1:,} recorded")
    devices = [d for d in requests.trace.devices_by_process[requests.process.key] if d != "cpu"]
    if len(devices) > 1:
        lines.append(f"judged is {requests.device}, of {', '.join(devices)} (--device)")
    return tuple(dict.fromkeys(lines))
