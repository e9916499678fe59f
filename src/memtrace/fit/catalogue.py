"""GPUs: how much memory they have, as the driver and as CUDA count it, and what they cost.

The catalogue is a table, gpus.csv. A row with `cuda_bytes` says what a GPU has; a row with
`price_per_hour` is one price of it, and there may be several. A user's table has the same columns:
what it says of a GPU stands instead of what the catalogue says.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from memtrace.errors import MemtraceError, readable

COLUMNS = (
    "gpu", "product", "nvml_mib", "cuda_bytes", "bandwidth_gbps", "compute_capability",
    "price_per_hour", "currency", "as_of", "source",
)  # fmt: skip
#: When and where a price was seen that the user gives.
GIVEN, GIVEN_BY = "now", "--price"
_CURRENCY = "USD"
_MIB = 1 << 20


@dataclass(frozen=True)
class Price:
    """What one GPU costs an hour somewhere; `as_of`: when it was seen, as the table has it."""

    per_hour: float
    currency: str
    as_of: str
    source: str


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        name: what it is asked for by: "a100-80".
        nvml_bytes: all of its memory, as nvidia-smi shows it; None: not known.
        cuda_bytes: what CUDA, and so torch, says that there is.
        bandwidth_gbps: of its memory, in 10^9 bytes per second.
        capability: CUDA's compute capability; None: not known, or not CUDA.
        prices: of one currency after the other, the cheapest first.
    """

    name: str
    product: str
    nvml_bytes: int | None
    cuda_bytes: int
    bandwidth_gbps: float | None
    capability: tuple[int, int] | None
    as_of: str
    source: str
    prices: tuple[Price, ...] = ()

    @property
    def cheapest(self) -> Price | None:
        return self.prices[0] if self.prices else None


def read_catalogue(path: str | None = None, prices: Sequence[str] = ()) -> dict[str, Gpu]:
    """All GPUs by name, in the order of the table; the user's own come last.

    Args:
        path: a table of the user's.
        prices: "NAME=PRICE" in dollars; they stand instead of all others of that GPU.

    Raises:
        MemtraceError: a row or a price is wrong; says which line.
    """
    lines = (files("memtrace.fit") / "gpus.csv").read_text(encoding="utf-8").splitlines()
    found = _merge({}, lines, "gpus.csv")
    if path is not None:
        try:
            own = Path(path).read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise MemtraceError(f"{readable(path)}: {reason}") from error
        except UnicodeDecodeError as error:
            raise MemtraceError(f"{readable(path)}: text that is not UTF-8") from error
        found = _merge(found, own, readable(path))
    given: dict[str, list[Price]] = {}
    for text in prices:
        name, equals, value = text.partition("=")
        price = _number(value, f"--price {text}", "a price") if equals else None
        if price is None:
            raise MemtraceError(f"--price {text}: write NAME=PRICE, such as h100=2.5")
        for gpu in choose(found, name):
            given.setdefault(gpu.name, []).append(Price(price, _CURRENCY, GIVEN, GIVEN_BY))
    return found | {name: replace(found[name], prices=_sorted(own)) for name, own in given.items()}


def choose(catalogue: dict[str, Gpu], names: str) -> list[Gpu]:
    """The GPUs of a list with commas; "a100" is every one whose name begins with "a100-".

    Raises:
        MemtraceError: there is none of a name; tells all that there are.
    """
    found: dict[str, Gpu] = {}
    for word in names.split(","):
        name = word.strip().lower()
        family = [gpu for key, gpu in catalogue.items() if key.startswith(f"{name}-")]
        chosen = [catalogue[name]] if name in catalogue else family if name else []
        if not chosen:
            known = ", ".join(catalogue)
            raise MemtraceError(f"no GPU {word.strip()!r} in the catalogue; it has {known}")
        found |= {gpu.name: gpu for gpu in chosen}
    return list(found.values())


def cheapest_of(gpus: Iterable[Gpu]) -> Gpu | None:
    """The one with the lowest price, of those with a price in the first one's currency."""
    priced = [(gpu.cheapest, gpu) for gpu in gpus if gpu.cheapest]
    same = [(price, gpu) for price, gpu in priced if price.currency == priced[0][0].currency]
    return min(same, key=lambda each: each[0].per_hour)[1] if same else None


