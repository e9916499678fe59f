"""`memtrace fit --parameters`: sums, as they are done by hand, and where each of them fits."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from memtrace.fit.arithmetic import Arithmetic, Sum
from memtrace.fit.catalogue import cheapest_of, relative_prices
from memtrace.report.fit import (
    ANSWER_STYLES,
    assumption_lines,
    price_lines,
    price_title,
    prices_text,
    times_text,
)
from memtrace.report.fit_json import gpu_document
from memtrace.report.page import TITLE, Block, Column, Grid, Line
from memtrace.report.units import size

_ASSUMED = (
    "nothing but parameters: no activations, KV cache or workspaces; record the program for those",
    "Adam: gradients of the weights' dtype, two states in fp32; of 16 bits also weights in fp32",
)


def arithmetic_page(found: Arithmetic) -> list[Block]:
    """The sums, then every GPU."""
    low, high = size(found.context.low_bytes), size(found.context.high_bytes)
    context = f"the CUDA context and libraries take {low} to {high}"
    blocks: list[Block] = [
        Line(f"memtrace: {found.parameters:,} parameters", TITLE),
        _sums_grid(found),
        Line(""),
        _gpus_grid(found),
        *price_lines(found.gpus, cheapest_of(found.gpus)),
        Line(""),
        *assumption_lines([*_ASSUMED, context]),
    ]
    return blocks


def arithmetic_document(found: Arithmetic) -> dict[str, Any]:
    """For machines: as report.fit_json; `fits` has one answer for each of `sums`."""
    relative = relative_prices(found.gpus, cheapest_of(found.gpus))
    return {
        "parameters": found.parameters,
        "sums": [
            {"what": s.what, "dtype": s.dtype, "bytes_per_parameter": s.bytes_each,
             "parts": s.parts, "total_bytes": s.total_bytes}
            for s in found.sums
        ],
        "context": asdict(found.context),
        "gpus": [
            {**gpu_document(gpu), "fits": list(found.fits[gpu.name]),
             "relative_price": relative.get(gpu.name)}
            for gpu in found.gpus
        ],
    }  # fmt: skip


def _sums_grid(found: Arithmetic) -> Grid:
    columns = (
        Column("For"),
        Column("Bytes of a parameter", wide=True),
        Column("Sum", right=True),
        Column("", right=True),
    )
    return Grid(columns, tuple(_sum_row(each) for each in found.sums), indent=2)


def _sum_row(each: Sum) -> tuple[str, ...]:
    parts = [f"{name} {width:g}" for name, width in each.parts.items()]
    words = " + ".join(parts)
    if len(parts) > 1:
        words += f" = {each.bytes_each:g}"
    return (
        _name(each),
        words,
        f"{_short(each.parameters)} x {each.bytes_each:g} = {each.total_bytes / 1e9:,.1f} GB",
        size(each.total_bytes),
    )


def _gpus_grid(found: Arithmetic) -> Grid:
    title, currency = price_title(found.gpus)
    columns = (
        Column("GPU", wide=True),
        Column("CUDA has", right=True, spare=True),
        *(Column(_name(each)) for each in found.sums),
        Column(title, right=True),
        Column("x", right=True, spare=True),
    )
    relative = relative_prices(found.gpus, cheapest_of(found.gpus))
    rows = tuple(
        (gpu.name, size(gpu.cuda_bytes), *found.fits[gpu.name], prices_text(gpu, currency),
         times_text(relative.get(gpu.name)))
        for gpu in found.gpus
    )  # fmt: skip
    styles = {
        (row, 2 + place): ANSWER_STYLES[answer]
        for row, gpu in enumerate(found.gpus)
        for place, answer in enumerate(found.fits[gpu.name])
    }
    return Grid(columns, rows, indent=2, styles=styles)


def _name(each: Sum) -> str:
    return each.dtype if each.what == "inference" else f"{each.dtype}, Adam"


def _short(number: int) -> str:
    for letter, unit in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if number >= unit:
            return f"{number / unit:.4g} {letter}"
    return f"{number:,}"
