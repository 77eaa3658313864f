"""Phases of one kind share one native loop in IterBasedRunner, and nothing else is seen of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hookrun import Hook, _native
from tests.support import TinyModel, make_loader

from .variants import ITER_VARIANTS

NATIVE, PYTHON = ITER_VARIANTS["native"][0], ITER_VARIANTS["train and val"][0]


class Seen(Hook):
    """What hooks see at each event of an iteration; puts another loader in at one of them."""

    def __init__(self, replace_at: int | None, phase: int, longer: int = 5) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.replace_at = replace_at
        self.phase = phase
        self.longer = longer

    def before_train_iter(self, runner: Any) -> None:
        self.note(runner, "before")
        if self.phase == 1:
            runner.mode = "other"  # the next phase puts it right

    def after_train_iter(self, runner: Any) -> None:
        self.note(runner, "after")
        if runner.iter == self.replace_at:
            runner.data_loader = make_loader(self.longer)

    def note(self, runner: Any, event: str) -> None:
        progress = runner.progress
        self.rows.append(
            (
                *(event, runner.epoch, runner.iter, runner.inner_iter, runner.mode),
                *(runner.epoch_length, progress.phase, runner.model.training),
            )
        )


class Counting(TinyModel):
    """Counts the calls of ``train()``."""

    calls = 0

    def train(self, mode: bool = True) -> Any:
        self.calls += 1
        return super().train(mode)


def run(make_runner: Any, kind: Any, phase: int, hook: Seen, iters: int = 11) -> list[Any]:
    runner = make_runner(kind, max_iters=iters)
    runner.register_hook(hook)
    runner.run([make_loader(4)], [("train", phase)])
    assert runner.iter == iters
    return hook.rows


@pytest.mark.parametrize("replace_at", [None, 0, 2, 3, 4, 7])
@pytest.mark.parametrize("phase", [1, 2, 3, 4, 7, 20])
def test_hooks_see_what_they_see_without_it(
    make_runner: Any, phase: int, replace_at: int | None
) -> None:
    native = run(make_runner, NATIVE, phase, Seen(replace_at, phase))
    assert native == run(make_runner, PYTHON, phase, Seen(replace_at, phase))
    assert [row[3] for row in native[::2]] == [i % phase for i in range(11)]


def test_one_loop_lasts_as_long_as_the_epoch_of_its_loader(
    make_runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = []
    begin = _native.run_iters

    def count(*arguments: Any) -> int:
        loops.append(arguments)
        return begin(*arguments)

    monkeypatch.setattr(_native, "run_iters", count)
    model = Counting()
    runner = make_runner(NATIVE, model=model, max_iters=40)
    runner.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.calls = 0
    runner.run([make_loader(20)], [("train", 1)])
    assert runner.iter == 40
    assert len(loops) <= 4
    assert model.calls <= 4 * len(list(model.modules()))
