"""The learning-rate schedule that joins others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hookrun import schedules
from hookrun.core.hook import HOOKS, starts_with_defaults
from hookrun.core.policy_config import policy_hook_config
from hookrun.schedules import Policy

from .. import _arguments as check
from .cycles import OneCycleLrUpdaterHook
from .lr_updater import LrUpdaterHook
from .settings import ScheduleSetting

# Arguments that all parts share.
_SHARED = {"by_epoch", "warmup", "warmup_iters", "warmup_ratio", "warmup_by_epoch"}


@HOOKS.register_module()
@starts_with_defaults(policies=[{"policy": "Fixed"}] * 2, milestones=[1])
class SequentialLrUpdaterHook(LrUpdaterHook):
    """One schedule after the other; new, MMCV has none like it.

    Each schedule is computed as for a run of its own, which lasts from its milestone to the next,
    and starts from the initial learning rate. There is one warm-up, at the start of the run.

    Args:
        policies: policy configs such as ``dict(policy="CosineAnnealing", min_lr=0)``, or hooks.
        milestones: the step at which the second schedule begins, the third and so on; ascending.
        kwargs: see `LrUpdaterHook`; ``by_epoch`` applies to every schedule.

    Examples:
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
            own = _SHARED & part.keys()
            if own:
                raise ValueError(
                    f"{name}: {', '.join(sorted(own))} must be given to the hook itself, not to "
                    f"one of its policies: {part!r}"
                )
            config = policy_hook_config(part, "LrUpdaterHook", name)
            part = HOOKS.build({**config, "by_epoch": self.by_epoch})
        if not isinstance(part, LrUpdaterHook):
            raise TypeError(f"{name}: policies must be policy configs or LR hooks, not {part!r}")
        if part.by_epoch != self.by_epoch:
            raise ValueError(
                f"{name}: by_epoch must be {self.by_epoch} in {type(part).__name__} too, as it is "
                "in the hook itself"
            )
        if isinstance(part, OneCycleLrUpdaterHook) or part._overrides(part.value.formula):
            raise ValueError(
                f"{name}: {type(part).__name__} must not be one of the policies: its values do not "
                "follow from the initial learning rate and the step alone"
            )
        return part.policy
