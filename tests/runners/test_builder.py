"""Runners from configs."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hookrun import (
    RUNNER_BUILDERS,
    RUNNERS,
    DefaultRunnerConstructor,
    EpochBasedRunner,
    IterBasedRunner,
    Runner,
    build_runner,
)
from tests.support import TinyModel


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_a_config_and_default_arguments_make_a_runner(kind: Any) -> None:
    model, limit = TinyModel(), "max_epochs" if kind is EpochBasedRunner else "max_iters"
    config = {"type": kind.__name__, limit: 3}
    defaults = {"model": model, "meta": {"seed": 1}, limit: 9}
    given = copy.copy(config), copy.copy(defaults)
    runner = build_runner(config, default_args=defaults)
    assert type(runner) is kind
    assert runner.model is model
    assert getattr(runner, limit) == 3
    assert runner.meta == {"seed": 1}
    assert (config, defaults) == given


def test_a_constructor_of_ones_own_builds_the_runner() -> None:
    class Doubling(DefaultRunnerConstructor):
        def __call__(self) -> Any:
            runner = super().__call__()
            runner._max_epochs *= 2
            return runner

    RUNNER_BUILDERS.register_module(module=Doubling)
    try:
        config = {"type": "EpochBasedRunner", "max_epochs": 3, "constructor": "Doubling"}
        runner = build_runner(config, {"model": TinyModel()})
        assert runner.max_epochs == 6
        assert config["constructor"] == "Doubling"
    finally:
        del RUNNER_BUILDERS.module_dict["Doubling"]


def test_a_runner_of_ones_own_is_built_by_name() -> None:
    class MyRunner(EpochBasedRunner):
        pass

    RUNNERS.register_module(module=MyRunner)
    try:
        assert type(build_runner({"type": "MyRunner", "model": TinyModel()})) is MyRunner
    finally:
        del RUNNERS.module_dict["MyRunner"]


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"model": None}, KeyError, "needs the key 'type'"),
        ({"type": "EpocBasedRunner"}, KeyError, "EpochBasedRunner"),
        ({"type": "EpochBasedRunner", "constructor": "DefaultConstructor"}, KeyError, "Default"),
        ({"type": 3}, TypeError, "'type' must be a name or a class"),
    ],
)
def test_a_config_that_names_nothing(config: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        build_runner(config)


def test_a_constructor_takes_a_dict() -> None:
    with pytest.raises(TypeError, match="runner_cfg must be a dict, not str"):
        DefaultRunnerConstructor("EpochBasedRunner")


def test_the_old_name_is_deprecated_and_works() -> None:
    with pytest.warns(DeprecationWarning, match="old name of EpochBasedRunner"):
        runner = Runner(TinyModel(), max_epochs=1)
    assert isinstance(runner, EpochBasedRunner)
