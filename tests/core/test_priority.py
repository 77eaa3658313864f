from __future__ import annotations

from typing import Any

import pytest

from hookrun import Priority, get_priority


@pytest.mark.parametrize(
    ("given", "value"),
    [(0, 0), (100, 100), (33, 33), ("NORMAL", 50), ("very_low", 90), (Priority.HIGHEST, 0)],
)
def test_values_names_and_levels(given: Any, value: int) -> None:
    assert get_priority(given) == value


def test_levels_are_mmcvs() -> None:
    assert {level.name: level.value for level in Priority} == {
        "HIGHEST": 0,
        "VERY_HIGH": 10,
        "HIGH": 30,
        "ABOVE_NORMAL": 40,
        "NORMAL": 50,
        "BELOW_NORMAL": 60,
        "LOW": 70,
        "VERY_LOW": 90,
        "LOWEST": 100,
    }


@pytest.mark.parametrize("value", [-1, 101])
def test_values_outside_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="between 0"):
        get_priority(value)


def test_near_names_are_given() -> None:
    with pytest.raises(KeyError, match="Did you mean 'VERY_HIGH'"):
        get_priority("very_hihg")


@pytest.mark.parametrize("value", [1.5, None, True])
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="a priority is"):
        get_priority(value)
