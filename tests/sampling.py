"""Chooses which combinations of many values are tested without ``--long``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest


def one_in(share: int, *axes: Iterable[Any]) -> list[Any]:
    """All combinations of some values, for ``parametrize``; all but one in ``share`` are long.

    Those that are left are spread evenly. Each value of an axis is among them if another axis has
    at least ``share`` values, and each pair of values of two axes if a third one has.
    """
    numbered = [list(enumerate(axis)) for axis in axes]
    chosen = []
    for combination in itertools.product(*numbered):
        quick = sum(number for number, _ in combination) % share == 0
        marks = [] if quick else [pytest.mark.long]
        chosen.append(pytest.param(*(value for _, value in combination), marks=marks))
    return chosen
