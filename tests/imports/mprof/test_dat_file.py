"""The lines of a .dat, damaged ones too."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.errors import MemtraceError
from memtrace.imports.mprof.dat_file import Call, DatFile, Reading, read_dat

GOOD = [
    "CMDLINE python 'my train.py'\n",
    "MEM 1.500000 1700000000.5000\n",
    "CHLD 4711 2.000000 1700000000.6000\n",
    "CHLD 0 0.000000 1700000000.7000\n",
    "FUNC __main__.step 1.0000 1700000001.0000 2.0000 1700000002.0000 1\n",
    "FUNC __main__.old 1.0000 1700000001.0000 2.0000 1700000002.0000\n",
    "NOTE of a later version\n",
]


def second(number: float) -> int:
    return 1_700_000_000_000_000_000 + round(number * 10**9)


def test_every_kind_of_line() -> None:
    begin, end = Reading(second(1), 1 << 20), Reading(second(2), 2 << 20)
    assert read_dat(GOOD) == DatFile(
        command=["python", "my train.py"],
        readings=[Reading(second(0.5), 3 << 19)],
        children={4711: [Reading(second(0.6), 2 << 20)]},
        calls=[Call("__main__.step", begin, end), Call("__main__.old", begin, end)],
    )


@pytest.mark.parametrize(
    "line",
    [
        "MEM\n", "MEM 1\n", "MEM x 1.0\n", "MEM nan 1.0\n", "MEM 1e999999999 1.0\n", "MEM 1 -1\n",
        "MEM 1 9999999999\n", "FUNC f 1 1 1\n", "CHLD -4 1 1\n", "CHLD 1.5 1 1\n",
        "MEM 99999999999999 1.0\n",
    ],
)  # fmt: skip
def test_a_damaged_line_is_named(line: str) -> None:
    with pytest.raises(MemtraceError, match="line 2 is no "):
        read_dat([GOOD[0], line])


def test_a_last_line_that_was_cut_off_is_left_out() -> None:
    assert len(read_dat([GOOD[1], "MEM 2.00"]).readings) == 1


@settings(deadline=None)
@given(st.data())
def test_damage_is_one_line(data: st.DataObject) -> None:
    text = "".join(GOOD)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.text(max_size=3))
    damaged = text[:at] + other + text[at + data.draw(st.integers(0, 40)) :]
    with suppress(MemtraceError):
        read_dat(damaged.splitlines(keepends=True))
