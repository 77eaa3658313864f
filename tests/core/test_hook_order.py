"""What hooks declare to write decides where they may stand."""

from __future__ import annotations

from typing import Any

import pytest

from hookrun import Hook
from hookrun.core.hook_order import check_resources, resolve_position


def hook(name: str, *writes: str) -> Hook:
    return type(name, (Hook,), {"writes": frozenset(writes)})()


SAVER = hook("Saver", "checkpoint")


@pytest.mark.parametrize("attribute", ["reads", "writes"])
def test_a_misspelt_resource_is_refused(attribute: str) -> None:
    misspelt = type("Own", (Hook,), {attribute: frozenset({"log", "paramters"})})()
    with pytest.raises(ValueError, match=rf"Own\.{attribute} has 'paramters'.* 'parameters'"):
        check_resources(misspelt)
    for each in ("parameters", ("parameters",), ["parameters"], {"parameters": 1}, 3):
        with pytest.raises(TypeError, match=rf"Own\.{attribute} is a set or None"):
            check_resources(type("Own", (Hook,), {attribute: each})())
    with pytest.raises(ValueError, match=rf"Own\.{attribute} has '3'"):
        check_resources(type("Own", (Hook,), {attribute: {3, "paramters"}})())


@pytest.mark.parametrize("declared", [None, frozenset(), {"log"}, Hook.RESOURCES, 0])
def test_a_declaration_that_is_none_or_known_is_taken(declared: Any) -> None:
    check_resources(type("Own", (Hook,), {"reads": declared, "writes": declared})())


def test_resources_are_checked_at_registration(make_runner: Any) -> None:
    with pytest.raises(ValueError, match=r"Own\.writes has 'paramters'"):
        make_runner().register_hook(hook("Own", "paramters"))


def test_two_optimizer_hooks_are_refused_by_name() -> None:
    one, two = (hook(name, "parameters", "gradients") for name in ("One", "Two"))
    with pytest.raises(ValueError, match=r"Two cannot be registered: One steps"):
        resolve_position(two, 40, [(one, 40)])


def test_equal_priority_moves_a_parameter_writer_ahead() -> None:
    others: list[Any] = [(hook("Other"), 50), (SAVER, 50)]
    with pytest.warns(UserWarning, match=r"Averager has the priority of Saver .* moved ahead"):
        assert resolve_position(hook("Averager", "parameters"), 50, others) == 1


def test_lower_priority_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match=r"Averager .*60.* Saver .*NORMAL \(50\).* at most 50"):
        resolve_position(hook("Averager", "parameters"), 60, [(SAVER, 50)])
    with pytest.raises(ValueError, match=r"Saver .*would save before Averager"):
        resolve_position(SAVER, 50, [(hook("Averager", "parameters"), 60)])


def test_harmless_orders_keep_their_place() -> None:
    assert resolve_position(hook("Averager", "parameters"), 49, [(SAVER, 50)]) is None
    assert resolve_position(SAVER, 50, [(hook("Averager", "parameters"), 50)]) is None
    assert resolve_position(hook("Undeclared"), 99, [(SAVER, 50)]) is None
