"""`memtrace fit`: which GPUs hold a program, what stands in the way, and every assumption."""

from __future__ import annotations

from collections.abc import Sequence

from memtrace.errors import readable
from memtrace.fit.catalogue import GIVEN, Gpu, Price
from memtrace.fit.judge import NO, UNCERTAIN, YES, Batches, Fit, Verdict
from memtrace.fit.kv_cache import KvCache
from memtrace.fit.stage_needs import StageNeed
from memtrace.report.breakdown import breakdown_grid
from memtrace.report.losses import lost_lines
from memtrace.report.page import BAD, FAINT, GOOD, TITLE, WARNING, Block, Column, Grid, Line
from memtrace.report.units import exact, percent, size

ANSWER_STYLES = {YES: GOOD, NO: BAD, UNCERTAIN: WARNING}
_NONE = "-"
_BATCHES_TOLD = 8
#: From here on it is told: an old cache is kept beside the new one.
_HELD_MORE = 1.1


def fit_page(found: Fit) -> list[Block]:
    """What it needs, every GPU, the stages, what holds the peak, and what is taken for granted."""
    what = f"if {', '.join(found.what)}" if found.what else "as recorded"
    blocks: list[Block] = [
        Line(f"memtrace: {readable(str(found.trace.path))}: where it fits, {what}", TITLE),
        Line(f"  {found.process}, {found.device}: needs {needs_text(found)}"),
        Line(
            f"  allocated at the peak {exact(found.allocated_bytes)}, "
            f"event {int(found.peak_place):,}"
        ),
        Line(f"  beside it the CUDA context and libraries: {context_text(found)}"),
    ]
    if found.kv_cache:
        blocks.append(Line(f"  {kv_cache_text(found.kv_cache)}"))
        if found.kv_cache.times_held >= _HELD_MORE:
            times = f"{found.kv_cache.times_held:.1f} times"
            blocks.append(
                Line(f"    held {times} at the peak: an old cache beside the new", WARNING)
            )
    blocks += lost_lines(found.process)
    blocks += [Line(""), _gpus_grid(found)]
    blocks += [Line(f"  {v.gpu.name}: {note}", WARNING) for v in found.verdicts for note in v.notes]
    if found.kv_cache:
        blocks.append(Line(f"  context: tokens that each of {found.kv_cache.sequences:,} sequences "
                           "may have, all else as it was", FAINT))  # fmt: skip
    blocks += _batch_lines(found.batches)
    blocks += price_lines([v.gpu for v in found.verdicts], found.cheapest, fitting=True)
    blocks += [Line(""), Line("Each stage, by what it allocates:", TITLE), _stages_grid(found)]
    blocks += [Line(""), Line("What holds the peak:", TITLE)]
    if found.mapped_bytes:
        text = f"beside {size(found.mapped_bytes)} of weights that are in mapped files now"
        blocks.append(Line(f"  {text}", FAINT))
    blocks += [breakdown_grid(found.categories, {}, requested=False), Line("")]
    blocks.append(breakdown_grid(found.modules, {}, requested=False))
    if found.assumptions:
        blocks += [Line(""), *assumption_lines(found.assumptions)]
    return blocks


def needs_text(found: Fit) -> str:
    """The least capacity, or the bounds of it, and the error."""
    words = exact(found.most_bytes)
    if found.least_bytes != found.most_bytes:
        words = f"{exact(found.least_bytes)} to {exact(found.most_bytes)}"
    if found.mapped_bytes:
        words += f", {size(found.mapped_bytes)} of it in mapped files now"
    if found.band_permille:
        words += f", ± {percent(found.band_permille)}"
    return words


def context_text(found: Fit) -> str:
    """How much, and how that is known."""
    context = found.context
    words = size(context.high_bytes)
    if context.low_bytes != context.high_bytes:
        words = f"{size(context.low_bytes)} to {words}"
    if not context.sampled:
        return f"{words}, assumed"
    device = found.process.device_names.get(found.device) or found.device
    return f"{words}, as sampled on {device}"


def kv_cache_text(cache: KvCache) -> str:
    """The sum: "KV cache: 8 tensors x 4 x 32 x 4 bytes = 4.00 KiB a token of a sequence"."""
    kinds = " + ".join(
        f"{number} tensors x {' x '.join(map(str, rest))} x {width:g} bytes"
        for number, rest, width in cache.shapes
    )
    return (
        f"KV cache: {kinds} = {size(cache.token_bytes)} a token; "
        f"at most {cache.sequences:,} x {cache.tokens:,} tokens"
    )


def _batch_lines(batches: Batches) -> list[Line]:
    if batches.why_not:
        why, colon, what_to_do = batches.why_not.partition(": ")
        lines = [Line(f"  no largest batch: {why}{colon.rstrip()}", FAINT)]
        return [*lines, Line(f"    {what_to_do}", FAINT)] if what_to_do else lines
    if not batches.recorded:
        return []
    recorded = ", ".join(f"{batch:,}" for batch in batches.recorded[:_BATCHES_TOLD])
    error = percent(batches.band_permille)
    text = f"  batch: the largest that fits even if its prediction is {error} too low; recorded: "
    return [Line(text + recorded, FAINT)]


