"""What a checkpoint records about options of parameter groups, and how they differ from a run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from .group_values import SCHEDULED, Group, comparable_options, differ, options_of
from .optimizer_state import OptimizerState

# By optimizer name, one dict of options for each parameter group.
ByGroup = dict[str, list[Group]]


@dataclass(frozen=True)
class Record:
    """The record of options in a checkpoint, in plain types.

    Attributes:
        given: the options that the run was given; after resuming with the file's options, those of
            the original run.
        set_later: the options that the user has set after resuming, or between two runs.
        scheduled: which of ``SCHEDULED`` a hook of the run sets.
    """

    given: ByGroup
    set_later: ByGroup = field(default_factory=dict)
    scheduled: frozenset[str] = frozenset()

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "given": self.given,
            "set_later": self.set_later,
            "scheduled": sorted(self.scheduled),
        }

    def with_options_set(self, options: Mapping[tuple[str, int], Group]) -> Record:
        """The record after the user has set these options, by optimizer and group."""
        if not any(options.values()):
            return self
        later = {name: list(groups) for name, groups in self.set_later.items()}
        for (name, number), values in options.items():
            groups = later.setdefault(name, [])
            groups.extend({} for _ in range(number + 1 - len(groups)))
            groups[number] = {**groups[number], **comparable_options(values)}
        return replace(self, set_later=later)

    @classmethod
    def read(cls, state: Any) -> Record | None:
        """From what `state_dict` returned, whose layout has been checked; None for None."""
        if state is None:
            return None
        known = frozenset(SCHEDULED) & frozenset(state["scheduled"])
        return cls(plain_options(state["given"]), plain_options(state["set_later"]), known)

    @classmethod
    def of_groups(cls, states: Mapping[str, OptimizerState]) -> Record:
        """For a file without a record: what its groups say, if everything was scheduled."""
        given = {
            name: list(map(_start, state["param_groups"])) for name, (_, state) in states.items()
        }
        return cls(given, {}, frozenset(SCHEDULED))


class Difference(NamedTuple):
    """An option whose value in a file differs from the one that the run was given."""

    optimizer: str
    option: str
    file: Any
    given: Any
    groups: list[int]

    def __str__(self) -> str:
        owners = name_groups(self.optimizer, self.groups)
        file, given = _shown(self.file), _shown(self.given)
        return f"{self.option} of {owners} ({file} in the file, {given} given)"


def find_differences(
    states: Mapping[str, OptimizerState], record: Record, given: ByGroup
) -> tuple[list[Difference], list[Difference]]:
    """The options for which the file and the run have different values.

    Returns:
        The options that the original run was given with other values; and the options that it was
        given with the same values, but that were set later: the user may set them again.
    """
    given_otherwise: list[Difference] = []
    set_later: list[Difference] = []
    for name, (_, state) in states.items():
        for number, group in enumerate(state["param_groups"]):
            now = comparable_options(options_of(group))
            then = _at(record.given, name, number, _start(group))
            later = _at(record.set_later, name, number, {})
            for option, ours in comparable_options(given[name][number]).items():
                theirs = now.get(option, ours)
                if not differ(theirs, ours):
                    continue
                if differ(then.get(option, ours), ours):
                    _add(given_otherwise, Difference(name, option, theirs, ours, [number]))
                elif option in later:
                    _add(set_later, Difference(name, option, theirs, ours, [number]))
    return given_otherwise, set_later


def name_groups(optimizer: str, numbers: Sequence[int]) -> str:
    """``groups 0-2, 5 of optimizer 'a'``."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    text = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans)
    owner = f" of optimizer {optimizer!r}" if optimizer else ""
    return f"group{'s' if len(numbers) > 1 else ''} {text}{owner}"


def plain_options(options: ByGroup) -> ByGroup:
    """The comparable options, in plain types."""
    return {name: list(map(comparable_options, groups)) for name, groups in options.items()}


def _add(found: list[Difference], new: Difference) -> None:
    """Add a difference; if another group has the same one, add the group to it."""
    for each in found:
        if each[:-1] == new[:-1]:
            each.groups.extend(new.groups)
            return
    found.append(new)


def _at(options: ByGroup, name: str, number: int, missing: Group) -> Group:
    groups = options.get(name, [])
    return groups[number] if number < len(groups) else missing


def _start(group: Mapping[str, Any]) -> Group:
    """The options that a group in a file was given, as far as the group has them."""
    unknown = {
        option
        for each in SCHEDULED.values()
        if not each.knows_start(group)
        for option in each.options
    }
    options = comparable_options(options_of(group))
    return {option: value for option, value in options.items() if option not in unknown}


def _shown(value: Any) -> str:
    """The value as text, with floats rounded to 7 digits."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    return repr(float(f"{value:.7g}") if isinstance(value, float) else value)
