"""The options of parameter groups: those that a run was given, a file's, and those set since."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from torch.optim import Optimizer

from hookrun.core.errors import did_you_mean
from hookrun.core.hook import Hook, writes_of
from hookrun.distributed import get_dist_info

from .group_record import (
    ByGroup,
    Difference,
    Record,
    find_differences,
    name_groups,
    plain_options,
)
from .group_values import (
    OPAQUE,
    SCHEDULED,
    Group,
    comparable,
    comparable_options,
    differ,
    options_of,
)
from .optimizer_state import OptimizerState

Which = Literal["file", "given"]
_MOST_NAMED = 10  # differences in one message


class _Snapshot(NamedTuple):
    """A group as resuming or the latest run left it.

    Attributes:
        group: the dict itself: another one has come with another optimizer, or by
            ``load_state_dict``, and has its own initial values.
        objects: what it held then.
        values: the same in plain types; the objects may have changed since.
    """

    group: Group
    objects: Group
    values: Group


class GroupOptions:
    """Keeps apart what a run was given as options of its parameter groups, and what became of it.

    A schedule starts from the group's ``initial_lr`` or ``initial_momentum``, which travels with
    the optimizer's state. So a resumed run needs to know what else it was given, and which values
    somebody has set between two runs, or between resuming and the run: those are new initial ones.

    No method changes what an attribute holds: a shallow copy is a state to go back to.
    """

    def __init__(self) -> None:
        # What this process was given, with the values that schedules start from.
        self._given: ByGroup | None = None
        self._record: Record | None = None
        self._snapshots: dict[str, list[_Snapshot]] = {}
        # What differs from the file that was resumed, unless somebody sets it before the run.
        self._set_earlier: list[Difference] = []

    def remember_given(self, optimizers: Mapping[str, Optimizer]) -> None:
        """Remember the options that there are now as those that the run is given.

        Values that somebody has set since they were left become those that schedules start from.
        """
        for name, number, group in _all_groups(optimizers):
            if (left := self._snapshot_of(name, number, group)) is not None:
                _start_from_what_was_set(group, left.values)
        before = self._given
        self._given = {
            name: [
                options_of(group, optimizer)
                if before is None or self._snapshot_of(name, number, group) is None
                else {**before[name][number], **self._set_since(name, number, group)}
                for number, group in enumerate(optimizer.param_groups)
            ]
            for name, optimizer in optimizers.items()
        }

    def remember_current(self, optimizers: Mapping[str, Optimizer]) -> None:
        """Remember the options that there are now, to see later what somebody has set."""
        self._snapshots = {
            name: [_Snapshot(each, dict(each), comparable_options(each)) for each in it.param_groups]
            for name, it in optimizers.items()
        }

    def load(
        self, states: Mapping[str, OptimizerState], record: Any, which: Which
    ) -> list[Difference]:
        """Load the states of all optimizers, and the options of the file or those given.

        Args:
            states: each optimizer with its state in the file.
            record: what :meth:`state_dict` gave for the file; None in one without.
            which: whose options count.

        Returns:
            The options that differ between the two.

        Raises:
            TypeError, ValueError, KeyError: the record or a state is not what it should be.
        """
        optimizers = {name: optimizer for name, (optimizer, _) in states.items()}
        self.remember_given(optimizers)
        assert self._given is not None
        others = self._scheduled_by_others(optimizers)
        theirs = Record.read(record) or Record.of_groups(states)
        differences, set_earlier = find_differences(states, theirs, self._given)
        for name, (optimizer, state) in states.items():
            given = self._given[name]
            # What the file does not know stays as it was given.
            groups = [{**g, **f} for g, f in zip(given, state["param_groups"], strict=True)]
            optimizer.load_state_dict({**state, "param_groups": groups})
            if which == "given":
                for group, options in zip(optimizer.param_groups, given, strict=True):
                    _take(group, options)
        if which == "given":
            self._record, self._set_earlier = Record(plain_options(self._given)), []
        else:
            self._record = replace(theirs, scheduled=theirs.scheduled - others)
            self._set_earlier = set_earlier
        self.remember_current(optimizers)
        return differences

    def begin(
        self, optimizers: Mapping[str, Optimizer], hooks: Iterable[Hook], logger: logging.Logger
    ) -> None:
        """Take what is there as the options that a run begins with.

        Warns of values that an earlier run has left behind and that nothing in this one accounts
        for.
        """
        noted = self._given
        groups = list(_all_groups(optimizers))
        set_now = {
            (name, number): self._set_since(name, number, group) for name, number, group in groups
        }
        known = {(n, i) for n, i, group in groups if self._snapshot_of(n, i, group) is not None}
        self.remember_given(optimizers)
        record = self._record or Record(plain_options(noted or self._given or {}))
        resources = {resource for hook in hooks for resource in writes_of(hook)}
        now = frozenset(name for name, each in SCHEDULED.items() if each.resource in resources)
        for name in sorted(record.scheduled - now):
            _warn_of_a_dropped_schedule(name, optimizers, logger)
        still = [
            each._replace(groups=left)
            for each in self._set_earlier
            if (
                left := [
                    g
                    for g in each.groups
                    if (each.optimizer, g) in known
                    and each.option not in set_now[each.optimizer, g]
                ]
            )
        ]
        if still and get_dist_info()[0] == 0:
            logger.warning(
                "an earlier run of what was resumed set options of parameter groups, which this "
                "one does not set: the file's are used: %s. To use those given, call "
                "resume(..., param_groups='given')",
                list_differences(still),
            )
        self._record = replace(record.with_options_set(set_now), scheduled=now)
        self._snapshots, self._set_earlier = {}, []

    def follow_groups(self, optimizers: Mapping[str, Optimizer]) -> None:
        """After going back to an earlier state of optimizers, whose groups are other dicts then."""
        self._snapshots = {
            name: [
                left._replace(group=group)
                for group, left in zip(each.param_groups, self._snapshots[name], strict=False)
            ]
            for name, each in optimizers.items()
            if name in self._snapshots
        }

    def state_dict(self) -> dict[str, Any] | None:
        """For a checkpoint: what the run was given; None before its first run."""
        return None if self._record is None else self._record.state_dict()

    def _snapshot_of(self, name: str, number: int, group: Group) -> _Snapshot | None:
        known = self._snapshots.get(name, [])
        found = known[number] if number < len(known) else None
        return found if found is not None and found.group is group else None

    def _set_since(self, name: str, number: int, group: Group) -> Group:
        """The options that somebody has set since the group was left."""
        left = self._snapshot_of(name, number, group)
        if left is None:
            return {}
        return {
            option: value
            for option, value in options_of(group).items()
            if group[option] is not left.objects.get(option)
            or comparable(group[option]) != left.values.get(option, OPAQUE)
        }

    def _scheduled_by_others(self, optimizers: Mapping[str, Optimizer]) -> set[str]:
        """What a scheduler of torch's has set in new groups, before any run or resuming."""
        return {
            name
            for name, each in SCHEDULED.items()
            for owner, number, group in _all_groups(optimizers)
            if each.initial in group and self._snapshot_of(owner, number, group) is None
        }


