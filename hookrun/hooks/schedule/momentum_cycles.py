"""Momentum schedules that fall and rise, counterparts of those of the learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from hookrun.core.hook import HOOKS
from hookrun.schedules import OneCycle, Policy

from .. import _arguments as check
from .groups import Groups, each_group, pick
from .momentum_updater import (
    MomentumUpdaterHook,
    momentum_of,
    require_momentum,
    write_momentum,
)
from .policies import by_iteration_only, check_cycles_fit, cyclic_policy
from .updater import ScheduleSetting


@HOOKS.register_module()
class CyclicMomentumUpdaterHook(MomentumUpdaterHook):
    """Cycles from the initial momentum to the lowest to the highest (arXiv:1708.07120).

    The counterpart of :class:`CyclicLrUpdaterHook`.

    Args:
        by_epoch: must be False; the policy counts iterations.
        target_ratio: the lowest and the highest momentum as parts of the initial one; a single
            number is the first, and the other a 100,000th of it.
        cyclic_times: cycles in the run. Where the run is no multiple of them, another one begins.
        step_ratio_up: the part of a cycle that goes to the lowest momentum, in [0, 1).
        anneal_strategy: ``"cos"`` or ``"linear"``.
        gamma: the distance of the lowest from the initial momentum is multiplied by it from cycle
            to cycle; in (0, 1].
        kwargs: see :class:`MomentumUpdaterHook`.

    Different from MMCV: ``gamma`` outside of its range is refused here too; and where no iteration
    of a cycle goes to the lowest momentum, ``gamma`` still acts on that.
    """

    target_ratio = ScheduleSetting()
    cyclic_times = ScheduleSetting()
    step_ratio_up = ScheduleSetting()
    anneal_strategy = ScheduleSetting()
    gamma = ScheduleSetting()

    def __init__(
        self,
        by_epoch: bool = False,
        target_ratio: float | Sequence[float] = (0.85 / 0.95, 1.0),
        cyclic_times: int = 1,
        step_ratio_up: float = 0.4,
        anneal_strategy: str = "cos",
        gamma: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(by_epoch, **kwargs)
        self.target_ratio = target_ratio
        self.cyclic_times = cyclic_times
        self.step_ratio_up = step_ratio_up
        self.anneal_strategy = anneal_strategy
        self.gamma = gamma
        by_iteration_only(self)
        self._check_arguments()

    def make_policy(self) -> Policy:
        return cyclic_policy(self)

    def _check_run(self, runner: Any) -> None:
        super()._check_run(runner)
        check_cycles_fit(self, self._length(runner))


@HOOKS.register_module()
class OneCycleMomentumUpdaterHook(MomentumUpdaterHook):
    """Down to ``base_momentum`` while the learning rate goes up, and back (arXiv:1708.07120).

    The counterpart of :class:`OneCycleLrUpdaterHook`. Every parameter group remembers its two
    momenta, as in torch, under ``base_momentum`` and ``max_momentum``.

    Args:
        base_momentum: the lowest momentum, in [0, 1]: a number, a list with one per parameter
            group, or a dict of these by the optimizers' names (the class's name for a single one).
        max_momentum: the highest momentum, in (0, 1], where the cycle begins and ends; in the same
            form. Lists are of the groups at the start of the run: one that is added later has its
            own momentum as the highest, and the lowest in the same proportion as the first group.
        pct_start: the part of the run that goes down, in [0, 1].
        anneal_strategy: ``"cos"`` or ``"linear"``.
        three_phase: whether to be back in as many steps as it takes to go down.
        kwargs: see :class:`MomentumUpdaterHook`; ``by_epoch`` must be False, the default here.

    Different from MMCV: a way down of a single iteration starts at ``base_momentum``, where MMCV
    divides by zero; past the end of the run the momentum stays where it is.
    """

    _base_momentum = ScheduleSetting()
    _max_momentum = ScheduleSetting()
    pct_start = ScheduleSetting()
    anneal_strategy = ScheduleSetting()
    three_phase = ScheduleSetting()

    def __init__(
        self,
        base_momentum: float | Sequence[float] | Mapping[str, Any] = 0.85,
        max_momentum: float | Sequence[float] | Mapping[str, Any] = 0.95,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        three_phase: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"by_epoch": False, **kwargs})
        self._base_momentum = base_momentum
        self._max_momentum = max_momentum
        self.pct_start = pct_start
        self.anneal_strategy = anneal_strategy
        self.three_phase = three_phase
        by_iteration_only(self)
        check.group_numbers(self, "_base_momentum")
        check.group_numbers(self, "_max_momentum")
        self._check_arguments()

    def make_policy(self) -> OneCycle:
        """The cycle but for its depth, which may differ from group to group."""
        return OneCycle(
            check.part(self, "pct_start"),
            peak=1.0,
            end=1.0,
            strategy=check.choice(self, "anneal_strategy", ("cos", "linear")),
            three_phase=check.flag(self, "three_phase"),
        )

    def _initials(self, optimizer: Any, name: str | None) -> list[float]:
        low = check.per_group(
            self, "_base_momentum", optimizer, name, 1.0, positive=False, added="base_momentum"
        )
        high = check.per_group(self, "_max_momentum", optimizer, name, 1.0, added="max_momentum")
        groups = optimizer.param_groups
        _note_initial(self, groups)
        for group, momentum in zip(groups, low, strict=False):
            group["base_momentum"] = momentum
        for group, momentum in zip(groups, high, strict=False):
            group["max_momentum"] = momentum
        for group in groups:
            write_momentum(group, group["max_momentum"])
        return [float(group["max_momentum"]) for group in groups]

    def _initial_of_added(self, optimizer: Any, name: str | None, group: dict[str, Any]) -> float:
        require_momentum(self, optimizer)
        low = check.for_optimizer(self, "_base_momentum", optimizer, name)
        high = check.for_optimizer(self, "_max_momentum", optimizer, name)
        _note_initial(self, [group])
        first_low, first_high = (each if check.is_real(each) else each[0] for each in (low, high))
        if check.is_real(high):
            group["max_momentum"] = float(high)
        else:
            group.setdefault("max_momentum", momentum_of(group))
        if check.is_real(low):
            group["base_momentum"] = float(low)
        else:
            group.setdefault("base_momentum", group["max_momentum"] * first_low / first_high)
        return float(group["max_momentum"])

    def get_momentum(self, runner: Any, param_group: dict[str, Any]) -> float:  # type: ignore[override]
        """The momentum of this step for a parameter group; reads the group's two momenta."""
        high = param_group["max_momentum"]
        policy = self._cycle(param_group["base_momentum"], high)
        return policy(high, self._steps(runner)[0], self._total(runner))

    def get_regular_momentum(self, runner: Any) -> Groups:
        return each_group(
            runner.optimizer,
            lambda optimizer, _: [
                self.get_momentum(runner, group) for group in optimizer.param_groups
            ],
        )

    def _cycle(self, low: float, high: float) -> Policy:
        return replace(cast(OneCycle, self.policy), peak=low / high if high else 1.0)

    def _goes_native(self) -> bool:
        return self._known is not None and super()._goes_native()

    def _native_policies(self) -> Any:
        def cycles(name: str | None) -> list[Any]:
            momenta = zip(pick(self._known, name), pick(self._base, name), strict=True)
            return [self._cycle(group["base_momentum"], high).native() for group, high in momenta]

        if isinstance(self._base, dict):
            return {name: cycles(name) for name in self._base}
        return cycles(None)


def _note_initial(hook: MomentumUpdaterHook, groups: Iterable[dict[str, Any]]) -> None:
    """Let groups remember what they were given, for schedules that come after the cycle."""
    for group in groups:
        if "max_momentum" not in group:  # else it is in a cycle already
            hook._initial(group)
