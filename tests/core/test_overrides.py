"""overrides: whether a method is another one than the class's that the question is about."""

from __future__ import annotations

import pytest

from hookrun import Hook
from hookrun.core import declaring_class, overrides


class Base(Hook):
    def named(self) -> None: ...


class Child(Base):
    pass


class Own(Child):
    def named(self) -> None: ...


def test_inherited_methods_are_not_overridden() -> None:
    assert not overrides(Base(), Base, ["named", "close"])
    assert not overrides(Child(), Base, ["named"])


def test_a_method_of_a_subclass_is() -> None:
    assert overrides(Own(), Base, ["close", "named"])
    assert not overrides(Own(), Own, ["named"])
    assert not overrides(Own(), Base, ["close"])


def test_a_method_of_a_class_beside_the_base_is() -> None:
    class Mixin:
        def named(self) -> None: ...

    assert overrides(type("Mixed", (Mixin, Base), {})(), Base, ["named"])


def test_a_function_set_on_the_object_is() -> None:
    hook = Base()
    hook.named = lambda: None  # type: ignore[method-assign]
    assert overrides(hook, Base, ["named"])


def test_a_function_set_on_the_class_that_is_asked_about_is_not() -> None:
    class Patched(Base):
        pass

    Patched.named = lambda self: None  # type: ignore[method-assign]
    assert not overrides(Patched(), Patched, ["named"])
    assert overrides(Patched(), Base, ["named"])


def test_a_method_that_the_base_lacks_is() -> None:
    assert overrides(Base(), Hook, ["named"])
    assert not overrides(Base(), Hook, ["no_such_method"])


def test_the_declaring_class_is_the_nearest_that_has_the_name_in_its_body() -> None:
    assert declaring_class(Child(), "named") is Base
    assert declaring_class(Own(), "named") is Own
    with pytest.raises(AttributeError, match="Own has no attribute 'other'"):
        declaring_class(Own(), "other")
