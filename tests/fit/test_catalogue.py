"""The catalogue of GPUs, and a user's additions to it."""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path

import pytest

from memtrace.errors import MemtraceError
from memtrace.fit.catalogue import COLUMNS, cheapest_of, choose, read_catalogue, relative_prices

GIB = 1 << 30
#: What issue after issue asks about.
KNOWN = {
    "t4", "l4", "a10g", "a100-40", "a100-80", "l40s", "h100", "h200", "b200", "rtx4090", "rtx5090",
    "mi300x",
}  # fmt: skip


def test_every_row_says_where_it_is_from() -> None:
    text = (files("memtrace.fit") / "gpus.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert list(rows[0]) == list(COLUMNS)
    for row in rows:
        assert row["source"], row
        assert len(row["as_of"]) == len("2026-01-01"), row
        assert bool(row["price_per_hour"]) == bool(row["currency"]), row


def test_cuda_has_less_than_the_driver_and_a_card_less_than_its_name() -> None:
    catalogue = read_catalogue()
    assert catalogue.keys() >= KNOWN
    for gpu in catalogue.values():
        if gpu.nvml_bytes is not None:
            assert 0.95 * gpu.nvml_bytes < gpu.cuda_bytes <= gpu.nvml_bytes, gpu.name
    assert round(catalogue["t4"].cuda_bytes / GIB, 2) == 14.56
    assert catalogue["t4"].capability == (7, 5)
    assert catalogue["h100"].bandwidth_gbps == 3350


def test_prices_are_in_order() -> None:
    a100 = read_catalogue()["a100-40"]
    assert [price.per_hour for price in a100.prices] == [1.29, 2.7447, 2.93]
    assert a100.cheapest is a100.prices[0]


def test_a_family_is_all_of_its_members() -> None:
    catalogue = read_catalogue()
    assert [gpu.name for gpu in choose(catalogue, "T4, a100")] == ["t4", "a100-40", "a100-80"]
    with pytest.raises(MemtraceError, match="no GPU 'a999' in the catalogue; it has t4, l4,"):
        choose(catalogue, "t4,a999")
    with pytest.raises(MemtraceError, match="no GPU ''"):
        choose(catalogue, "t4,")


def test_a_price_of_the_users_stands_instead() -> None:
    catalogue = read_catalogue(None, ["a100-40=3", "a100-40=2", "t4=.35"])
    assert [price.per_hour for price in catalogue["a100-40"].prices] == [2, 3]
    cheapest = cheapest_of([catalogue["a100-40"], catalogue["t4"]])
    assert cheapest is catalogue["t4"]
    relative = relative_prices(catalogue.values(), cheapest)
    assert relative["a100-40"] == (2 / 0.35, 3 / 0.35)  # an A100 at $2-3 against a T4 at $0.35
    assert "mig-1g.10gb" not in relative


def table(path: Path, *lines: str) -> str:
    file = path / "own.csv"
    file.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return str(file)


def test_rows_of_the_users(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        f"lab-gpu,Ours,24576,{23 * GIB},900,8.6,0.10,USD,2026-01-01,our own",
        "lab-gpu,,,,,,0.20,EUR,2026-01-01,our own",
        "t4,,,,,,0.11,,,",
    )
    catalogue = read_catalogue(path)
    own = catalogue["lab-gpu"]
    assert (own.cuda_bytes, own.capability) == (23 * GIB, (8, 6))
    assert [(p.per_hour, p.currency) for p in own.prices] == [(0.10, "USD"), (0.20, "EUR")]
    assert [p.per_hour for p in catalogue["t4"].prices] == [0.11]
    assert catalogue["t4"].cuda_bytes == read_catalogue()["t4"].cuda_bytes
    assert relative_prices([own], catalogue["t4"]) == {"lab-gpu": (0.10 / 0.11, 0.10 / 0.11)}


def test_a_table_with_fewer_columns(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"\ufeffgpu,cuda_bytes\nbox,{GIB}\n", encoding="utf-8")
    box = read_catalogue(str(tmp_path / "x.csv"))["box"]
    assert (box.product, box.nvml_bytes, box.prices) == ("box", None, ())


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("x,,,12,,,,,,", "own.csv, line 2: cuda_bytes is a number of bytes, at least 1,048,576"),
        ("x,,,many,,,,,,", "own.csv, line 2: cuda_bytes is 'many', not a number above 0"),
        ("x,,,inf,,,,,,", "not a number above 0"),
        ("x,,,,,,1,,,", "line 2: cuda_bytes is missing, and x is not known"),
        ("t4,,,,,,,,,", "line 2: neither cuda_bytes nor price_per_hour"),
        ("t4,,,,,,-1,,,", "line 2: price_per_hour is '-1'"),
        ("t4,,,,", "line 2: 10 values are needed"),
        ("t4,,,,,,1,,,,", "line 2: 10 values are needed"),
        (",,,,,,1,,,", "line 2: a GPU needs a name"),
        (f"x,,,{GIB},,eight,,,,", "line 2: compute_capability is written like 8.6"),
    ],
)
def test_a_wrong_row_is_one_line(tmp_path: Path, row: str, line: str) -> None:
    with pytest.raises(MemtraceError) as caught:
        read_catalogue(table(tmp_path, row))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_table(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    with pytest.raises(MemtraceError, match=r"x.csv: no such file"):
        read_catalogue(str(file))
    with pytest.raises(MemtraceError, match="is a directory"):
        read_catalogue(str(tmp_path))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MemtraceError, match="not UTF-8"):
        read_catalogue(str(file))
    file.write_text("")
    with pytest.raises(MemtraceError, match="the first line must name the columns"):
        read_catalogue(str(file))
    file.write_text(f"gpu,source\nt4,{'x' * 200_000}\n")
    with pytest.raises(MemtraceError, match=r"x.csv, line .*: field larger than field limit"):
        read_catalogue(str(file))
    file.write_text("gpu,colour\n")
    with pytest.raises(MemtraceError, match="line 1: no column 'colour'"):
        read_catalogue(str(file))


@pytest.mark.parametrize("text", ["h100", "h100=", "h100=free", "h100=-2", "what=3"])
def test_a_wrong_price(text: str) -> None:
    with pytest.raises(MemtraceError):
        read_catalogue(None, [text])
