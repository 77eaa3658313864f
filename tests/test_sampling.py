"""One in so many combinations runs without --long, and each value is in one that does."""

from __future__ import annotations

import pytest

from tests.sampling import Sampling

pytest_plugins = ["pytester"]

MODULE = """
import pytest

@pytest.fixture(params=["x", "y"])
def kind(request):
    return request.param

@pytest.mark.sampled({share})
{parametrize}
def test_it({names}): pass

def test_unmarked(kind): pass
"""
LETTERS = '@pytest.mark.parametrize("letter", [*"abcd"])\n'
NUMBERS = '@pytest.mark.parametrize("number", [1, pytest.param(2, id="two"), 3])\n'
PAIRS = '@pytest.mark.parametrize(("left", "right"), [(0, 0), (0, 1), (1, 0), (1, 1)])\n'


@pytest.mark.parametrize(
    ("parametrize", "names", "share", "expected"),
    [
        (LETTERS, "letter", 2, ["a", "c"]),
        (LETTERS + NUMBERS, "letter, number", 2, ["1-a", "1-c", "two-b", "two-d", "3-a", "3-c"]),
        (NUMBERS + LETTERS, "letter, number", 3, ["a-1", "b-3", "c-two", "d-1"]),
        (PAIRS, "left, right", 4, ["0-0"]),
        (PAIRS + NUMBERS, "number, left, right", 4, ["1-0-0", "two-1-1", "3-1-0"]),
        ("", "kind", 2, ["x"]),
        (NUMBERS, "kind, number", 2, ["x-1", "x-3", "y-two"]),
    ],
)
def test_which_run(
    pytester: pytest.Pytester, parametrize: str, names: str, share: int, expected: list[str]
) -> None:
    pytester.makepyfile(MODULE.format(parametrize=parametrize, names=names, share=share))
    items, _ = pytester.inline_genitems()
    sampling = Sampling()
    taken = [item.name for item in items if sampling.takes(item)]
    assert sorted(taken) == sorted(
        [f"test_it[{each}]" for each in expected] + ["test_unmarked[x]", "test_unmarked[y]"]
    )