def relative_prices(gpus: Iterable[Gpu], base: Gpu | None) -> dict[str, tuple[float, float]]:
    """By GPU, its lowest and its highest price to the lowest of `base`; in one currency."""
    price = base.cheapest if base else None
    if price is None:
        return {}
    found = {}
    for gpu in gpus:
        own = [p.per_hour for p in gpu.prices if p.currency == price.currency]
        if own:
            found[gpu.name] = (min(own) / price.per_hour, max(own) / price.per_hour)
    return found


def _rows(lines: Iterable[str], path: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row with the words for where it is."""
    reader = csv.DictReader(lines)
    try:
        names = reader.fieldnames or []
        wrong = [name for name in names if name not in COLUMNS]
        if "gpu" not in names or wrong:
            what = f"no column {wrong[0]!r}" if wrong else "the first line must name the columns"
            raise MemtraceError(f"{path}, line 1: {what}; the columns are {','.join(COLUMNS)}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise MemtraceError(f"{where}: {len(names)} values are needed, one for each column")
            yield where, {name: value.strip() for name, value in row.items()}
    except csv.Error as error:
        raise MemtraceError(f"{path}, line {reader.line_num}: {error}") from error


def _merge(known: dict[str, Gpu], lines: Iterable[str], path: str) -> dict[str, Gpu]:
    found = dict(known)
    prices: dict[str, list[Price]] = {}
    for where, cells in _rows(lines, path):
        name = cells["gpu"].lower()
        if not name or "," in name or "=" in name:
            raise MemtraceError(f"{where}: a GPU needs a name without commas and =")
        if cells.get("cuda_bytes"):
            found[name] = _gpu(name, cells, where, found.get(name))
        elif name not in found:
            raise MemtraceError(f"{where}: cuda_bytes is missing, and {name} is not known")
        if cells.get("price_per_hour"):
            prices.setdefault(name, []).append(_price(cells, where))
        elif not cells.get("cuda_bytes"):
            raise MemtraceError(f"{where}: neither cuda_bytes nor price_per_hour")
    return found | {name: replace(found[name], prices=_sorted(own)) for name, own in prices.items()}


def _gpu(name: str, cells: dict[str, str], where: str, before: Gpu | None) -> Gpu:
    cuda = _number(cells["cuda_bytes"], where, "cuda_bytes")
    if cuda is None or cuda < _MIB or cuda != int(cuda):
        raise MemtraceError(f"{where}: cuda_bytes is a number of bytes, at least {_MIB:,}")
    nvml = _number(cells.get("nvml_mib", ""), where, "nvml_mib")
    capability = None
    if cells.get("compute_capability"):
        major, dot, minor = cells["compute_capability"].partition(".")
        if not (dot and major.isdecimal() and minor.isdecimal()):
            raise MemtraceError(f"{where}: compute_capability is written like 8.6")
        capability = (int(major), int(minor))
    return Gpu(
        name=name,
        product=cells.get("product") or name,
        nvml_bytes=None if nvml is None else int(nvml * _MIB),
        cuda_bytes=int(cuda),
        bandwidth_gbps=_number(cells.get("bandwidth_gbps", ""), where, "bandwidth_gbps"),
        capability=capability,
        as_of=cells.get("as_of", ""),
        source=cells.get("source", ""),
        prices=before.prices if before else (),
    )


def _price(cells: dict[str, str], where: str) -> Price:
    value = _number(cells["price_per_hour"], where, "price_per_hour")
    assert value is not None
    currency = cells.get("currency") or _CURRENCY
    return Price(value, currency, cells.get("as_of", ""), cells.get("source", ""))


def _number(text: str, where: str, column: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise MemtraceError(f"{where}: {column} is {text.strip()!r}, not a number above 0")
    return value


def _sorted(prices: Sequence[Price]) -> tuple[Price, ...]:
    # Dollars first: what is compared with most others.
    return tuple(sorted(prices, key=lambda p: (p.currency != _CURRENCY, p.currency, p.per_hour)))
