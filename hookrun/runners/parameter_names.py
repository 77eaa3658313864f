"""The names of the parameters in each group of an optimizer, and matching states by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer

from hookrun.core.masters import model_parameter
from hookrun.distributed import plain_names, unwrap_model

T = TypeVar("T")
# The names in each group of one optimizer; None for a parameter that is not the model's.
Names = list[list[str | None]]


def names_of_groups(
    model: Any, optimizers: Mapping[str, Optimizer], plain: bool = True
) -> dict[str, Names]:
    """The names of each optimizer's parameters, by the optimizers' names.

    Args:
        model: the model, possibly wrapped.
        optimizers: by name.
        plain: whether to remove what wrappers add to the names, as in checkpoints.
    """
    module = unwrap_model(model)
    if not isinstance(module, nn.Module):
        return {}
    parameters = dict(module.named_parameters())
    shown = plain_names(module, parameters) if plain else {name: name for name in parameters}
    names = {id(parameter): shown[name] for name, parameter in parameters.items()}
    return {
        owner: [
            [names.get(id(model_parameter(entry))) for entry in group["params"]]
            for group in optimizer.param_groups
        ]
        for owner, optimizer in optimizers.items()
    }


class StateByName:
    """Reorders optimizer states of a checkpoint to the groups and parameters of the run, by the
    names of the parameters in the file.

    Args:
        theirs: what `names_of_groups` returned for the file; None if the file has no names.
        ours: the same for the run.
        renamed: from names in the file to names in the run's model.
        record: the file's record of the options of groups.
        takes_options: whether the file's options of groups will be used, not the given ones.

    Attributes:
        record: the record, with its groups reordered like the states.
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
        """The state of an optimizer in the order of the run.

        If the run has other groups, and the given options will be used, the result has the states
        of the parameters and no options.

        Args:
            owner: the optimizer's name.
            state: its state in the file.
            where: the file and the optimizer, for messages.

        Raises:
            ValueError: the state is that of other parameters; or the groups differ, and the file's
                options are to be used.
            TypeError: the file's names do not match its groups.
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
            group.pop("param_names", None)  # in the file's order
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
        differences = [
            f"{len(found)} parameters that {whose} does not have, such as {found[0]!r}"
            for found, whose in ((more, "the run"), (lacks, "the file"))
            if found
        ]
        owners = " and in the run ".join(differences) if more else f"in the run {differences[0]}"
        raise ValueError(
            f"{where} has {owners}: give it the parameters of that run, or leave its state out by "
            "resume_optimizer=False"
        )
