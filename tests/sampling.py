"""Which combinations of a test run without --long, by the mark ``sampled``."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet


class Sampling:
    """Takes one in so many combinations of each test's parameters, spread evenly.

    Each value of a parameter is among them if another one has at least as many values as the mark
    says, and each pair of values of two parameters if a third one has.
    """

    def __init__(self) -> None:
        self._of_fixtures: dict[
            tuple[str, str], list[Any]
        ] = {}  # by test and fixture, as they come

    def takes(self, item: pytest.Item) -> bool:
        """To be asked about all combinations of a test in their order."""
        mark = item.get_closest_marker("sampled")
        if mark is None:
            return True
        # pytest counts the combinations, but not the values of each parameter.
        params = dict(item.callspec.params)  # type: ignore[attr-defined]  # parametrized ones have it
        total = 0
        for together in item.iter_markers("parametrize"):
            names, values = together.args
            names = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
            own = [params.pop(name) for name in names]
            total += _index(own, (_row(each, len(names)) for each in values))
        for name, value in params.items():
            known = self._of_fixtures.setdefault((item.nodeid.partition("[")[0], name), [])
            if not any(value is each for each in known):
                known.append(value)
            total += _index([value], ([each] for each in known))
        return total % int(mark.args[0]) == 0


def _row(values: Any, count: int) -> list[Any]:
    """The values of so many parameters, as lines of ``parametrize`` have them."""
    if isinstance(values, ParameterSet):
        return list(values.values)
    return [values] if count == 1 else list(values)


def _index(objects: list[Any], rows: Iterable[list[Any]]) -> int:
    """The number of the row that holds just these objects."""
    return next(i for i, row in enumerate(rows) if all(map(operator.is_, row, objects)))
