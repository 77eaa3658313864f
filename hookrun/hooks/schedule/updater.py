"""What learning-rate and momentum hooks share: a schedule that sets one value of each group.

``before_train_iter`` sets the values in Python, by calling the methods that MMCV users override.
Where none of these is overridden and the policy has a native form, C++ does the same at less cost,
from a call of ``compile_schedule`` to the next one of ``discard_schedule``.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, ClassVar

from hookrun import _native
from hookrun.core.hook import Hook
from hookrun.core.overrides import declaring_class, overrides
from hookrun.core.triggers import ONLY_ONCE, Trigger
from hookrun.distributed import comparable
from hookrun.schedules import WARMUP_KINDS, Policy, Warmup

from .. import _arguments as check
from .groups import (
    GroupDicts,
    Groups,
    as_lists,
    by_optimizer,
    carry_over,
    each_group,
    group_dicts,
    has_new_groups,
    map_groups,
    pick,
    separate_tensors,
)
from .settings import ScheduleSetting, reference_wanted, settings_of
from .steps import (
    WithoutSkipped,
    iters_trained,
    require_epochs,
    require_iterations,
    steps_done,
    total_steps,
    unknown,
)
from .values import GroupValue

_FIRST = Trigger(inner_iters=ONLY_ONCE, start=1)  # at the first iteration of an epoch


class UpdaterHook(Hook):
    """Base class of the hooks that set one value of every parameter group from a schedule.

    A parameter group that is added during the run is scheduled like the others from the next
    iteration (or epoch, with ``by_epoch``) on, and starts from the value that it has then.

    Args:
        by_epoch: whether the schedule counts epochs (True) or iterations.
        warmup: ``"constant"``, ``"linear"``, ``"exp"``, or None for no warm-up.
        warmup_iters: iterations that the warm-up lasts.
        warmup_ratio: the warm-up's first factor, in (0, 1].

    Raises:
        ValueError, TypeError: a wrong argument; the message names it and what is allowed.
    """

    value: ClassVar[GroupValue]
    # The methods whose work C++ does: those of the class that declares this, or inherited by it.
    _native_replaces: ClassVar[tuple[str, ...]] = (
        "before_run",
        "before_train_epoch",
        "before_train_iter",
    )

    by_epoch = ScheduleSetting(decides_calls=True)
    warmup = ScheduleSetting(decides_calls=True)
    warmup_iters = ScheduleSetting()
    warmup_ratio = ScheduleSetting()
    _skipped_iters = 0
    _base: Groups
    _regular: Groups
    _known: GroupDicts | None  # the groups that _base has the values of; None outside of a run
    # Whether a run was resumed within an epoch with groups that are scheduled from the next one on.
    _waiting = False
    _compiled = False  # whether C++ sets the values

    def __init__(
        self, by_epoch: bool, warmup: str | None, warmup_iters: int | None, warmup_ratio: float
    ) -> None:
        self.by_epoch = by_epoch
        self.warmup = warmup
        self.warmup_iters = warmup_iters
        self.warmup_ratio = warmup_ratio
        self._base, self._regular, self._known = [], [], None
        check.flag(self, "by_epoch")
        if warmup is not None:
            check.choice(self, "warmup", WARMUP_KINDS)
            check.count(self, "warmup_iters")
            check.positive(self, "warmup_ratio", high=1.0)

    def required_signature(self, runner: Any) -> Any:
        """Its arguments: ranks that average gradients must step by the same values."""
        return comparable(settings_of(self))

    # What the schedule is.

    def make_policy(self) -> Policy:
        """The schedule that the hook's arguments describe; checks them.

        Raises:
            ValueError, TypeError: a wrong argument.
            NotImplementedError: the class has no schedule of its own and overrides the formula.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must override {self.value.formula}() or make_policy()"
        )

    def _check_arguments(self) -> None:
        """Raise what is wrong with the arguments when they are given, not during the run."""
        self.make_policy()

    @cached_property
    def policy(self) -> Policy:
        """The schedule without warm-up, as it follows from the arguments."""
        policy: Any = self.make_policy()
        if not isinstance(policy, Policy):
            raise TypeError(
                f"{type(self).__name__}: make_policy() must return a hookrun.schedules.Policy, "
                f"not {policy!r}"
            )
        return policy

    @cached_property
    def _native_policy(self) -> _native.Policy | None:
        return None if reference_wanted() else self.policy.native()

    @cached_property
    def _curve(self) -> Callable[[float, int, int], float]:
        return self.policy if self._native_policy is None else self._native_policy

    def _warmup(self) -> Warmup:
        return Warmup(self.warmup, self.warmup_iters, self.warmup_ratio)

    @property
    def skipped_iters(self) -> int:
        """Iterations that do not count, since their optimizer steps were skipped.

        An optimizer hook sets it, where it is asked to (``hold_schedules``).
        """
        return self._skipped_iters

    @skipped_iters.setter
    def skipped_iters(self, count: int) -> None:
        if count != self._skipped_iters:
            self._skipped_iters = count
            self.discard_schedule()

    @property
    def _base_values(self) -> Groups:
        """The value that each group starts from."""
        return self._base

    @_base_values.setter
    def _base_values(self, values: Groups) -> None:
        self.discard_schedule()
        self._base = as_lists(values)

    @property
    def _latest(self) -> Groups:
        """The values of the latest step without warm-up, whoever computed them."""
        native = self._schedule.regular() if self._compiled and not self.by_epoch else None
        return self._regular if native is None else native

    @_latest.setter
    def _latest(self, values: Groups) -> None:
        self.discard_schedule()
        self._regular = values

    # The native way.

    def native_calls(self) -> Mapping[str, Callable[[Any], Any]]:
        """What C++ does in place of methods, by event."""
        return {"before_train_iter": self._schedule.action()} if self._may_go_native() else {}

    def _may_go_native(self) -> bool:
        """Whether C++ may do what is due at iterations, as far as methods and arguments tell."""
        has_work = not self.by_epoch or self.warmup is not None
        return has_work and not reference_wanted() and not self._overrides(*self._native_replaces)

    def _overrides(self, *methods: str) -> bool:
        """Whether a subclass, or the hook itself, has replaced any of the shipped methods."""
        return overrides(self, declaring_class(self, "_native_replaces"), methods)

    @cached_property
    def _schedule(self) -> _native.GroupSchedule:
        """Sets the values in C++ while it is compiled, and else calls ``_step_in_python``."""
        return _native.make_group_schedule(self.value.key, weakref.WeakMethod(self._step_in_python))

    def compile_schedule(self) -> None:
        """Let C++ set the values from the next iteration on, by the arguments as they are now.

        It leaves them to Python where a method is overridden or the policy has no native form, and
        while the groups or the length of the warm-up are not known. So it does where arguments
        do not fit together, as between two assignments: the step in Python says what is wrong.
        """
        no_length = self.warmup is not None and self.warmup_iters is None
        if not self._may_go_native() or not self._base or self._known is None or no_length:
            return
        try:
            policies = self._native_policies()
            warmup = self._warmup().native() if self.warmup is not None else None
        except (TypeError, ValueError, LookupError):
            return
        if policies is None:
            return
        self.discard_schedule()
        self._schedule.compile(
            groups=self._known,
            base=self._base,
            policies=policies,
            by_epoch=self.by_epoch,
            warmup=warmup,
            skipped_iters=self.skipped_iters,
        )
        self._compiled = True

    def discard_schedule(self) -> None:
        """Let Python take the next step; where it can, C++ has those after it."""
        if self._compiled:
            self._regular, self._compiled = self._latest, False
            self._schedule.clear()

    def _step_in_python(self, runner: Any) -> None:
        """What C++ calls where it is not compiled for the arguments and groups that there are."""
        self.before_train_iter(runner)
        self.compile_schedule()

    def _native_policies(self) -> Any:
        """One native policy for all groups, in the form of ``_base``; None: there is none."""
        if self._native_policy is None:
            return None
        policies = [self._native_policy]
        return dict.fromkeys(self._base, policies) if isinstance(self._base, dict) else policies

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "_regular": self._latest, "_compiled": False}
        state["_known"] = None  # of another run, if of any
        for made_anew in ("_schedule", "policy", "_native_policy", "_curve"):
            state.pop(made_anew, None)
        return state

    # The events.

    def triggers(self) -> Mapping[str, Trigger]:
        # Without warm-up a schedule by epoch has nothing to do at iterations, but for groups that
        # were added by a hook behind this one before the epoch.
        return {"before_train_iter": _FIRST} if self.by_epoch and self.warmup is None else {}

    def before_run(self, runner: Any) -> None:
        check.has_optimizer(self, runner, f"schedules the {self.value.words}")
        self._check_run(runner)
        separate_tensors(runner.optimizer, self.value.key)
        self._set_base(runner, self._initials)
        self._waiting = self.by_epoch and self._has_new_groups(runner)
        if self.by_epoch and unknown(runner, "max_epochs"):
            # No epoch will begin. The value is constant, or the run would have been refused; but
            # what is resumed may have had another schedule.
            self._begin_epoch(runner)
        self.compile_schedule()

    def before_train_epoch(self, runner: Any) -> None:
        if self.by_epoch:
            if not self._waiting:
                self._take_in_groups(runner)
            self._waiting = False
            self._begin_epoch(runner)

    def before_train_iter(self, runner: Any) -> None:
        self.discard_schedule()
        if not self.by_epoch:
            self._take_in_groups(runner)
        elif getattr(runner, "inner_iter", 0) == 0 and self._take_in_groups(runner):
            self._begin_epoch(runner)
        if self.skipped_iters:
            runner = WithoutSkipped(runner, self.skipped_iters)
        if not self.by_epoch:
            self._regular = self._compute(runner)
        trained = iters_trained(runner)
        if self.by_epoch and (self.warmup is None or trained > self.warmup_iters):
            return  # the epoch's values stand
        warm = self.warmup is not None and trained < self.warmup_iters
        self._set(runner, getattr(self, self.value.warmed)(trained) if warm else self._regular)

    def close(self, runner: Any, error: BaseException | None) -> None:
        self.discard_schedule()
        self._known = None  # does not keep the parameters

    # The parameter groups.

    def _begin_epoch(self, runner: Any) -> None:
        """Set the values of the epoch."""
        self._regular = self._compute(runner)
        self._set(runner, self._regular)

    def _set_base(self, runner: Any, base: Callable[[Any, str | None], list[float]]) -> None:
        """Take these initial values, and the groups that the runner's optimizer has now."""
        values = each_group(runner.optimizer, base)
        self.discard_schedule()
        self._base = values
        self._known = group_dicts(runner.optimizer, values)

    def _has_new_groups(self, runner: Any) -> bool:
        return self._known is not None and has_new_groups(runner.optimizer, self._known)

    def _take_in_groups(self, runner: Any) -> bool:
        """Schedule groups that were added since the last call, and drop those that were removed.

        Returns:
            Whether the groups have changed.
        """
        if not self._has_new_groups(runner):
            return False

        def base(optimizer: Any, name: str | None) -> list[float]:
            known, values = pick(self._known, name), pick(self._base, name)
            initial = partial(self._initial_of_added, optimizer, name)
            return carry_over(optimizer.param_groups, known, values, initial)

        self._set_base(runner, base)
        separate_tensors(runner.optimizer, self.value.key)
        return True

    def _initial(self, group: dict[str, Any]) -> float:
        """The value that the schedule of a parameter group starts from; the group remembers it."""
        if self.value.initial_key not in group:
            group[self.value.initial_key] = self.value.read(group)
        return float(group[self.value.initial_key])

    def _initials(self, optimizer: Any, name: str | None) -> list[float]:
        """Those of an optimizer's groups at the start of a run.

        By epoch, a group that was added during an epoch is scheduled from the next epoch on, also
        where the run was resumed from a checkpoint of that epoch. Such groups are the last ones,
        have no initial value yet, and are left out.
        """
        groups = list(optimizer.param_groups)
        key = self.value.initial_key
        if self.by_epoch and any(key in group for group in groups):
            while key not in groups[-1]:
                groups.pop()
        return [self._initial(group) for group in groups]

    def _initial_of_added(self, optimizer: Any, name: str | None, group: dict[str, Any]) -> float:
        """That of a group that was added later."""
        return self._initial(group)

    # The values. Subclasses call and override these by MMCV's names, which depend on the value.

    def _compute(self, runner: Any) -> Groups:
        values: Groups = getattr(self, self.value.regular)(runner)
        return values

    def _set(self, runner: Any, values: Groups) -> None:
        getattr(self, self.value.setter)(runner, values)

    def _formula_of(self, runner: Any, base: float) -> float:
        """The policy's value for a group that began with ``base``."""
        policy = self.policy
        step = steps_done(runner, self.by_epoch, policy.spans_run)
        total = total_steps(runner, self.by_epoch, policy.spans_run) if policy.needs_total else 0
        return self._curve(base, step, total)

    def _regular_of(self, runner: Any) -> Groups:
        formula, base = getattr(self, self.value.formula), self._base
        if isinstance(base, dict):
            return {name: [formula(runner, each) for each in of] for name, of in base.items()}
        return [formula(runner, each) for each in base]

    def _warmed(self, iteration: int) -> Groups:
        factor = self._warmup().factor(iteration)
        return map_groups(self._latest, lambda value: self.value.warm_up(value, factor))

    def _write(self, runner: Any, values: Groups) -> None:
        for optimizer, of_groups in by_optimizer(runner.optimizer, values):
            for group, value in zip(optimizer.param_groups, of_groups, strict=False):
                self.value.write(group, value)

    def _needs_no_formula(self) -> bool:
        """Whether a subclass without a policy computes the values by other methods."""
        if overrides(self, UpdaterHook, ("make_policy",)):
            return False
        events = ("before_train_iter", *(("before_train_epoch",) if self.by_epoch else ()))
        return self._overrides(self.value.regular) or all(map(self._overrides, events))

    def _check_run(self, runner: Any) -> None:
        """Refuse a run that lacks what the schedule reads.

        Raises:
            ValueError: it counts epochs where the run has none, or needs the number of steps of a
                run that does not know it.
        """
        if self.by_epoch:
            require_epochs(self, runner, "by_epoch")
        if self._overrides(self.value.formula) or self._needs_no_formula():
            return
        if not self.policy.needs_total:
            return
        if not self.by_epoch:
            require_iterations(self, runner)
