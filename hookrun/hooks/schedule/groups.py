"""Parameter groups, of one optimizer or of a dict of them, and one value for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Number
from operator import is_not
from typing import Any

from torch import Tensor

from hookrun.core.errors import did_you_mean

# One value per parameter group; for a dict of optimizers, such a list per name.
Groups = list[float] | dict[str, list[float]]
# The groups themselves, in the same form.
GroupDicts = list[dict[str, Any]] | dict[str, list[dict[str, Any]]]


def each_group(optimizer: Any, values: Callable[[Any, str | None], list[float]]) -> Groups:
    """``values(optimizer, name)`` of the optimizer, or of each one in a dict of them.

    Args:
        optimizer: an optimizer, whose name is None, or a dict of them by name.
        values: gives one value per parameter group.
    """
    if isinstance(optimizer, dict):
        return {name: values(each, name) for name, each in optimizer.items()}
    return values(optimizer, None)


def as_lists(values: Any) -> Groups:
    """The values, each sequence of them a list; lists stay the same objects."""
    if isinstance(values, dict):
        # Of one optimizer each, which Groups does not say.
        return {n: as_lists(each) for n, each in values.items()}  # type: ignore[misc]  # see above
    return values if isinstance(values, list) else list(values)


def by_optimizer(optimizer: Any, groups: Any) -> list[tuple[Any, list[float]]]:
    """Pairs of an optimizer and its values; one pair unless the optimizer is a dict of them."""
    if isinstance(optimizer, dict):
        return [(each, groups[name]) for name, each in optimizer.items()]
    return [(optimizer, groups)]


def format_param(name: str, optim: Any, param: Any) -> Any:
    """One value per parameter group of an optimizer, from an argument in any of its forms.

    Args:
        name: the optimizer's name, where there are several.
        optim: the optimizer.
        param: a number for all groups, a list or tuple with one per group, or a dict of these by
            optimizer, of which the entry is returned as it is.

    Raises:
        ValueError: as many values as groups are needed.
        KeyError: the dict has no such optimizer.
    """
    groups = len(optim.param_groups)
    if isinstance(param, Number):
        return [param] * groups
    if isinstance(param, (list, tuple)):
        if len(param) != groups:
            raise ValueError(f"{name} needs {groups} values, one per parameter group: {param!r}")
        return param
    if name not in param:
        raise KeyError(f"no value for the optimizer {name!r}. {did_you_mean(name, param)}")
    return param[name]


def separate_tensors(optimizer: Any, key: str) -> None:
    """Clone tensors that several groups share, so that each can be set by itself.

    torch lets all groups share the tensor that the optimizer was made with, and keeps it as the
    default of groups that are added later.

    Args:
        optimizer: an optimizer, or a dict of them by name.
        key: the group's value, such as ``"lr"``.
    """
    seen: set[int] = set()
    for each in optimizer.values() if isinstance(optimizer, dict) else [optimizer]:
        for group in [*each.param_groups, getattr(each, "defaults", {})]:
            value = group.get(key)
            if not isinstance(value, Tensor):
                continue
            if id(value) in seen:
                group[key] = value.clone()
            seen.add(id(group[key]))


def pick(groups: Any, name: str | None) -> Any:
    """The list of the optimizer of that name, None for the only one; empty if there is none."""
    if isinstance(groups, dict):
        return groups.get(name, [])
    return groups if name is None else []


def map_groups(groups: Groups, change: Callable[[float], float]) -> Groups:
    """The groups with every value changed."""
    if isinstance(groups, dict):
        return {name: list(map(change, values)) for name, values in groups.items()}
    return list(map(change, groups))


def write(group: dict[str, Any], key: str, value: float) -> None:
    """Set a group's value; a tensor is filled and stays the same object, without a host sync."""
    if isinstance(group.get(key), Tensor):
        group[key].fill_(value)
    else:
        group[key] = value


def group_dicts(optimizer: Any, values: Groups) -> GroupDicts:
    """The parameter groups that the values are of."""
    if isinstance(optimizer, dict):
        return {
            name: each.param_groups[: len(pick(values, name))] for name, each in optimizer.items()
        }
    return list(optimizer.param_groups[: len(values)])


def has_new_groups(optimizer: Any, known: GroupDicts) -> bool:
    """Whether the groups are others than when ``group_dicts`` gave these, or in another order."""
    if isinstance(optimizer, dict) and isinstance(known, dict):
        return optimizer.keys() != known.keys() or any(
            _differ(each.param_groups, known[name]) for name, each in optimizer.items()
        )
    if isinstance(optimizer, dict) or isinstance(known, dict):
        return True
    return _differ(optimizer.param_groups, known)


def _differ(groups: list[Any], known: list[Any]) -> bool:
    return len(groups) != len(known) or any(map(is_not, groups, known))


def carry_over(
    groups: list[dict[str, Any]],
    known: list[dict[str, Any]],
    values: Sequence[float],
    initial: Callable[[dict[str, Any]], float],
) -> list[float]:
    """One value per group: that of a group that was known before, wherever it is now.

    A group is the same if it has the same list of parameters: ``load_state_dict`` of an optimizer
    replaces the dicts, but not the lists.

    Args:
        groups: the groups now.
        known, values: those before, and their values. Where there are more values than known
            groups, somebody has given those of the new groups too.
        initial: gives the value of a new group.

    Raises:
        TypeError: one of the groups is no dict.
    """
    before = {_identity(group): value for group, value in zip(known, values, strict=False)}
    carried = []
    for number, group in enumerate(groups):
        if not isinstance(group, dict):
            raise TypeError(f"a parameter group must be a dict, not {group!r:.80}")
        if _identity(group) in before:
            carried.append(before[_identity(group)])
        elif len(known) <= number < len(values):
            carried.append(float(values[number]))
        else:
            carried.append(initial(group))
    return carried


def _identity(group: dict[str, Any]) -> int:
    return id(group.get("params", group))
