from __future__ import annotations

from typing import Any

import pytest

from hookrun import Hook, every, last, once
from hookrun.core.triggers import Trigger, declared_trigger


def test_decorators_add_up() -> None:
    @every(iters=5, start=2)
    @last
    def after_train_iter(self: Any, runner: Any) -> None: ...

    assert declared_trigger(after_train_iter) == Trigger(iters=5, start=2, last_iter=True)


def test_last_means_the_unit_of_its_event() -> None:
    @last
    def after_train_epoch(self: Any, runner: Any) -> None: ...

    assert declared_trigger(after_train_epoch) == Trigger(last_epoch=True)
    with pytest.raises(ValueError, match="after_run"):

        @last
        def after_run(self: Any, runner: Any) -> None: ...


@pytest.mark.parametrize("arguments", [{}, {"iters": -1}, {"epochs": 1.5}, {"iters": True}])
def test_every_takes_positive_ints(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="every"):
        every(**arguments)


def test_once_stands_alone() -> None:
    with pytest.raises(ValueError, match="once"):

        @once
        @every(iters=2)
        def after_train_iter(self: Any, runner: Any) -> None: ...


def test_decorated_methods_keep_their_name_and_docstring() -> None:
    class Documented(Hook):
        @every(iters=2)
        def after_train_iter(self, runner: Any) -> None:
            """What it does."""

    assert Documented.after_train_iter.__doc__ == "What it does."
    assert Documented().get_triggered_stages() == ["after_train_iter"]
