"""Momentum schedules.

They set ``momentum`` of each parameter group, or ``betas[0]`` where a group has ``betas``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from hookrun.core.hook import HOOKS, starts_with_defaults
from hookrun.schedules import Policy

from .groups import Groups
from .policies import step_policy
from .settings import MmcvName, ScheduleSetting
from .updater import UpdaterHook
from .values import MOMENTUM


@starts_with_defaults()
class MomentumUpdaterHook(UpdaterHook):
    """Base class of the momentum hooks: override `get_momentum`.

    The momentum of each parameter group follows from its initial one (``initial_momentum`` of the
    group, which is what the group has at the start of the first run).

    Args:
        by_epoch: whether the schedule counts epochs (True) or iterations.
        warmup: ``"constant"``, ``"linear"``, ``"exp"``, or None for no warm-up.
        warmup_iters: iterations that the warm-up lasts.
        warmup_ratio: the momentum is divided by the warm-up's factor, which starts at this, in
            (0, 1]: a warm-up begins with more momentum than the schedule's.

    Attributes:
        base_momentum: the initial momentum of each group; for a dict of optimizers, such lists by
            name.
        regular_momentum: the momentum of the latest step without warm-up, in the same form.

    Raises:
        ValueError, TypeError: a wrong argument; the message names it and what is allowed. An
            optimizer without momentum is refused in ``before_run``.

    Different from MMCV: where ``betas`` has more than two entries, all but the first are kept.
    """

    writes: ClassVar[frozenset[str]] = frozenset({"momentum"})
    value = MOMENTUM
    _native_replaces: ClassVar[tuple[str, ...]] = (
        *UpdaterHook._native_replaces,
        "get_momentum",
        "get_regular_momentum",
        "get_warmup_momentum",
        "_set_momentum",
    )

    base_momentum = MmcvName("_base_values")
    regular_momentum = MmcvName("_latest")

    def __init__(
        self,
        by_epoch: bool = True,
        warmup: str | None = None,
        warmup_iters: int = 0,
        warmup_ratio: float = 0.9,
    ) -> None:
        super().__init__(by_epoch, warmup, warmup_iters, warmup_ratio)

    def get_momentum(self, runner: Any, base_momentum: float) -> float:
        """The momentum of this step for a group that began with ``base_momentum``."""
        return self._formula_of(runner, base_momentum)

    def get_regular_momentum(self, runner: Any) -> Groups:
        """The momentum of this step without warm-up."""
        return self._regular_of(runner)

    def get_warmup_momentum(self, cur_iters: int) -> Groups:
        """``regular_momentum`` with the warm-up of the iteration."""
        return self._warmed(cur_iters)

    def _set_momentum(self, runner: Any, momentum_groups: Groups) -> None:
        self._write(runner, momentum_groups)

    def _check_run(self, runner: Any) -> None:
        self._require_momentum(runner.optimizer)
        super()._check_run(runner)

    def _initial_of_added(self, optimizer: Any, name: str | None, group: dict[str, Any]) -> float:
        self._require_momentum(optimizer)
        return super()._initial_of_added(optimizer, name, group)

    def _require_momentum(self, optimizer: Any) -> None:
        """Refuse optimizers that have no momentum.

        Raises:
            ValueError: a parameter group has neither ``momentum`` nor ``betas``.
        """
        for each in optimizer.values() if isinstance(optimizer, dict) else [optimizer]:
            if not all("momentum" in group or "betas" in group for group in each.param_groups):
                raise ValueError(
                    f"{type(self).__name__}: optimizer must have 'momentum' or 'betas' in its "
                    f"parameter groups, such as SGD and Adam; {type(each).__name__} has neither"
                )


@HOOKS.register_module()
@starts_with_defaults(step=1)
class StepMomentumUpdaterHook(MomentumUpdaterHook):
    """Multiplies the momentum by ``gamma`` at steps: ``base * gamma ** steps_reached``.

    Args:
        step: every so many steps (int), or at these steps (list, ascending).
        gamma: the factor, above 0.
        min_momentum: what the momentum does not fall below, or None for no limit.
        kwargs: see `MomentumUpdaterHook`.

    Different from MMCV: steps out of order are refused, where MMCV skips some.
    """

    step = ScheduleSetting()
    gamma = ScheduleSetting()
    min_momentum = ScheduleSetting()

    def __init__(
        self,
        step: int | Sequence[int],
        gamma: float = 0.5,
        min_momentum: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.step = step
        self.gamma = gamma
        self.min_momentum = min_momentum
        self._check_arguments()

    def make_policy(self) -> Policy:
        return step_policy(self, "min_momentum")
