"""What learning-rate and momentum hooks share: a schedule that sets one value of each group."""

from __future__ import annotations

import os
import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

from hookrun import _native
from hookrun.core.hook import Hook, TriggerSetting
from hookrun.core.overrides import overrides
from hookrun.core.triggers import Trigger
from hookrun.schedules import WARMUP_KINDS, Policy, Warmup

from .. import _arguments as check
from .groups import (
    Groups,
    carry_over,
    each_group,
    group_dicts,
    has_new_groups,
    pick,
    separate_tensors,
)

_FIRST = Trigger(inner_iters=1 << 60, start=1)  # at the first iteration of an epoch


_NAMES = {"lr": "learning rate", "momentum": "momentum"}


class ScheduleSetting(TriggerSetting):
    """An argument of a schedule: assigning it renews the schedule and the dispatcher."""

    def __set__(self, hook: Any, value: Any) -> None:
        for made_of_settings in ("policy", "_curve"):
            vars(hook).pop(made_of_settings, None)
        super().__set__(hook, value)


class UpdaterHook(Hook):
    """Base class of the hooks that set one value of every parameter group from a schedule.

    A group that is added in mid-run is scheduled like the others from the next iteration on, or by
    epoch from the next epoch on, and starts from the value that it has then.

    Args:
        by_epoch: whether the schedule counts epochs (True) or iterations.
        warmup: ``"constant"``, ``"linear"``, ``"exp"``, or None for no warm-up.
        warmup_iters: iterations that the warm-up lasts.
        warmup_ratio: the warm-up's first factor, in (0, 1].

    Raises:
        ValueError, TypeError: a wrong argument; the message names it and what is allowed.
    """

    value: ClassVar[Literal["lr", "momentum"]]
    # Where a parameter group remembers the value that it started from.
    _initial_key: ClassVar[str]
    # The method of subclasses that gives the value of one group.
    _formula: ClassVar[str]
    # The methods that the native way stands in for.
    _replaced: ClassVar[tuple[str, ...]] = ("before_run", "before_train_epoch", "before_train_iter")

    by_epoch = ScheduleSetting()
    warmup = ScheduleSetting()
    warmup_iters = ScheduleSetting()
    warmup_ratio = ScheduleSetting()
    #: Iterations whose optimizer steps were skipped, where an optimizer hook was asked to tell.
    held_back = TriggerSetting()
    _base = ScheduleSetting()
    #: The parameter groups that _base has the values of; None outside of a run.
    _known = ScheduleSetting()
    _waiting = False  # whether there are groups to be known at the first iteration of an epoch only
    _regular: Groups
    _native_schedule: _native.GroupSchedule | None = None

    def __init__(
        self, by_epoch: bool, warmup: str | None, warmup_iters: int | None, warmup_ratio: float
    ) -> None:
        self.by_epoch = by_epoch
        self.warmup = warmup
        self.warmup_iters = warmup_iters
        self.warmup_ratio = warmup_ratio
        self.held_back = 0
        self._base = []
        self._known = None
        self._regular = []
        check.flag(self, "by_epoch")
        if warmup is not None:
            check.choice(self, "warmup", WARMUP_KINDS)
            check.count(self, "warmup_iters")
            check.positive(self, "warmup_ratio", high=1.0)

    def make_policy(self) -> Policy:
        """The schedule that the hook's arguments describe; checks them.

        Raises:
            ValueError, TypeError: a wrong argument.
            NotImplementedError: the class has no schedule of its own and overrides the formula.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must override {self._formula}() or make_policy()"
        )

    def _check_arguments(self) -> None:
        """Raise what is wrong with the arguments when they are given, not during the run."""
        self.make_policy()

    @cached_property
    def policy(self) -> Policy:
        """The schedule without warm-up, as it follows from the arguments."""
        return self.make_policy()

    @cached_property
    def _curve(self) -> Callable[[float, int, int], float]:
        return self.policy if _reference_wanted() else self.policy.native()

    @abstractmethod
    def _initial(self, group: dict[str, Any]) -> float:
        """The value that the schedule of a parameter group starts from; the group remembers it."""

    def _initials(self, optimizer: Any, name: str | None) -> list[float]:
        """Those of the groups that an optimizer has at the start of a run.

        By epoch, a group that the run which is resumed has added amid its last epoch waits for the
        next one, as it does there: it is behind the others, and does not know its initial value.
        """
        groups = list(optimizer.param_groups)
        if self.by_epoch and any(self._initial_key in group for group in groups):
            while self._initial_key not in groups[-1]:
                groups.pop()
        return [self._initial(group) for group in groups]

    def _initial_of_added(self, optimizer: Any, name: str | None, group: dict[str, Any]) -> float:
        """That of a group that was added later."""
        return self._initial(group)

    @abstractmethod
    def _compute(self, runner: Any) -> Groups:
        """The values without warm-up."""

    @abstractmethod
    def _warm(self, iteration: int) -> Groups:
        """``_regular`` with the warm-up of the iteration."""

    @abstractmethod
    def _set(self, runner: Any, values: Groups) -> None:
        """Write the values into the parameter groups."""

    def triggers(self) -> Mapping[str, Trigger]:
        # Without warm-up a schedule by epoch has nothing to do at iterations, but for groups that
        # were added by a hook behind this one before the epoch.
        return {"before_train_iter": _FIRST} if self.by_epoch and self.warmup is None else {}

    def native_calls(self) -> Mapping[str, Callable[[Any], Any]]:
        if self._goes_native():
            try:
                return {"before_train_iter": self._native_action()}
            except (TypeError, ValueError, LookupError):
                # Between two assignments the arguments may not fit together. Where they stay so,
                # the Python way says what is wrong at the next step.
                pass
        self._regular, self._native_schedule = self._latest, None
        return {}

    def _native_action(self) -> _native.Action:
        schedule = self._native_schedule or _native.make_group_schedule(self.value)
        schedule.configure(
            hook=weakref.ref(self),
            groups=self._known,
            base=self._base,
            policies=self._native_policies(),
            by_epoch=self.by_epoch,
            warmup=self._warmup().native() if self.warmup is not None else None,
        )
        self._native_schedule = schedule
        return schedule.action()

    def _goes_native(self) -> bool:
        """Whether C++ can do what is due at iterations: all is known, and nothing overridden."""
        known = bool(self._base) and (self.warmup is None or self.warmup_iters is not None)
        has_work = not self.by_epoch or self.warmup is not None
        known = known and not self.held_back
        return known and has_work and not _reference_wanted() and self._is_shipped(*self._replaced)

    def _native_policies(self) -> Any:
        """In the form of ``_base``: one native policy per group, or a list of one for all."""
        policies = [self.policy.native()]
        return dict.fromkeys(self._base, policies) if isinstance(self._base, dict) else policies

    @property
    def _latest(self) -> Groups:
        """The values of the latest step without warm-up, whoever computed them."""
        native = (
            None
            if self._native_schedule is None or self.by_epoch
            else self._native_schedule.regular()
        )
        return self._regular if native is None else native

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "_regular": self._latest, "_native_schedule": None}
        state["_known"] = None  # of another run, if of any
        state.pop("_curve", None)
        return state

    def before_run(self, runner: Any) -> None:
        check.has_optimizer(self, runner, f"schedules the {_NAMES[self.value]}")
        self._check_run(runner)
        separate_tensors(runner.optimizer, self.value)
        self._set_base(runner, self._initials)
        self._waiting = self.by_epoch and has_new_groups(runner.optimizer, self._known)

    def before_train_epoch(self, runner: Any) -> None:
        if self.by_epoch:
            if not self._waiting:
                self._take_in_groups(runner)
            self._waiting = False
            self._begin_epoch(runner)

    def before_train_iter(self, runner: Any) -> None:
        if not self.by_epoch:
            self._take_in_groups(runner)
        elif getattr(runner, "inner_iter", 0) == 0 and self._take_in_groups(runner):
            self._begin_epoch(runner)
        if self.held_back:
            runner = _HeldBack(runner, self.held_back)
        if not self.by_epoch:
            self._regular = self._compute(runner)
        trained = _iters_trained(runner)
        if self.by_epoch and (self.warmup is None or trained > self.warmup_iters):
            return  # the epoch's values stand
        warm = self.warmup is not None and trained < self.warmup_iters
        self._set(runner, self._warm(trained) if warm else self._regular)

    def close(self, runner: Any, error: BaseException | None) -> None:
        self._known = None  # does not keep the parameters

    def _begin_epoch(self, runner: Any) -> None:
        """Set the values of the epoch."""
        self._regular = self._compute(runner)
        self._set(runner, self._regular)

    def _take_in_groups(self, runner: Any) -> bool:
        """Schedule the groups that were added since the last look, too; whether there are any.

        Groups that were taken out are forgotten.
        """
        if self._known is None or not has_new_groups(runner.optimizer, self._known):
            return False

        def base(optimizer: Any, name: str | None) -> list[float]:
            known, values = pick(self._known, name), pick(self._base, name)
            initial = partial(self._initial_of_added, optimizer, name)
            return carry_over(optimizer.param_groups, known, values, initial)

        self._set_base(runner, base)
        separate_tensors(runner.optimizer, self.value)
        return True

    def _set_base(self, runner: Any, base: Callable[[Any, str | None], list[float]]) -> None:
        values = each_group(runner.optimizer, base)
        # The dispatcher takes what is there at each assignment: in between, the groups are unknown.
        self._known = None
        self._base = values
        self._known = group_dicts(runner.optimizer, values)

    def _check_run(self, runner: Any) -> None:
        """Refuse a run that lacks what the schedule reads.

        Raises:
            ValueError: it counts epochs where the run has none, or needs the number of steps of a
                run that does not know it.
        """
        if self.by_epoch:
            self._require_epochs(runner, "by_epoch")
        if not self._is_shipped(self._formula) or not self.policy.needs_total:
            return
        if not self.by_epoch and unknown(runner, "max_iters"):
            raise ValueError(
                f"{type(self).__name__}: by_epoch=False needs the number of iterations of the run, "
                "which is unknown because the data loader has no length; by_epoch must be True, or "
                "the loader must have a length"
            )

    def _require_epochs(self, runner: Any, name: str) -> None:
        if unknown(runner, "max_epochs"):
            raise ValueError(
                f"{type(self).__name__}: {name} must be False, not True: {type(runner).__name__} "
                "measures its run in iterations, not in epochs"
            )

    def _length(self, runner: Any) -> int | None:
        """The epochs or iterations of the run; None where they are not known."""
        limit = getattr(runner, "max_epochs" if self.by_epoch else "max_iters", None)
        return limit if isinstance(limit, int) else None

    def _value(self, runner: Any, base: float) -> float:
        """The policy's value for a group that began with ``base``."""
        step = self._steps(runner)[0]
        return self._curve(base, step, self._total(runner) if self.policy.needs_total else 0)

    def _total(self, runner: Any) -> int:
        """The steps of the whole run.

        Raises:
            ValueError: they are not known.
        """
        total = self._steps(runner)[1]
        if total is None:
            limit = "max_epochs" if self.by_epoch else "max_iters"
            raise ValueError(f"the schedule needs the length of the run, but {limit} is None")
        return total

    def _steps(self, runner: Any) -> tuple[int, int | None]:
        """The steps that are done, and those of the whole run if known."""
        if self.by_epoch:
            return runner.epoch, getattr(runner, "max_epochs", None)
        if self.policy.spans_run:
            return _spanning_steps(runner)
        return runner.iter, getattr(runner, "max_iters", None)

    def _warmup(self) -> Warmup:
        return Warmup(self.warmup, self.warmup_iters, self.warmup_ratio)

    def _is_shipped(self, *methods: str) -> bool:
        """Whether no subclass outside of hookrun, nor the hook itself, replaced a method."""
        shipped = next(
            cls for cls in type(self).__mro__ if cls.__module__.startswith("hookrun.hooks")
        )
        return not overrides(self, shipped, methods)


class _HeldBack:
    """A runner, but for the iteration, which counts fewer."""

    def __init__(self, runner: Any, iterations: int) -> None:
        self._runner = runner
        self._skipped = iterations
        self.iter = runner.iter - iterations

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def _spanning_steps(runner: Any) -> tuple[int, int | None]:
    """Iterations done and those of the run, as schedules that span the run count them."""
    if isinstance(runner, _HeldBack):
        step, total = _spanning_steps(runner._runner)
        return step - runner._skipped, total
    if isinstance(runner, _native.RunState):
        return runner.schedule_step, runner.schedule_total
    return runner.iter, runner.max_iters  # a stand-in


def _iters_trained(runner: Any) -> int:
    """Iterations that have been trained, also where the runner counts fewer since it resumed."""
    uncounted = getattr(runner, "uncounted_iters", 0)
    return int(runner.iter) + (uncounted if isinstance(uncounted, int) else 0)


def unknown(runner: Any, limit: str) -> bool:
    """Whether a runner says that it does not know the limit; a stand-in may say nothing of it."""
    return hasattr(runner, limit) and getattr(runner, limit) is None


def _reference_wanted() -> bool:
    return os.environ.get("HOOKRUN_BACKEND") == "reference"
