"""Whose state a checkpoint's optimizer state is: the names of the parameters, group by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer

from hookrun.core.masters import model_parameter
from hookrun.distributed import plain_name, unwrap_model

T = TypeVar("T")
# Of one optimizer, group by group; None for what is no parameter of the model.
Names = list[list[str | None]]


def names_of_groups(
    model: Any, optimizers: Mapping[str, Optimizer], plain: bool = True
) -> dict[str, Names]:
    """The names of the parameters that each optimizer has, by the optimizers' names.

    Args:
        model: possibly in wrappers.
        optimizers: by name.
        plain: whether the names are without what wrappers add, as in checkpoints.
    """
    module = unwrap_model(model)
    if not isinstance(module, nn.Module):
        return {}
    names = {
        id(parameter): plain_name(module, name) if plain else name
        for name, parameter in module.named_parameters()
    }
    return {
        owner: [
            [names.get(id(model_parameter(entry))) for entry in group["params"]]
            for group in optimizer.param_groups
        ]
        for owner, optimizer in optimizers.items()
    }


class StateByName:
    """Puts optimizers' states in a checkpoint into the order that groups and parameters have in the
    run, where the file has the names of the parameters.

    Args:
        theirs: what :func:`names_of_groups` gave for the file; None in one without.
        ours: the same for the run.
        renamed: the names that the file's have in the run's model.
        record: what the file says of the options of groups.
        takes_options: whether the file's options of groups count, and not those that were given.

    Attributes:
        record: with its groups in the same order as the states'.
    """

    def __init__(
        self,
        theirs: Mapping[str, Names] | None,
        ours: Mapping[str, Names],
        renamed: Mapping[str, str],
        record: Any,
        takes_options: bool,
    ) -> None:
        self._theirs = {
            owner: [[None if n is None else renamed.get(n) for n in group] for group in names]
            for owner, names in (theirs or {}).items()
        }
        self._ours, self._takes_options = ours, takes_options
        self.record = record

    def arrange(self, owner: str, state: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        """The state of an optimizer in the run's order.

        Where the run has other groups, and the options that it was given count, it is the state of
        each parameter without any options.

        Args:
            owner: the optimizer's name.
            state: its state in the file.
            where: the file and the optimizer, for messages.

        Raises:
            ValueError: it is of other parameters; or its groups are others, and their options
                count.
            TypeError: the file's names are not those of its groups.
        """
        theirs, ours = self._theirs.get(owner, []), self._ours.get(owner, [])
        groups = state["param_groups"]
        if theirs == ours or not (_are_known(theirs) and _are_known(ours)):
            return state
        if list(map(len, theirs)) != [len(group["params"]) for group in groups]:
            raise TypeError(f"the names of parameters are {theirs!r:.80}")
        _check_same(_flat(theirs), _flat(ours), where)
        keys = dict(zip(_flat(theirs), _flat([g["params"] for g in groups]), strict=True))
        numbers = {frozenset(group): number for number, group in enumerate(theirs)}
        order = [numbers[key] for group in ours if (key := frozenset(group)) in numbers]
        if len(order) == len(ours) == len(theirs):
            options = [groups[number] for number in order]
        elif not self._takes_options:
            order, options = [], [{} for _ in ours]
        else:
            raise ValueError(
                f"{where} has its parameters in other groups in the file than in the run: "
                "param_groups='given' takes each parameter's state, and the options of groups "
                "that the run was given"
            )
        self._reorder_record(owner, order)
        arranged = [
            {**its_options, "params": [keys[name] for name in group]}
            for its_options, group in zip(options, ours, strict=True)
        ]
        for group in arranged:
            group.pop("param_names", None)  # of the other order
        return {**state, "param_groups": arranged}

    def _reorder_record(self, owner: str, order: Sequence[int]) -> None:
        if isinstance(self.record, Mapping):
            self.record = {
                key: {**value, owner: _picked(value.get(owner, []), order)}
                if isinstance(value, Mapping)
                else value
                for key, value in self.record.items()
            }


def _picked(groups: Sequence[Any], order: Sequence[int]) -> list[Any]:
    return [groups[number] if number < len(groups) else {} for number in order]


def _are_known(names: Names) -> bool:
    flat = _flat(names)
    return bool(flat) and None not in flat and len(set(flat)) == len(flat)


def _flat(groups: Sequence[Sequence[T]]) -> list[T]:
    return [each for group in groups for each in group]


def _check_same(theirs: Sequence[str | None], ours: Sequence[str | None], where: str) -> None:
    lacks = [name for name in ours if name not in set(theirs)]
    more = [name for name in theirs if name not in set(ours)]
    if lacks or more:
        told = [
            f"{len(found)} parameters that {whose} has not, such as {found[0]!r}"
            for found, whose in ((more, "the run"), (lacks, "the file"))
            if found
        ]
        owners = " and in the run ".join(told) if more else f"in the run {told[0]}"
        raise ValueError(
            f"{where} has {owners}: give it the parameters of that run, or leave its state out by "
            "resume_optimizer=False"
        )
