"""Learning-rate schedules.

The formulas are those of `hookrun.schedules`; "step" in a class's description is the epoch or
iteration, counted from 0, and "total" the epochs or iterations of the run.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

from hookrun import schedules
from hookrun.core.hook import HOOKS, starts_with_defaults
from hookrun.schedules import Policy

from .. import _arguments as check
from .groups import Groups
from .policies import step_policy
from .settings import MmcvName, ScheduleSetting
from .steps import require_epochs, unknown
from .updater import UpdaterHook
from .values import LEARNING_RATE


@starts_with_defaults()
class LrUpdaterHook(UpdaterHook):
    """Base class of the learning-rate hooks: override `get_lr`.

    The learning rate of each parameter group follows from its initial one (``initial_lr`` of the
    group, which is ``lr`` at the start of the first run and travels with the optimizer's state).

    Args:
        by_epoch: whether the schedule counts epochs (True) or iterations.
        warmup: ``"constant"``, ``"linear"``, ``"exp"``, or None for no warm-up.
        warmup_iters: iterations that the warm-up lasts, or epochs with ``warmup_by_epoch``.
        warmup_ratio: the warm-up's first factor on the learning rate, in (0, 1].
        warmup_by_epoch: whether ``warmup_iters`` counts epochs.

    Attributes:
        base_lr: the initial learning rate of each group; for a dict of optimizers, such lists by
            name.
        regular_lr: the learning rates of the latest step without warm-up, in the same form.

    Raises:
        ValueError, TypeError: a wrong argument; the message names it and what is allowed. What
            takes a runner to know is checked in ``before_run``.

    Different from MMCV: a group whose initial learning rate is 0, as that of a frozen layer, stays
    at 0 under every policy, where MMCV raises it towards ``min_lr`` (a ``get_lr`` of your own
    decides for itself); a tensor learning rate is filled and stays the same tensor; ``by_epoch``
    and ``warmup_by_epoch`` are refused in runs without epochs, where MMCV changes nothing or fails
    at the first iteration.
    """

    writes: ClassVar[frozenset[str]] = frozenset({"learning_rate"})
    value = LEARNING_RATE
    _native_replaces: ClassVar[tuple[str, ...]] = (
        *UpdaterHook._native_replaces,
        "get_lr",
        "get_regular_lr",
        "get_warmup_lr",
        "_set_lr",
    )

    warmup_by_epoch = ScheduleSetting()
    base_lr = MmcvName("_base_values")
    regular_lr = MmcvName("_latest")

    def __init__(
        self,
        by_epoch: bool = True,
        warmup: str | None = None,
        warmup_iters: int = 0,
        warmup_ratio: float = 0.1,
        warmup_by_epoch: bool = False,
    ) -> None:
        super().__init__(by_epoch, warmup, warmup_iters, warmup_ratio)
        self.warmup_by_epoch = warmup_by_epoch
        self.warmup_epochs: int | None = None
        if check.flag(self, "warmup_by_epoch"):
            # Known once there is a loader.
            self.warmup_epochs, self.warmup_iters = warmup_iters, None

    def get_lr(self, runner: Any, base_lr: float) -> float:
        """The learning rate of this step for a group that began with ``base_lr``; 0 stays 0."""
        return self._formula_of(runner, base_lr) if base_lr != 0.0 else 0.0

    def get_regular_lr(self, runner: Any) -> Groups:
        """The learning rates of this step without warm-up."""
        return self._regular_of(runner)

    def get_warmup_lr(self, cur_iters: int) -> Groups:
        """``regular_lr`` with the warm-up of the iteration."""
        return self._warmed(cur_iters)

    def _set_lr(self, runner: Any, lr_groups: Groups) -> None:
        self._write(runner, lr_groups)

    def _check_run(self, runner: Any) -> None:
        super()._check_run(runner)
        if self.warmup is None or self.warmup_epochs is None:
            return
        require_epochs(self, runner, "warmup_by_epoch")
        if unknown(runner, "max_iters"):
            raise ValueError(
                f"{type(self).__name__}: warmup_by_epoch must be False where the data loader has "
                "no length, not True"
            )

    def before_run(self, runner: Any) -> None:
        super().before_run(runner)
        if not self._overrides("get_lr", "get_regular_lr"):
            self._warn_if_all_zero()

    def before_train_epoch(self, runner: Any) -> None:
        if self.warmup_iters is None and self.warmup is not None:
            epochs = self.warmup_epochs or 0
            iterations = epochs * len(runner.data_loader)
            # Epochs may have been shorter: those of the warm-up that are over stay so. This is a
            # note of the run and no new argument.
            vars(self)["warmup_iters"] = (
                iterations if runner.epoch < epochs else min(iterations, runner.iter)
            )
        super().before_train_epoch(runner)

    def _warn_if_all_zero(self) -> None:
        """Warn where every group begins with a learning rate of 0: nothing would train."""
        base = self._base
        values = [lr for part in base.values() for lr in part] if isinstance(base, dict) else base
        if values and not any(values):
            warnings.warn(
                f"{type(self).__name__}: the initial learning rate of every parameter group is 0, "
                "and a schedule leaves 0 as it is, so nothing will train: give the optimizer a "
                "learning rate above 0",
                stacklevel=3,
            )


@HOOKS.register_module()
@starts_with_defaults()
class FixedLrUpdaterHook(LrUpdaterHook):
    """The initial learning rate throughout, but for warm-up."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def make_policy(self) -> Policy:
        return schedules.Fixed()

    def _check_run(self, runner: Any) -> None:
        if self.warmup is not None:  # else nothing is counted, and every run will do
            super()._check_run(runner)


@HOOKS.register_module()
@starts_with_defaults(step=1)
class StepLrUpdaterHook(LrUpdaterHook):
    """Multiplies the learning rate by ``gamma`` at steps: ``base * gamma ** steps_reached``.

    Args:
        step: every so many steps (int), or at these steps (list, ascending).
        gamma: the factor, above 0.
        min_lr: what the learning rate does not fall below, or None for no limit.
        kwargs: see `LrUpdaterHook`.

    Different from MMCV: steps out of order are refused, where MMCV skips some.
    """

    step = ScheduleSetting()
    gamma = ScheduleSetting()
    min_lr = ScheduleSetting()

    def __init__(
        self,
        step: int | Sequence[int],
        gamma: float = 0.1,
        min_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.step = step
        self.gamma = gamma
        self.min_lr = min_lr
        self._check_arguments()

    def make_policy(self) -> Policy:
        return step_policy(self, "min_lr")


@HOOKS.register_module()
@starts_with_defaults(gamma=1.0)
class ExpLrUpdaterHook(LrUpdaterHook):
    """Multiplies the learning rate by ``gamma`` at every step: ``base * gamma ** step``.

    Args:
        gamma: the factor, above 0.
        kwargs: see `LrUpdaterHook`.
    """

    gamma = ScheduleSetting()

    def __init__(self, gamma: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gamma = gamma
        self._check_arguments()

    def make_policy(self) -> Policy:
        return schedules.Exp(check.positive(self, "gamma"))


@HOOKS.register_module()
@starts_with_defaults()
class PolyLrUpdaterHook(LrUpdaterHook):
    """A polynomial down to the minimum: ``(base - min) * (1 - step / total) ** power + min``.

    Args:
        power: the exponent, at least 0.
        min_lr: the minimum.
        kwargs: see `LrUpdaterHook`.

    Different from MMCV: past the end of the run it stays at the minimum, where MMCV's falls below
    it or becomes a complex number.
    """

    power = ScheduleSetting()
    min_lr = ScheduleSetting()

    def __init__(self, power: float = 1.0, min_lr: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.power = power
        self.min_lr = min_lr
        self._check_arguments()

    def make_policy(self) -> Policy:
        return schedules.Poly(check.not_negative(self, "power"), check.not_negative(self, "min_lr"))


@HOOKS.register_module()
@starts_with_defaults(gamma=1.0)
class InvLrUpdaterHook(LrUpdaterHook):
    """Falls with the inverse of the step: ``base * (1 + gamma * step) ** -power``.

    Args:
        gamma: the pace, at least 0.
        power: the exponent.
        kwargs: see `LrUpdaterHook`.
    """

    gamma = ScheduleSetting()
    power = ScheduleSetting()

    def __init__(self, gamma: float, power: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gamma = gamma
        self.power = power
        self._check_arguments()

    def make_policy(self) -> Policy:
        return schedules.Inv(check.not_negative(self, "gamma"), check.any_number(self, "power"))