def check_choice(param_groups: Any) -> Which:
    """``param_groups`` of ``resume``.

    Raises:
        ValueError: it is neither ``'file'`` nor ``'given'``.
    """
    if param_groups == "file" or param_groups == "given":
        return "file" if param_groups == "file" else "given"
    raise ValueError(
        f"resume: param_groups must be 'file' or 'given', not {param_groups!r}. "
        + (did_you_mean(param_groups, ("file", "given")) if isinstance(param_groups, str) else "")
    )


def list_differences(differences: Sequence[Difference]) -> str:
    """The differences in a message, but not too many."""
    named = "; ".join(map(str, differences[:_MOST_NAMED]))
    more = len(differences) - _MOST_NAMED
    return f"{named}; and {more} more" if more > 0 else named


def _all_groups(optimizers: Mapping[str, Optimizer]) -> Iterator[tuple[str, int, Group]]:
    for name, optimizer in optimizers.items():
        for number, group in enumerate(optimizer.param_groups):
            yield name, number, group


def _start_from_what_was_set(group: Group, left: Mapping[str, Any]) -> None:
    """Let schedules start from what somebody has set since; but not if they set that start too."""
    for each in SCHEDULED.values():
        now = each.value(group)
        untouched = each.initial in group and group[each.initial] == left.get(each.initial)
        if now is not None and untouched and now != each.value(left):
            group[each.initial] = now


def _take(group: Group, options: Mapping[str, Any]) -> None:
    """Give a group these options, from whose values schedules start."""
    group.update(options)
    for each in SCHEDULED.values():
        group.pop(each.initial, None)


def _warn_of_a_dropped_schedule(
    name: str, optimizers: Mapping[str, Optimizer], logger: logging.Logger
) -> None:
    """Warn that a value stays what a schedule made of it, where that is not its initial one."""
    each = SCHEDULED[name]
    stays: dict[tuple[str, float, float], list[int]] = {}
    for owner, number, group in _all_groups(optimizers):
        now, initial = each.value(group), each.initial_value(group)
        if now is not None and initial is not None and differ(now, initial):
            stays.setdefault((owner, now, initial), []).append(number)
    if stays and get_dist_info()[0] == 0:
        values = "; ".join(
            f"{now:g} in {name_groups(owner, numbers)}, initially {initial:g}"
            for (owner, now, initial), numbers in stays.items()
        )
        logger.warning(
            "the run so far had a schedule of the %s, and this run has no hook with one: the last "
            "value stays (%s). To go on with the initial value, set it after resume(), or call "
            "resume(..., param_groups='given')",
            each.words,
            values,
        )
