"""Learning-rate schedules that rise and fall, and the one that joins others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hookrun import schedules
from hookrun.core.hook import HOOKS
from hookrun.core.policy_config import policy_hook_config
from hookrun.schedules import Policy

from .. import _arguments as check
from .lr_annealing import AnnealingLrUpdaterHook
from .lr_updater import LrUpdaterHook
from .policies import by_iteration_only, check_cycles_fit, cyclic_policy
from .updater import ScheduleSetting

# Arguments of SequentialLrUpdaterHook that its policies share.
_OF_THE_WHOLE = {"by_epoch", "warmup", "warmup_iters", "warmup_ratio", "warmup_by_epoch"}


@HOOKS.register_module()
class CosineRestartLrUpdaterHook(AnnealingLrUpdaterHook):
    """Half a cosine wave down to the minimum, again and again (SGDR, arXiv:1608.03983).

    Args:
        periods: the steps that each wave lasts.
        restart_weights: where each wave starts: 0 is the minimum, 1 the initial learning rate.
        min_lr, min_lr_ratio, kwargs: see :class:`AnnealingLrUpdaterHook`.

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
        total = self._length(runner)
        if total is not None and total > sum(self.periods):
            allowed = f"at least {total} steps together, as long as the run"
            raise check.wrong(self, "periods", allowed)


@HOOKS.register_module()
class CyclicLrUpdaterHook(LrUpdaterHook):
    """Cycles from the initial learning rate to the highest to the lowest (arXiv:1506.01186).

    Args:
        by_epoch: must be False; the policy counts iterations.
        target_ratio: the highest and the lowest learning rate as parts of the initial one; a
            single number is the highest, and the lowest a 100,000th of it.
        cyclic_times: cycles in the run. Where the run is no multiple of them, another one begins.
        step_ratio_up: the part of a cycle that goes up, in [0, 1).
        anneal_strategy: ``"cos"`` or ``"linear"``.
        gamma: the distance of the highest from the initial learning rate is multiplied by it from
            cycle to cycle; in (0, 1].
        kwargs: see :class:`LrUpdaterHook`.

    Different from MMCV: where no iteration of a cycle goes up, ``gamma`` still acts on the highest
    learning rate; MMCV applies it to the lowest.
    """

    target_ratio = ScheduleSetting()
    cyclic_times = ScheduleSetting()
    step_ratio_up = ScheduleSetting()
    anneal_strategy = ScheduleSetting()
    gamma = ScheduleSetting()

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
class OneCycleLrUpdaterHook(LrUpdaterHook):
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
        pct_start: the part of the schedule that goes up, in [0, 1].
        anneal_strategy: ``"cos"`` or ``"linear"``.
        div_factor: ``max_lr`` is divided by it at the start.
        final_div_factor: the initial learning rate is divided by it at the end.
        three_phase: whether to come back to the initial learning rate in as many steps as it takes
            to go up, and only then go below.
        kwargs: see :class:`LrUpdaterHook`; ``by_epoch`` must be False, which is the default here.

    Different from MMCV: a schedule whose way up is a single iteration starts at ``max_lr``, where
    MMCV and torch divide by zero; past the end it stays where it is, where MMCV fails.
    """

    max_lr = ScheduleSetting()
    total_steps = ScheduleSetting()
    pct_start = ScheduleSetting()
    anneal_strategy = ScheduleSetting()
    div_factor = ScheduleSetting()
    final_div_factor = ScheduleSetting()
    three_phase = ScheduleSetting()

    def __init__(
        self,
        max_lr: float | Sequence[float] | Mapping[str, Any],
        total_steps: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"by_epoch": False, **kwargs})
        self.max_lr = max_lr
        self.total_steps = total_steps
        self.pct_start = pct_start
        self.anneal_strategy = anneal_strategy
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        self.three_phase = three_phase
        by_iteration_only(self)
        check.group_numbers(self, "max_lr")
        self._check_arguments()

    def make_policy(self) -> Policy:
        return schedules.OneCycle(
            check.part(self, "pct_start"),
            peak=check.positive(self, "div_factor"),
            end=1.0 / check.positive(self, "final_div_factor"),
            strategy=check.choice(self, "anneal_strategy", ("cos", "linear")),
            three_phase=check.flag(self, "three_phase"),
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
        total = self._length(runner)
        if self.total_steps is not None and total is not None and self.total_steps < total:
            raise check.wrong(self, "total_steps", f"at least the {total} iterations of the run")


@HOOKS.register_module()
class SequentialLrUpdaterHook(LrUpdaterHook):
    """One schedule after the other; new, MMCV has none like it.

    Each schedule sees a run of its own that lasts from its milestone to the next, and starts from
    the initial learning rate. Warm-up belongs to the whole.

    Args:
        policies: policy configs such as ``dict(policy="CosineAnnealing", min_lr=0)``, or hooks.
        milestones: the step at which the second schedule begins, the third and so on; ascending.
        kwargs: see :class:`LrUpdaterHook`; ``by_epoch`` holds for every schedule.

    >>> SequentialLrUpdaterHook(
    ...     policies=[dict(policy="fixed"), dict(policy="CosineAnnealing", min_lr=0.0)],
    ...     milestones=[1000],
    ...     by_epoch=False,
    ... ).policy(0.1, step=1000, total=2000)
    0.1
    """

    policies = ScheduleSetting()
    milestones = ScheduleSetting()

    def __init__(
        self,
        policies: Sequence[Mapping[str, Any] | LrUpdaterHook],
        milestones: Sequence[int],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.policies = policies
        self.milestones = milestones
        self._check_arguments()

    def make_policy(self) -> Policy:
        allowed = "a list of policy configs or LR hooks"
        if not isinstance(self.policies, Sequence) or isinstance(self.policies, str):
            raise check.wrong(self, "policies", allowed, TypeError)
        if not self.policies:
            raise check.wrong(self, "policies", allowed)
        milestones = check.counts(self, "milestones", increasing=True)
        if len(milestones) != len(self.policies) - 1:
            allowed = f"one entry shorter than policies, which has {len(self.policies)}"
            raise check.wrong(self, "milestones", allowed)
        return schedules.Sequential(tuple(map(self._part, self.policies)), milestones)

    def _part(self, part: Any) -> Policy:
        name = type(self).__name__
        if isinstance(part, Mapping):
            own = _OF_THE_WHOLE & part.keys()
            if own:
                raise ValueError(
                    f"{name}: {', '.join(sorted(own))} must be given for the whole, not in one of "
                    f"its policies: {part!r}"
                )
            config = policy_hook_config(part, "LrUpdaterHook", name)
            part = HOOKS.build({**config, "by_epoch": self.by_epoch})
        if not isinstance(part, LrUpdaterHook):
            raise TypeError(f"{name}: policies must be policy configs or LR hooks, not {part!r}")
        if part.by_epoch != self.by_epoch:
            raise ValueError(
                f"{name}: by_epoch must be {self.by_epoch} in {type(part).__name__} too, as it is "
                "for the whole"
            )
        if isinstance(part, OneCycleLrUpdaterHook) or not part._is_shipped(part._formula):
            raise ValueError(
                f"{name}: {type(part).__name__} must not be one of the policies: its values do not "
                "follow from the initial learning rate and the step alone"
            )
        return part.policy
