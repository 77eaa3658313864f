"""Momentum schedules.

They set ``momentum`` of each parameter group, or ``betas[0]`` where a group has ``betas``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from hookrun import schedules
from hookrun.core.hook import HOOKS
from hookrun.schedules import Policy, Target

from .. import _arguments as check
from .groups import Groups, by_optimizer, map_groups, write
from .policies import step_policy
from .updater import ScheduleSetting, UpdaterHook


class MomentumUpdaterHook(UpdaterHook):
    """Base class of the momentum hooks: override :meth:`get_momentum`.

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
    value: ClassVar[Literal["lr", "momentum"]] = "momentum"
    _initial_key: ClassVar[str] = "initial_momentum"
    _formula: ClassVar[str] = "get_momentum"
    _replaced: ClassVar[tuple[str, ...]] = (
        *UpdaterHook._replaced,
        "get_momentum",
        "get_regular_momentum",
        "get_warmup_momentum",
        "_set_momentum",
    )

    def __init__(
        self,
        by_epoch: bool = True,
        warmup: str | None = None,
        warmup_iters: int = 0,
        warmup_ratio: float = 0.9,
    ) -> None:
        super().__init__(by_epoch, warmup, warmup_iters, warmup_ratio)

    @property
    def base_momentum(self) -> Groups:
        values: Groups = self._base
        return values

    @base_momentum.setter
    def base_momentum(self, values: Groups) -> None:
        self._base = values

    @property
    def regular_momentum(self) -> Groups:
        return self._latest

    @regular_momentum.setter
    def regular_momentum(self, values: Groups) -> None:
        self._regular = values

    def get_momentum(self, runner: Any, base_momentum: float) -> float:
        """The momentum of this step for a group that began with ``base_momentum``."""
        return self._value(runner, base_momentum)

    def get_regular_momentum(self, runner: Any) -> Groups:
        """The momentum of this step without warm-up."""
        if isinstance(runner.optimizer, dict):
            return {
                name: [self.get_momentum(runner, base) for base in self._base[name]]
                for name in runner.optimizer
            }
        return [self.get_momentum(runner, base) for base in self._base]

    def get_warmup_momentum(self, cur_iters: int) -> Groups:
        """``regular_momentum`` with the warm-up of the iteration."""
        factor = self._warmup().factor(cur_iters)
        return map_groups(self.regular_momentum, lambda momentum: momentum / factor)

    def _set_momentum(self, runner: Any, momentum_groups: Groups) -> None:
        for optimizer, values in by_optimizer(runner.optimizer, momentum_groups):
            for group, momentum in zip(optimizer.param_groups, values, strict=False):
                write_momentum(group, momentum)

    def _check_run(self, runner: Any) -> None:
        require_momentum(self, runner.optimizer)
        super()._check_run(runner)

    def _initial(self, group: dict[str, Any]) -> float:
        if "initial_momentum" not in group:
            group["initial_momentum"] = momentum_of(group)
        return float(group["initial_momentum"])

    def _initial_of_added(self, optimizer: Any, name: str | None, group: dict[str, Any]) -> float:
        require_momentum(self, optimizer)
        return super()._initial_of_added(optimizer, name, group)

    def _compute(self, runner: Any) -> Groups:
        return self.get_regular_momentum(runner)

    def _warm(self, iteration: int) -> Groups:
        return self.get_warmup_momentum(iteration)

    def _set(self, runner: Any, values: Groups) -> None:
        self._set_momentum(runner, values)


@HOOKS.register_module()
class StepMomentumUpdaterHook(MomentumUpdaterHook):
    """Multiplies the momentum by ``gamma`` at steps: ``base * gamma ** steps_reached``.

    Args:
        step: every so many steps (int), or at these steps (list, ascending).
        gamma: the factor, above 0.
        min_momentum: what the momentum does not fall below, or None for no limit.
        kwargs: see :class:`MomentumUpdaterHook`.

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


class AnnealingMomentumUpdaterHook(MomentumUpdaterHook):
    """Base class of the hooks that go to a momentum over the run, lower or higher.

    Args:
        min_momentum: where to go, or
        min_momentum_ratio: the same as a part of the initial momentum; it may be above 1. Exactly
            one of the two.
        kwargs: see :class:`MomentumUpdaterHook`.
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
class CosineAnnealingMomentumUpdaterHook(AnnealingMomentumUpdaterHook):
    """Half a cosine wave over the run; the arguments of :class:`AnnealingMomentumUpdaterHook`.

    Different from MMCV: past the end of the run the momentum stays where it is.
    """

    def make_policy(self) -> Policy:
        return schedules.CosineAnnealing(self._target())


@HOOKS.register_module()
class LinearAnnealingMomentumUpdaterHook(AnnealingMomentumUpdaterHook):
    """A straight line over the run; the arguments of :class:`AnnealingMomentumUpdaterHook`.

    Different from MMCV: past the end of the run the momentum stays where it is.
    """

    def make_policy(self) -> Policy:
        return schedules.LinearAnnealing(self._target())


def momentum_of(group: dict[str, Any]) -> float:
    """The momentum of a parameter group, under either of its names."""
    return float(group["momentum"] if "momentum" in group else group["betas"][0])


def write_momentum(group: dict[str, Any], momentum: float) -> None:
    """Set the momentum of a parameter group, under the name that it has there."""
    if "momentum" in group:
        write(group, "momentum", momentum)
    elif "betas" in group:
        first = {"betas": group["betas"][0]}
        write(first, "betas", momentum)
        group["betas"] = (first["betas"], *group["betas"][1:])


def require_momentum(hook: UpdaterHook, optimizer: Any) -> None:
    """Refuse optimizers that have no momentum.

    Raises:
        ValueError: a parameter group has neither ``momentum`` nor ``betas``.
    """
    for each in optimizer.values() if isinstance(optimizer, dict) else [optimizer]:
        if not all("momentum" in group or "betas" in group for group in each.param_groups):
            raise ValueError(
                f"{type(hook).__name__}: optimizer must have 'momentum' or 'betas' in its "
                f"parameter groups, such as SGD and Adam; {type(each).__name__} has neither"
            )
