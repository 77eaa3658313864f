"""IterBasedRunner trains each iteration in the mode that the model's own train() makes."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from hookrun import ClosureHook
from tests.support import TinyModel, make_loader

from .variants import ITER_VARIANTS, LOOPS, limits


@pytest.mark.parametrize("variant", LOOPS[2:])
@pytest.mark.parametrize("part", [lambda model: model, lambda model: model.fc])
def test_modules_left_in_evaluation_mode_train_again_at_the_next_iteration(
    make_runner: Any, variant: Any, part: Any
) -> None:
    modes = []

    class Model(TinyModel):
        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            modes.append((self.training, self.fc.training))
            return super().train_step(data_batch)

    runner = make_runner(variant[0], model=Model(), max_iters=3)
    runner.register_hook(ClosureHook("after_train_iter", lambda r: part(r.model).eval()))
    runner.run([make_loader(2)], [("train", 3)])
    assert modes == [(True, True)] * 3


def _unfreeze(model: nn.Module) -> None:
    model.frozen.train()


def _add_child(model: nn.Module) -> None:
    model.fc.extra = nn.Linear(1, 1).eval()


def _replace_child(model: nn.Module) -> None:
    model.other = nn.Linear(1, 1).eval()


@pytest.mark.parametrize("change", [_unfreeze, _add_child, _replace_child])
@pytest.mark.parametrize("variant", LOOPS[2:])
def test_a_hooks_change_is_put_right_as_the_models_own_train_does(
    make_runner: Any, variant: Any, change: Any
) -> None:
    """A model may keep modules in evaluation mode, and get others."""
    modes = []

    class Model(TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.other = nn.BatchNorm1d(1), nn.Linear(1, 1)

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.frozen.eval()
            return self

        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            modes.append({name for name, each in self.named_modules() if not each.training})
            return super().train_step(data_batch)

    def hook(runner: Any) -> None:
        if runner.iter == 1:
            change(runner.model)

    runner = make_runner(variant[0], model=Model(), max_iters=4)
    runner.register_hook(ClosureHook("after_train_iter", hook))
    runner.run([make_loader(2)], [("train", 4)])
    assert modes == [{"frozen"}] * 4


def test_a_part_that_a_step_leaves_in_evaluation_mode_trains_again_soon(make_runner: Any) -> None:
    modes = []

    class Model(TinyModel):
        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            modes.append(self.fc.training)
            if len(modes) == 3:
                self.fc.eval()
            return super().train_step(data_batch)

    model = Model()
    runner = make_runner(ITER_VARIANTS["native"][0], model=model, max_iters=12)
    runner.run([make_loader(2)], [("train", 1)])
    modules = len(list(model.modules()))
    assert modes[:3] == [True] * 3
    assert all(modes[3 + modules :])


@pytest.mark.parametrize("variant", LOOPS)
def test_modules_that_the_model_keeps_in_evaluation_mode_stay_there(
    make_runner: Any, variant: Any
) -> None:
    modes = []

    class Model(TinyModel):
        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.fc.eval()
            return self

        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            modes.append((self.training, self.fc.training))
            return super().train_step(data_batch)

    runner = make_runner(variant[0], model=Model(), **limits(variant[0], epochs=1, batches=3))
    runner.run([make_loader(3)], [("train", 3)])
    assert modes == [(True, False)] * 3
