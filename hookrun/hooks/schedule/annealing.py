"""Schedules that anneal: the learning rate down to a minimum, the momentum to any value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hookrun import schedules
from hookrun.core.hook import HOOKS, starts_with_defaults
from hookrun.schedules import STRATEGIES, Policy, Target

from .. import _arguments as check
from .lr_updater import LrUpdaterHook
from .momentum_updater import MomentumUpdaterHook
from .settings import ScheduleSetting
from .steps import length_of_run


class AnnealingLrUpdaterHook(LrUpdaterHook):
    """Base class of the hooks that take the learning rate down to a minimum.

    Its arguments are those of `CosineAnnealingLrUpdaterHook`.
    """

    min_lr = ScheduleSetting()
    min_lr_ratio = ScheduleSetting()

    def __init__(
        self, min_lr: float | None = None, min_lr_ratio: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.min_lr = min_lr
        self.min_lr_ratio = min_lr_ratio
        self._target()

    def _target(self) -> Target:
        return check.target(self, "min_lr", max_ratio=1.0)


@HOOKS.register_module()
@starts_with_defaults(min_lr=0.0)
class CosineAnnealingLrUpdaterHook(AnnealingLrUpdaterHook):
    """Half a cosine wave over the run, from the initial learning rate down to the minimum.

    ``min + (base - min) / 2 * (1 + cos(pi * step / total))`` (arXiv:1608.03983).

    Args:
        min_lr: the minimum, or
        min_lr_ratio: the minimum as a fraction of the initial learning rate, in [0, 1]. Exactly one
            of the two.
        kwargs: see `LrUpdaterHook`.

    Different from MMCV: past the end of the run it stays at the minimum, where MMCV's rises again.
    """

    def make_policy(self) -> Policy:
        return schedules.CosineAnnealing(self._target())


@HOOKS.register_module()
@starts_with_defaults(min_lr=0.0)
class LinearAnnealingLrUpdaterHook(AnnealingLrUpdaterHook):
    """A straight line over the run: ``base + (min - base) * step / total``.

    The arguments are those of `CosineAnnealingLrUpdaterHook`.

    Different from MMCV: past the end of the run it stays at the minimum, where MMCV's falls on.
    """

    def make_policy(self) -> Policy:
        return schedules.LinearAnnealing(self._target())


@HOOKS.register_module()
@starts_with_defaults(min_lr=0.0)
class FlatCosineAnnealingLrUpdaterHook(AnnealingLrUpdaterHook):
    """The initial learning rate for the first part of the run, then half a cosine wave.

    Args:
        start_percent: the fraction of the run, in [0, 1], after which the learning rate falls;
            rounded to whole steps, half to even. It moves by up to half a step where the length of
            the run changes.
        min_lr, min_lr_ratio, kwargs: see `CosineAnnealingLrUpdaterHook`.

    Different from MMCV: past the end of the run it stays at the minimum, where MMCV's rises again
    or divides by zero.
    """

    start_percent = ScheduleSetting()

    def __init__(
        self,
        start_percent: float = 0.75,
        min_lr: float | None = None,
        min_lr_ratio: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(min_lr, min_lr_ratio, **kwargs)
        self.start_percent = start_percent
        self._check_arguments()

    def make_policy(self) -> Policy:
        return schedules.FlatCosineAnnealing(check.part(self, "start_percent"), self._target())


@HOOKS.register_module()
@starts_with_defaults(decay_ratio=0.0, min_lr=0.0)
class WSDLrUpdaterHook(AnnealingLrUpdaterHook):
    """Warm-up, stable, decay: the initial learning rate until a decay over the last steps.

    The schedule of MiniCPM (arXiv:2404.06395); new, MMCV has none like it. The warm-up is that of
    every schedule (``warmup="linear", warmup_iters=...``).

    Args:
        decay_steps: the last epochs or iterations of the run, which the decay takes, or
        decay_ratio: the decay's fraction of the run, in [0, 1]; rounded to whole steps, half to
            even. Exactly one of the two.
        anneal_strategy: the shape of the decay: ``"linear"``, ``"cos"`` or ``"1-sqrt"``, which
            falls fast first (arXiv:2405.18392).
        min_lr, min_lr_ratio, kwargs: see `CosineAnnealingLrUpdaterHook`.
    """

    decay_steps = ScheduleSetting()
    decay_ratio = ScheduleSetting()
    anneal_strategy = ScheduleSetting()

    def __init__(
        self,
        decay_steps: int | None = None,
        decay_ratio: float | None = None,
        anneal_strategy: str = "linear",
        min_lr: float | None = None,
        min_lr_ratio: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(min_lr, min_lr_ratio, **kwargs)
        self.decay_steps = decay_steps
        self.decay_ratio = decay_ratio
        self.anneal_strategy = anneal_strategy
        self._check_arguments()

    def make_policy(self) -> Policy:
        check.exactly_one(self, decay_steps="a positive int", decay_ratio="a fraction of the run")
        return schedules.WSD(
            0 if self.decay_steps is None else check.count(self, "decay_steps"),
            0.0 if self.decay_ratio is None else check.part(self, "decay_ratio"),
            check.choice(self, "anneal_strategy", STRATEGIES),
            self._target(),
        )


@HOOKS.register_module()
@starts_with_defaults(periods=[1], min_lr=0.0)
class CosineRestartLrUpdaterHook(AnnealingLrUpdaterHook):
    """Half a cosine wave down to the minimum, again and again (SGDR, arXiv:1608.03983).

    Args:
        periods: the steps that each wave lasts.
        restart_weights: where each wave starts: 0 is the minimum, 1 the initial learning rate.
        min_lr, min_lr_ratio, kwargs: see `CosineAnnealingLrUpdaterHook`.

    Raises:
        ValueError: in ``before_run``, the run is longer than all periods together. MMCV fails in
            the middle of the run, at the first step past them.
    """

    periods = ScheduleSetting()
    restart_weights = ScheduleSetting()

    def __init__(
        self,
        periods: Sequence[int],
        restart_weights: Sequence[float] = (1,),
        min_lr: float | None = None,
        min_lr_ratio: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(min_lr, min_lr_ratio, **kwargs)
        self.periods = periods
        self.restart_weights = restart_weights
        self._check_arguments()

    def make_policy(self) -> Policy:
        periods = check.counts(self, "periods")
        weights = check.numbers(self, "restart_weights")
        if len(periods) != len(weights):
            allowed = f"as long as periods, which has {len(periods)} entries"
            raise check.wrong(self, "restart_weights", allowed)
        return schedules.CosineRestart(periods, weights, self._target())

    def _check_run(self, runner: Any) -> None:
        super()._check_run(runner)
        total = length_of_run(runner, self.by_epoch)
        if total is not None and total > sum(self.periods):
            allowed = f"at least {total} steps together, as long as the run"
            raise check.wrong(self, "periods", allowed)


class AnnealingMomentumUpdaterHook(MomentumUpdaterHook):
    """Base class of the hooks that take the momentum to another value over the run.

    Its arguments are those of `CosineAnnealingMomentumUpdaterHook`.
    """

    min_momentum = ScheduleSetting()
    min_momentum_ratio = ScheduleSetting()

    def __init__(
        self,
        min_momentum: float | None = None,
        min_momentum_ratio: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.min_momentum = min_momentum
        self.min_momentum_ratio = min_momentum_ratio
        self._target()

    def _target(self) -> Target:
        return check.target(self, "min_momentum")


@HOOKS.register_module()
@starts_with_defaults(min_momentum=0.0)
class CosineAnnealingMomentumUpdaterHook(AnnealingMomentumUpdaterHook):
    """Half a cosine wave over the run, from the initial momentum to another value.

    Args:
        min_momentum: the momentum at the end of the run, or
        min_momentum_ratio: the same as a fraction of the initial momentum; it may be above 1.
            Exactly one of the two.
        kwargs: see `MomentumUpdaterHook`.

    Different from MMCV: past the end of the run the momentum stays where it is.
    """

    def make_policy(self) -> Policy:
        return schedules.CosineAnnealing(self._target())


@HOOKS.register_module()
@starts_with_defaults(min_momentum=0.0)
class LinearAnnealingMomentumUpdaterHook(AnnealingMomentumUpdaterHook):
    """A straight line over the run; the arguments of `CosineAnnealingMomentumUpdaterHook`.

    Different from MMCV: past the end of the run the momentum stays where it is.
    """

    def make_policy(self) -> Policy:
        return schedules.LinearAnnealing(self._target())
