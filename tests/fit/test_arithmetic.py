"""Well-known claims about models of a size, as sums."""

from __future__ import annotations

import pytest

from memtrace.errors import MemtraceError
from memtrace.fit.arithmetic import INFERENCE, TRAINING, add_up
from memtrace.fit.catalogue import choose, read_catalogue

SEVEN_B = 7 * 10**9


def test_seven_billion_parameters() -> None:
    catalogue = read_catalogue()
    found = add_up(SEVEN_B, choose(catalogue, "t4,a100-80"))
    totals = {(s.what, s.dtype): s.total_bytes for s in found.sums}
    assert totals == {
        (INFERENCE, "fp32"): 28 * 10**9,
        (INFERENCE, "fp16"): 14 * 10**9,
        (INFERENCE, "int8"): 7 * 10**9,
        (INFERENCE, "int4"): 3_500_000_000,
        (TRAINING, "fp32"): 112 * 10**9,
        (TRAINING, "fp16"): 112 * 10**9,
    }
    # It needs no more than one card of 80 GB for inference, whatever is said; not so training.
    assert found.fits["a100-80"] == ("yes", "yes", "yes", "yes", "no", "no")
    assert found.fits["t4"] == ("no", "yes", "yes", "yes", "no", "no")


def test_what_lies_within_the_context_is_uncertain() -> None:
    t4 = read_catalogue()["t4"]
    for spare, answer in ((300 << 20, "uncertain"), (601 << 20, "yes"), (299 << 20, "no")):
        parameters = t4.cuda_bytes - spare
        assert add_up(parameters, [t4], dtypes=["int8"]).fits["t4"] == (answer,)


def test_a_dtype_by_any_name() -> None:
    for name in ("bf16", "bfloat16", " BF16"):
        found = add_up(SEVEN_B, [], dtypes=[name])
        assert [(s.dtype, s.bytes_each) for s in found.sums] == [("bf16", 2), ("bf16", 16)]
    with pytest.raises(MemtraceError, match="no dtype 'fp12'; there are fp32, fp16"):
        add_up(SEVEN_B, [], dtypes=["fp12"])
