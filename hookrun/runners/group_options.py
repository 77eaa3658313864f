"""The options of parameter groups: those given to a run, a checkpoint's, and later changes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from torch.optim import Optimizer

from hookrun.checkpoint import shard_optimizer_state
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
    INCOMPARABLE,
    SCHEDULED,
    Group,
    comparable,
    comparable_options,
    differ,
    options_of,
)
from .optimizer_state import OptimizerState, load_state

Which = Literal["file", "given"]
_MAX_NAMED = 10  # differences in one message


class _Snapshot(NamedTuple):
    """A group as it was after resuming or after the latest run.

    Attributes:
        group: the dict itself, to recognize the group: another optimizer and ``load_state_dict``
            come with other dicts, which have their own initial values.
        objects: its options then.
        values: the same in plain types, since the objects may be changed in place.
    """

    group: Group
    objects: Group
    values: Group


class GroupOptions:
    """Tracks the options of parameter groups that a run was given, apart from what schedules and
    users make of them.

    A schedule starts from the group's ``initial_lr`` or ``initial_momentum``, which is saved with
    the optimizer state. So a resumed run has to know which values it was given itself, and which
    values the user has set between two runs, or between resuming and the run: those are new initial
    values.

    Methods replace the attributes and never modify their values, so that a shallow copy is a
    snapshot.
    """

    def __init__(self) -> None:
        # The options given in this process, with the initial values of schedules.
        self._given: ByGroup | None = None
        self._record: Record | None = None
        self._snapshots: dict[str, list[_Snapshot]] = {}
        # Options set in the run of the resumed file, about which to warn unless they are set again.
        self._set_earlier: list[Difference] = []

    def remember_given(self, optimizers: Mapping[str, Optimizer]) -> None:
        """Remember the current options as those that the run is given.

        Values that the user has set since the last snapshot become initial values of schedules.
        """
        for name, number, group in _all_groups(optimizers):
            if (snapshot := self._snapshot_of(name, number, group)) is not None:
                _start_from_what_was_set(group, snapshot.values)
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
        """Take a snapshot of the current options, to find out later what the user has set."""
        self._snapshots = {
            name: [
                _Snapshot(each, dict(each), comparable_options(each)) for each in it.param_groups
            ]
            for name, it in optimizers.items()
        }

    def load(
        self, states: Mapping[str, OptimizerState], record: Any, which: Which
    ) -> list[Difference]:
        """Load the states of all optimizers, with the options of the file or the given ones.

        Args:
            states: each optimizer with its state in the file.
            record: what `state_dict` returned for the file; None if the file has none.
            which: which options to use.

        Returns:
            The options that differ between the two.

        Raises:
            TypeError, ValueError, KeyError: the record or a state is invalid.
        """
        optimizers = {name: optimizer for name, (optimizer, _) in states.items()}
        self.remember_given(optimizers)
        assert self._given is not None
        others = self._scheduled_by_others(optimizers)
        theirs = Record.read(record) or Record.of_groups(states)
        differences, set_earlier = find_differences(states, theirs, self._given)
        for name, (optimizer, state) in states.items():
            given = self._given[name]
            # Options that the file does not have stay as given.
            groups = [{**g, **f} for g, f in zip(given, state["param_groups"], strict=True)]
            sharded = shard_optimizer_state(optimizer, {**state, "param_groups": groups})
            load_state(optimizer, sharded)
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
        """Take the current options as those with which a run begins.

        Warns of values that come from an earlier run and that nothing in this run sets.
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
            each._replace(groups=unset)
            for each in self._set_earlier
            if (
                unset := [
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
        """Let the snapshots refer to the current groups, after optimizers were restored."""
        self._snapshots = {
            name: [
                snapshot._replace(group=group)
                for group, snapshot in zip(each.param_groups, self._snapshots[name], strict=False)
            ]
            for name, each in optimizers.items()
            if name in self._snapshots
        }

    def state_dict(self) -> dict[str, Any] | None:
        """For a checkpoint: the options that the run was given; None before the first run."""
        return None if self._record is None else self._record.state_dict()

    def _snapshot_of(self, name: str, number: int, group: Group) -> _Snapshot | None:
        known = self._snapshots.get(name, [])
        found = known[number] if number < len(known) else None
        return found if found is not None and found.group is group else None

    def _set_since(self, name: str, number: int, group: Group) -> Group:
        """The options that the user has set since the last snapshot."""
        snapshot = self._snapshot_of(name, number, group)
        if snapshot is None:
            return {}
        return {
            option: value
            for option, value in options_of(group).items()
            if group[option] is not snapshot.objects.get(option)
            or comparable(group[option]) != snapshot.values.get(option, INCOMPARABLE)
        }

    def _scheduled_by_others(self, optimizers: Mapping[str, Optimizer]) -> set[str]:
        """Which values a scheduler of torch has set in new groups, before any run or resuming."""
        return {
            name
            for name, each in SCHEDULED.items()
            for owner, number, group in _all_groups(optimizers)
            if each.initial in group and self._snapshot_of(owner, number, group) is None
        }


def check_choice(param_groups: Any) -> Which:
    """Check the argument ``param_groups`` of ``resume``.

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
    """The differences as text; the first ones if there are many."""
    named = "; ".join(map(str, differences[:_MAX_NAMED]))
    more = len(differences) - _MAX_NAMED
    return f"{named}; and {more} more" if more > 0 else named


def _all_groups(optimizers: Mapping[str, Optimizer]) -> Iterator[tuple[str, int, Group]]:
    for name, optimizer in optimizers.items():
        for number, group in enumerate(optimizer.param_groups):
            yield name, number, group


def _start_from_what_was_set(group: Group, before: Mapping[str, Any]) -> None:
    """Make values that the user has set initial values, unless the user has set those as well."""
    for each in SCHEDULED.values():
        now = each.value(group)
        untouched = each.initial in group and group[each.initial] == before.get(each.initial)
        if now is not None and untouched and now != each.value(before):
            group[each.initial] = now


def _take(group: Group, options: Mapping[str, Any]) -> None:
    """Set options of a group; schedules start from their values."""
    group.update(options)
    for each in SCHEDULED.values():
        group.pop(each.initial, None)


def _warn_of_a_dropped_schedule(
    name: str, optimizers: Mapping[str, Optimizer], logger: logging.Logger
) -> None:
    """Warn that a value that a schedule has changed stays, as this run has no schedule for it."""
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
            each.label,
            values,
        )
