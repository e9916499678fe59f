"""A function of the program's, observed: it behaves as before, whatever the observers do."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from memtrace import _core


class Timeout(Exception):
    """What the program's own signal handler raises."""


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    def raise_timeout(number: int, frame: object) -> None:
        raise Timeout

    before = signal.signal(signal.SIGUSR1, raise_timeout)
    yield
    signal.signal(signal.SIGUSR1, before)


def interrupted(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    for _ in range(1000):  # until the handler has run
        pass


def broken(*_: object) -> None:
    raise LookupError("an observer's own")


def failing() -> None:
    raise ValueError("the function's own")


def test_what_observers_raise_is_dropped() -> None:
    assert _core.observed(len, before=broken, after=broken)("abc") == 3
    with pytest.raises(ValueError, match="the function's own") as raised:
        _core.observed(failing, failed=broken)()
    assert raised.value.__context__ is None


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_a_handler_raises_meanwhile_goes_on(moment: str) -> None:
    calls: list[int] = []
    observed = _core.observed(calls.append, **{moment: interrupted})
    with pytest.raises(Timeout):
        observed(1)
    assert calls == ([] if moment == "before" else [1])


def test_a_handler_during_a_failure_raises_in_its_context() -> None:
    with pytest.raises(Timeout) as raised:
        _core.observed(failing, failed=interrupted)()
    assert isinstance(raised.value.__context__, ValueError)
    assert raised.value.__context__.__traceback__ is not None
