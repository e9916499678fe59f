"""Colours of categories stay apart, in light and dark, also for readers who see fewer colours."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

CSS = (Path(str(files("memtrace.page"))) / "assets" / "base.css").read_text()
Floats = npt.NDArray[np.float64]

# How linear RGB looks to whoever lacks one kind of cone (Machado, Oliveira and Fernandes, 2009).
SEEN_BY = {
    "all cones": np.eye(3),
    "no red cones": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                              [-0.003882, -0.048116, 1.051998]]),
    "no green cones": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                                [-0.011820, 0.042940, 0.968881]]),
    "no blue cones": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                               [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip
# Linear RGB to Oklab, in which distances are what an eye sees.
_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                 [0.2119034982, 0.6806995451, 0.1073969566],
                 [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468],
                 [1.9779984951, -2.4285922050, 0.4505937099],
                 [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
LEAST_APART, LEAST_CONTRAST, LEAST_TEXT_CONTRAST = 0.09, 2.2, 4.5


def linear(colour: str) -> Floats:
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def colours(theme: int, prefix: str = "category-") -> dict[str, str]:
    found = re.findall(rf"--{prefix}([\w-]+): light-dark\((#\w{{6}}), (#\w{{6}})\)", CSS)
    return {name: both[theme] for name, *both in found}


def contrast(one: str, other: str) -> float:
    weights = np.array([0.2126, 0.7152, 0.0722])
    low, high = sorted(float(linear(colour) @ weights) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("eye", SEEN_BY)
def test_every_two_categories_are_told_apart(theme: int, eye: str) -> None:
    seen = {
        name: np.cbrt(np.clip(np.clip(SEEN_BY[eye] @ linear(colour), 0, 1) @ _LMS.T, 0, None))
        @ _LAB.T
        for name, colour in colours(theme).items()
    }
    assert len(seen) == 11
    for one, other in combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) >= LEAST_APART, (one, other)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_stand_out_from_the_page(theme: int) -> None:
    ground = colours(theme, "")["panel"]
    for name, colour in colours(theme).items():
        assert contrast(colour, ground) >= LEAST_CONTRAST, name
    for name in ("text", "faint", "bad", "warn", "good", "accent"):
        assert contrast(colours(theme, "")[name], ground) >= LEAST_TEXT_CONTRAST, name


def test_each_category_has_a_colour() -> None:
    from memtrace.analyse.ledger_lines import CATEGORIES

    assert set(colours(0)) == {name.replace("_", "-") for name in CATEGORIES}
