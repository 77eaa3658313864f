"""The names that keep the scores and best checkpoints of several EvalHooks in one run apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .best import file_name


def label_of(name: str, key: str) -> str:
    """The name of a score behind that of its EvalHook, if it has one."""
    return f"{name}/{key}" if name else key


def resolve_names(hooks: Sequence[Any]) -> None:
    """Set the names under which each EvalHook of a run logs, and keeps its best checkpoints.

    That is the ``name`` it was given. Of those without, the first one has none, as if it were
    alone, and so have others with the same dataset; the rest are named after their datasets: by
    ``dataset.name`` or else its class, with a number if that name is taken.

    Args:
        hooks: the EvalHooks of the run, in the order of their calls.

    Raises:
        ValueError: two hooks would keep the best checkpoint by the same score under the same name,
            or two scores in the same file.
    """
    taken = {hook.name for hook in hooks if hook.name is not None}
    unnamed: dict[int, str] = {}  # by the id of the dataset
    for hook in hooks:
        name = hook.name
        if name is None:
            dataset = getattr(hook.dataloader, "dataset", hook.dataloader)
            if id(dataset) not in unnamed:
                unnamed[id(dataset)] = _unused(_name_of(dataset), taken) if unnamed else ""
                taken.add(unnamed[id(dataset)])
            name = unnamed[id(dataset)]
        hook.label = hook.keeper.name = name
    saving = [hook for hook in hooks if hook.save_best is not None]
    for number, hook in enumerate(saving):
        hook.keeper.holds_first = number == 0
        for earlier in saving[:number]:
            _check_apart(earlier, hook)
    _check_files(saving)


def _check_apart(one: Any, other: Any) -> None:
    keys = [
        [each.save_best] if isinstance(each.save_best, str) else list(each.save_best)
        for each in (one, other)
    ]
    clash = "auto" in keys[0] + keys[1] or set(keys[0]) & set(keys[1])
    if one.label == other.label and clash:
        raise ValueError(
            f"two EvalHooks with save_best={one.save_best!r} and {other.save_best!r} for the same "
            "dataset or name would compare their scores with each other's and delete each other's "
            "files: give each of them a name, as in EvalHook(..., name='test')"
        )


def _check_files(hooks: Sequence[Any]) -> None:
    """Refuse names, such as ``a/b`` and ``a_b``, whose best checkpoints would be the same file."""
    labels: dict[Any, str] = {}
    for hook in hooks:
        for key in hook.keeper.rules:
            label = label_of(hook.label, key)
            file = hook._given_out_dir, file_name(label, "epoch", "N")
            if key != "auto" and file in labels:
                raise ValueError(
                    f"EvalHook: the best checkpoints by {labels[file]!r} and by {label!r} would be "
                    f"the same file, {file[1]}: give one of the scores or hooks another name"
                )
            labels[file] = label


def _name_of(dataset: Any) -> str:
    name = getattr(dataset, "name", None)
    return name if isinstance(name, str) and name.strip() else type(dataset).__name__


def _unused(name: str, taken: set[str]) -> str:
    number, candidate = 2, name
    while candidate in taken:
        number, candidate = number + 1, f"{name}_{number}"
    return candidate
