"""Schedules that go up and down again: cyclic ones, and the single cycle.

Each comes as a learning-rate hook and as a momentum hook; what the two share is their base class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from hookrun import schedules
from hookrun.core.hook import HOOKS, starts_with_defaults
from hookrun.schedules import OneCycle, Policy

from .. import _arguments as check
from .groups import Groups, each_group, pick
from .lr_updater import LrUpdaterHook
from .momentum_updater import MomentumUpdaterHook
from .settings import ScheduleSetting
from .steps import length_of_run, steps_done, total_steps
from .updater import UpdaterHook
from .values import momentum_of, write_momentum

Numbers = float | Sequence[float] | Mapping[str, Any]


class _Cyclic(UpdaterHook):
    """What the two cyclic hooks share."""

    target_ratio = ScheduleSetting()
    cyclic_times = ScheduleSetting()
    step_ratio_up = ScheduleSetting()
    anneal_strategy = ScheduleSetting()
    gamma = ScheduleSetting()

    def __init__(
        self,
        by_epoch: bool,
        target_ratio: float | Sequence[float],
        cyclic_times: int,
        step_ratio_up: float,
        anneal_strategy: str,
        gamma: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(by_epoch, **kwargs)
        self.target_ratio = target_ratio
        self.cyclic_times = cyclic_times
        self.step_ratio_up = step_ratio_up
        self.anneal_strategy = anneal_strategy
        self.gamma = gamma
        _refuse_epochs(self)
        self._check_arguments()

    def make_policy(self) -> Policy:
        return schedules.Cyclic(
            *check.peak_and_end(self, "target_ratio"),
            times=check.count(self, "cyclic_times"),
            up=check.part(self, "step_ratio_up", below_one=True),
            strategy=check.choice(self, "anneal_strategy", ("cos", "linear")),
            gamma=check.positive(self, "gamma", high=1.0),
        )

    def _check_run(self, runner: Any) -> None:
        super()._check_run(runner)
        total = length_of_run(runner, self.by_epoch)
        if total is not None and self.cyclic_times > total:
            raise check.wrong(self, "cyclic_times", f"at most {total}, the iterations of the run")


@HOOKS.register_module()
@starts_with_defaults()
class CyclicLrUpdaterHook(_Cyclic, LrUpdaterHook):
    """Cycles from the initial learning rate to the highest to the lowest (arXiv:1506.01186).

    Args:
        by_epoch: must be False; the policy counts iterations.
        target_ratio: the highest and the lowest learning rate as multiples of the initial one; a
            single number is the highest, and the lowest a 100,000th of it.
        cyclic_times: cycles in the run. Where the run is no multiple of them, another one begins.
        step_ratio_up: the fraction of a cycle that goes up, in [0, 1).
        anneal_strategy: ``"cos"`` or ``"linear"``.
        gamma: the distance of the highest from the initial learning rate is multiplied by it from
            cycle to cycle; in (0, 1].
        kwargs: see `LrUpdaterHook`.

    Different from MMCV: where no iteration of a cycle goes up, ``gamma`` still acts on the highest
    learning rate; MMCV applies it to the lowest.
    """

    def __init__(
        self,
        by_epoch: bool = False,
        target_ratio: float | Sequence[float] = (10, 1e-4),
        cyclic_times: int = 1,
        step_ratio_up: float = 0.4,
        anneal_strategy: str = "cos",
        gamma: float = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            by_epoch, target_ratio, cyclic_times, step_ratio_up, anneal_strategy, gamma, **kwargs
        )


@HOOKS.register_module()
@starts_with_defaults()
class CyclicMomentumUpdaterHook(_Cyclic, MomentumUpdaterHook):
    """Cycles from the initial momentum to the lowest to the highest (arXiv:1708.07120).

    The counterpart of `CyclicLrUpdaterHook`.

    Args:
        by_epoch: must be False; the policy counts iterations.
        target_ratio: the lowest and the highest momentum as multiples of the initial one; a single
            number is the first, and the other a 100,000th of it.
        cyclic_times: cycles in the run. Where the run is no multiple of them, another one begins.
        step_ratio_up: the fraction of a cycle that goes to the lowest momentum, in [0, 1).
        anneal_strategy: ``"cos"`` or ``"linear"``.
        gamma: the distance of the lowest from the initial momentum is multiplied by it from cycle
            to cycle; in (0, 1].
        kwargs: see `MomentumUpdaterHook`.

    Different from MMCV: ``gamma`` outside of its range is refused here too; and where no iteration
    of a cycle goes to the lowest momentum, ``gamma`` still acts on that.
    """

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
        super().__init__(
            by_epoch, target_ratio, cyclic_times, step_ratio_up, anneal_strategy, gamma, **kwargs
        )


class _OneCycle(UpdaterHook):
    """What the two hooks with a single cycle share."""

    pct_start = ScheduleSetting()
    anneal_strategy = ScheduleSetting()
    three_phase = ScheduleSetting()

    def __init__(
        self, pct_start: float, anneal_strategy: str, three_phase: bool, **kwargs: Any
    ) -> None:
        super().__init__(**{"by_epoch": False, **kwargs})
        self.pct_start = pct_start
        self.anneal_strategy = anneal_strategy
        self.three_phase = three_phase
        _refuse_epochs(self)

    def _cycle(self, **fields: Any) -> OneCycle:
        return OneCycle(
            check.part(self, "pct_start"),
            strategy=check.choice(self, "anneal_strategy", ("cos", "linear")),
            three_phase=check.flag(self, "three_phase"),
            **fields,
        )


@HOOKS.register_module()
@starts_with_defaults(max_lr=1.0)
class OneCycleLrUpdaterHook(_OneCycle, LrUpdaterHook):
    """Up to ``max_lr``, then down far below the initial learning rate (arXiv:1708.07120).

    The values are those of ``torch.optim.lr_scheduler.OneCycleLR``. The initial learning rate is
    ``max_lr / div_factor``, whatever the optimizer was made with, but for groups whose learning
    rate was 0: they stay at 0, as under every policy.

    Args:
        max_lr: the highest learning rate: a number, a list with one per parameter group, or a dict
            of these by the optimizers' names (the class's name for a single optimizer). A list is
            of the groups at the start of the run: one that is added later begins with its own
            learning rate and goes up to ``div_factor`` times that.
        total_steps: iterations of the schedule, at least those of the run; those by default.
        pct_start: the fraction of the schedule that goes up, in [0, 1].
        anneal_strategy: ``"cos"`` or ``"linear"``.
        div_factor: ``max_lr`` is divided by it at the start.
        final_div_factor: the initial learning rate is divided by it at the end.
        three_phase: whether to come back to the initial learning rate in as many steps as it takes
            to go up, and only then go below.
        kwargs: see `LrUpdaterHook`; ``by_epoch`` must be False, which is the default here.

    Different from MMCV: a schedule that goes up in a single iteration starts at ``max_lr``, where
    MMCV and torch divide by zero; past the end the learning rate stays as it is, where MMCV fails.
    """

    max_lr = ScheduleSetting()
    total_steps = ScheduleSetting()
    div_factor = ScheduleSetting()
    final_div_factor = ScheduleSetting()

    def __init__(
        self,
        max_lr: Numbers,
        total_steps: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(pct_start, anneal_strategy, three_phase, **kwargs)
        self.max_lr = max_lr
        self.total_steps = total_steps
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        check.group_numbers(self, "max_lr")
        self._check_arguments()

    def make_policy(self) -> Policy:
        return self._cycle(
            peak=check.positive(self, "div_factor"),
            end=1.0 / check.positive(self, "final_div_factor"),
            total_steps=0 if self.total_steps is None else check.count(self, "total_steps"),
        )

    def _initials(self, optimizer: Any, name: str | None) -> list[float]:
        groups = optimizer.param_groups
        peaks = check.per_group(self, "max_lr", optimizer, name, added="initial_lr")
        added = groups[len(peaks) :]  # by the run that is resumed
        return [*map(self._initial_below, groups, peaks), *map(self._initial, added)]

    def _initial_of_added(self, optimizer: Any, name: str | None, group: dict[str, Any]) -> float:
        peak = check.for_optimizer(self, "max_lr", optimizer, name)
        return self._initial_below(group, peak) if check.is_real(peak) else self._initial(group)

    def _initial_below(self, group: dict[str, Any], peak: float) -> float:
        """Where a group's schedule starts that climbs to the peak, unless the group is frozen."""
        frozen = float(group.get("initial_lr", group["lr"])) == 0.0
        initial = 0.0 if frozen else peak / self.div_factor
        group.setdefault("initial_lr", initial)
        return initial

    def _check_run(self, runner: Any) -> None:
        super()._check_run(runner)
        total = length_of_run(runner, self.by_epoch)
        if self.total_steps is not None and total is not None and self.total_steps < total:
            raise check.wrong(self, "total_steps", f"at least the {total} iterations of the run")


