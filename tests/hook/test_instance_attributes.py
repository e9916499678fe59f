"""Attributes are read as they lie in an object: with a dictionary, or without making one."""

from __future__ import annotations

import gc
import random
import sys
from types import ModuleType
from typing import Any

import pytest


class Plain:
    pass


class Slots:
    __slots__ = ("inside",)


class Both(Slots):
    pass


class OfATuple(tuple):
    pass


class OfADict(dict):
    pass


def has_dictionary(instance: object) -> bool:
    return any(type(held) is dict for held in gc.get_referents(instance))


@pytest.mark.parametrize("kind", [Plain, Both, OfATuple, OfADict, Exception])
def test_what_is_set_and_deleted(stack_extension: ModuleType, kind: type) -> None:
    chance = random.Random(kind.__name__)
    names = [f"attribute_{i}" for i in range(40)]
    for limit in (3, 12, 28, 40):  # an instance has place for 30 without a dictionary
        instance: Any = kind()
        set_now: dict[str, int] = {}
        for number in range(100):
            name = chance.choice(names[:limit])
            if chance.random() < 0.3 and name in set_now:
                delattr(instance, name)
                del set_now[name]
            else:
                setattr(instance, name, number)
                set_now[name] = number
            assert stack_extension.attributes(instance) == list(set_now.items())
            for asked in names[:limit]:
                uninterned = "".join(asked)
                assert stack_extension.attribute(instance, uninterned) == set_now.get(asked)
        assert instance.__dict__ == set_now
        assert stack_extension.attributes(instance) == list(instance.__dict__.items())
        instance.__dict__ = {"another": 1}
        assert stack_extension.attributes(instance) == [("another", 1)]
        assert stack_extension.attribute(instance, "attribute_0") is None


@pytest.mark.parametrize("value", [1, "text", (), object(), Slots(), Plain, len, None])
def test_what_has_none(stack_extension: ModuleType, value: object) -> None:
    own = list(vars(value).items()) if isinstance(value, type) else []
    assert stack_extension.attributes(value) in ([], own)
    assert stack_extension.attribute(value, "nothing") is None


def test_no_dictionary_is_made(stack_extension: ModuleType) -> None:
    instance: Any = Plain()
    instance.first, instance.second = 1, 2
    had = has_dictionary(instance)
    assert stack_extension.attributes(instance) == [("first", 1), ("second", 2)]
    assert stack_extension.attribute(instance, "second") == 2
    assert has_dictionary(instance) == (had or sys.version_info >= (3, 13))  # where it is cheap
    assert instance.__dict__ == {"first": 1, "second": 2}
    assert has_dictionary(instance)


def test_another_class(stack_extension: ModuleType) -> None:
    class Another:
        pass

    other: Any = Another()
    other.its_own = 0
    instance: Any = Plain()
    instance.first = 1
    instance.__class__ = Another
    instance.later = 2
    assert stack_extension.attributes(instance) == [("first", 1), ("later", 2)]