def price_lines(gpus: Sequence[Gpu], cheapest: Gpu | None, *, fitting: bool = False) -> list[Line]:
    """Where the prices are from, and which are compared; `fitting`: with one that fits."""
    prices = [price for gpu in gpus for price in gpu.prices]
    if not prices:
        return []
    days = sorted({price.as_of for price in prices if price.as_of and price.as_of != GIVEN})
    seen = f", seen {days[0]} to {days[-1]}" if days else ""
    lines = [Line(f"  prices: lowest-highest{seen}; others: --price, --gpus", FAINT)]
    price = cheapest.cheapest if cheapest else None
    if cheapest is not None and price is not None:
        which = "the cheapest that fits" if fitting else "the cheapest"
        text = f"  x: times the lowest of {cheapest.name}, {which}: {price_text(price)}"
        lines.append(Line(f"{text} ({price.source})", FAINT))
    return lines


def price_text(price: Price) -> str:
    """ "0.35 USD"; a fraction of a cent is told."""
    return f"{amount(price.per_hour)} {price.currency}"


def amount(value: float) -> str:
    """Two digits, three where the third is not 0."""
    text = f"{value:.3f}"
    return text[:-1] if text.endswith("0") else text


def assumption_lines(assumptions: Sequence[str]) -> list[Line]:
    """One line each."""
    return [Line("Assumed:", TITLE), *(Line(f"  {text}", FAINT) for text in assumptions)]


def _gpus_grid(found: Fit) -> Grid:
    context, batch = found.kv_cache is not None, bool(found.batches.recorded)
    title, currency = price_title([verdict.gpu for verdict in found.verdicts])
    columns = (
        Column("GPU", wide=True),
        Column("Fits"),
        Column("Usable", right=True, spare=True),
        Column("Headroom", right=True),
        Column("Share", right=True, spare=True),
        *([Column("Batch", right=True)] if batch else []),
        *([Column("Context", right=True)] if context else []),
        Column(title, right=True),
        Column("x", right=True, spare=True),
    )
    rows = tuple(_gpu_row(verdict, batch, context, currency) for verdict in found.verdicts)
    styles = {(i, 1): ANSWER_STYLES[verdict.fits] for i, verdict in enumerate(found.verdicts)}
    return Grid(columns, rows, indent=2, styles=styles)


def _gpu_row(verdict: Verdict, batch: bool, context: bool, currency: str | None) -> tuple[str, ...]:
    gpu = verdict.gpu
    share = 1000 * verdict.headroom_bytes // verdict.usable_bytes if verdict.usable_bytes > 0 else 0
    batches = [f"{verdict.largest_batch:,}"] if batch else []
    tokens = [f"{verdict.context_tokens:,}"] if context else []
    return (
        gpu.name,
        verdict.fits,
        size(verdict.usable_bytes),
        size(verdict.headroom_bytes),
        percent(share),
        *batches,
        *tokens,
        prices_text(gpu, currency),
        times_text(verdict.relative_price),
    )


def price_title(gpus: Sequence[Gpu]) -> tuple[str, str | None]:
    """What the column of prices is called, and the currency that its cells need not tell."""
    currencies = {gpu.cheapest.currency for gpu in gpus if gpu.cheapest}
    if len(currencies) == 1:
        currency = currencies.pop()
        return f"{currency}/h", currency
    return "Price/h", None


def prices_text(gpu: Gpu, currency: str | None) -> str:
    """From the cheapest to the most expensive of the first currency: "0.35-0.526"."""
    if gpu.cheapest is None:
        return _NONE
    same = [price for price in gpu.prices if price.currency == gpu.cheapest.currency]
    words = amount(same[0].per_hour)
    if same[-1].per_hour != same[0].per_hour:
        words += f"-{amount(same[-1].per_hour)}"
    return words if currency else f"{words} {gpu.cheapest.currency}"


def times_text(relative: tuple[float, float] | None) -> str:
    """How many times as dear: "1.0-1.5"."""
    if relative is None:
        return _NONE
    low, high = (f"{value:.1f}" for value in relative)
    return low if low == high else f"{low}-{high}"


def _stages_grid(found: Fit) -> Grid:
    columns = (
        Column("Stage", wide=True),
        Column("Peak", right=True),
        Column("Fits on", wide=True),
    )
    rows = []
    for stage in found.stages:
        if not stage.peak_bytes:
            continue
        of = {answer: [v.gpu.name for v in found.verdicts if v.stages[stage.name] == answer]
              for answer in (YES, UNCERTAIN, NO)}  # fmt: skip
        rows.append(
            (
                stage_text(stage),
                size(stage.peak_bytes + found.mapped_bytes),
                _fitting(of, len(found.verdicts)),
            )
        )
    return Grid(columns, tuple(rows), indent=2)


def stage_text(stage: StageNeed) -> str:
    """Its name, and whether the peak of the whole is in it."""
    return f"{stage.name} (the peak)" if stage.is_peak else stage.name


def _fitting(of: dict[str, list[str]], number: int) -> str:
    if len(of[YES]) == number:
        return "all of these" if number > 1 else of[YES][0]
    words = [f"{len(of[YES]):,} of {number:,}"]
    if of[NO]:
        words.append(f"not {', '.join(of[NO])}")
    if of[UNCERTAIN]:
        words.append(f"perhaps {', '.join(of[UNCERTAIN])}")
    return "; ".join(words)