@HOOKS.register_module()
@starts_with_defaults()
class OneCycleMomentumUpdaterHook(_OneCycle, MomentumUpdaterHook):
    """Down to ``base_momentum`` while the learning rate goes up, and back (arXiv:1708.07120).

    The counterpart of `OneCycleLrUpdaterHook`. Every parameter group remembers its two
    momenta, as in torch, under ``base_momentum`` and ``max_momentum``.

    Args:
        base_momentum: the lowest momentum, in [0, 1]: a number, a list with one per parameter
            group, or a dict of these by the optimizers' names (the class's name for a single one).
        max_momentum: the highest momentum, in (0, 1], where the cycle begins and ends; in the same
            form. Lists are of the groups at the start of the run: one that is added later has its
            own momentum as the highest, and the lowest in the same proportion as the first group.
        pct_start: the fraction of the run that goes down, in [0, 1].
        anneal_strategy: ``"cos"`` or ``"linear"``.
        three_phase: whether to be back in as many steps as it takes to go down.
        kwargs: see `MomentumUpdaterHook`; ``by_epoch`` must be False, the default here.

    Different from MMCV: a cycle that goes down in a single iteration starts at ``base_momentum``,
    where MMCV divides by zero; past the end of the run the momentum stays as it is.
    """

    # This class's own get_momentum and get_regular_momentum are those that C++ stands in for.
    _native_replaces: ClassVar[tuple[str, ...]] = MomentumUpdaterHook._native_replaces

    _base_momentum = ScheduleSetting()
    _max_momentum = ScheduleSetting()

    def __init__(
        self,
        base_momentum: Numbers = 0.85,
        max_momentum: Numbers = 0.95,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        three_phase: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(pct_start, anneal_strategy, three_phase, **kwargs)
        self._base_momentum = base_momentum
        self._max_momentum = max_momentum
        check.group_numbers(self, "_base_momentum")
        check.group_numbers(self, "_max_momentum")
        self._check_arguments()

    def make_policy(self) -> OneCycle:
        """The cycle; its peak, here the lowest momentum, is set for each group."""
        return self._cycle(peak=1.0, end=1.0)

    def get_momentum(  # type: ignore[override]  # MMCV gives it the group, not a number
        self, runner: Any, param_group: dict[str, Any]
    ) -> float:
        """The momentum of this step for a parameter group; reads the group's two momenta."""
        high = param_group["max_momentum"]
        policy = self._cycle_of(param_group["base_momentum"], high)
        count = runner, self.by_epoch, policy.spans_run
        return policy(high, steps_done(*count), total_steps(*count))

    def get_regular_momentum(self, runner: Any) -> Groups:
        """The momentum of this step without warm-up."""
        return each_group(
            runner.optimizer,
            lambda optimizer, _: [
                self.get_momentum(runner, group) for group in optimizer.param_groups
            ],
        )

    def _cycle_of(self, low: float, high: float) -> OneCycle:
        """The policy of a group with these momenta.

        Raises:
            TypeError: a subclass's ``make_policy`` gave another kind of policy.
        """
        cycle = self.policy
        if not isinstance(cycle, OneCycle):
            raise TypeError(
                f"{type(self).__name__}: make_policy() must return a OneCycle, whose peak is set "
                f"for each group, not {cycle!r}"
            )
        return replace(cycle, peak=low / high if high else 1.0)

    def _native_policies(self) -> Any:
        def cycles(name: str | None) -> list[Any]:
            momenta = zip(pick(self._known, name), pick(self._base, name), strict=False)
            return [self._cycle_of(g["base_momentum"], high).native() for g, high in momenta]

        if self._native_policy is None:
            return None
        if isinstance(self._base, dict):
            return {name: cycles(name) for name in self._base}
        return cycles(None)

    def _initials(self, optimizer: Any, name: str | None) -> list[float]:
        low = check.per_group(
            self, "_base_momentum", optimizer, name, 1.0, positive=False, added="base_momentum"
        )
        high = check.per_group(self, "_max_momentum", optimizer, name, 1.0, added="max_momentum")
        groups = optimizer.param_groups
        for group in groups:
            self._note_initial(group)
        for group, momentum in zip(groups, low, strict=False):
            group["base_momentum"] = momentum
        for group, momentum in zip(groups, high, strict=False):
            group["max_momentum"] = momentum
        for group in groups:
            write_momentum(group, group["max_momentum"])
        return [float(group["max_momentum"]) for group in groups]

    def _initial_of_added(self, optimizer: Any, name: str | None, group: dict[str, Any]) -> float:
        self._require_momentum(optimizer)
        low = check.for_optimizer(self, "_base_momentum", optimizer, name)
        high = check.for_optimizer(self, "_max_momentum", optimizer, name)
        self._note_initial(group)
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

    def _note_initial(self, group: dict[str, Any]) -> None:
        """Let a group remember what it was given, for schedules that come after the cycle."""
        if "max_momentum" not in group:  # else it is in a cycle already
            self._initial(group)


def _refuse_epochs(hook: UpdaterHook) -> None:
    """Refuse to count epochs.

    Raises:
        ValueError: ``by_epoch`` is true.
    """
    if hook.by_epoch:
        raise check.wrong(hook, "by_epoch", "False, since the policy counts iterations")
