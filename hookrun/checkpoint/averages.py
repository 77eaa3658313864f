"""Averaged weights in models and files: which entries they are, and whether they are swapped in."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_not
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hookrun.core.errors import did_you_mean
from hookrun.core.layer_versions import layer_versions, set_layer_versions
from hookrun.distributed import INNER_NAMES, unwrap_model

Weights = Literal["raw", "ema"]

KEY = "averages"
"""The key of a checkpoint under which `FileAverages` are recorded."""

_ATTRIBUTE = "_averages_record"


@dataclass
class AveragesRecord:
    """What is recorded at a model about its averages.

    Attributes:
        buffers: all buffers that hooks registered for averages, in earlier runs too.
        names: plain names of tensors (see ``plain_name``) to buffers of the latest run.
        swapped: whether the tensors hold the averages, and the buffers the trained weights.
        exact: while swapped, averages that the tensors' dtype rounds, by the tensor's index.
        tensors, versions: the tensors at the latest swap, and their versions then.
    """

    buffers: set[str] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)
    swapped: bool = False
    exact: dict[int, Tensor] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def note_swap(self, tensors: Iterable[Tensor]) -> None:
        """Record that the model's tensors have just been swapped with the averages."""
        self.swapped = not self.swapped
        self.tensors = list(tensors)
        self.versions = _versions(self.tensors)

    def changed_since_swap(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the model's tensors have been written or replaced since the latest swap."""
        return (
            len(tensors) != len(self.tensors)
            or any(map(is_not, tensors, self.tensors))
            or self.versions != _versions(tensors)
        )

    def __getstate__(self) -> dict[str, Any]:
        changed = self.changed_since_swap(self.tensors)
        return {**vars(self), "versions": [] if changed else None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        if state["versions"] is None:  # copied tensors start with new version counters
            self.versions = _versions(self.tensors)

    def as_plain(self) -> dict[str, Any]:
        """What is saved in files: names and whether they are swapped."""
        return {"names": dict(self.names), "swapped": self.swapped}


def averages_of_model(model: nn.Module) -> AveragesRecord | None:
    """The record of a model's averages, or None; the model may be wrapped."""
    record: AveragesRecord | None = vars(unwrap_model(model)).get(_ATTRIBUTE)
    return record


def begin_averages(model: nn.Module) -> AveragesRecord:
    """The record of a model's averages; one is created if there is none."""
    record: AveragesRecord = vars(unwrap_model(model)).setdefault(_ATTRIBUTE, AveragesRecord())
    return record


@dataclass(frozen=True)
class FileAverages:
    """The averages in a checkpoint.

    Attributes:
        names: names of weights to names of the entries that EMAHook keeps beside them.
        swapped: whether the weights hold the averages, and those entries the trained weights.
    """

    names: Mapping[str, str]
    swapped: bool

    def choose(self, weights: Mapping[str, Any], which: Weights) -> OrderedDict[str, Any]:
        """The averages (``'ema'``) or the trained weights (``'raw'``), under the weights' names.

        Entries without an average, such as buffers, are as in the file, except where they share
        memory with an averaged weight, as tied weights do: those get the same value as it.
        """
        entries = set(self.names.values())
        chosen = OrderedDict((n, value) for n, value in weights.items() if n not in entries)
        if (which == "ema") != self.swapped:
            averaged = {_memory(weights[name]): entry for name, entry in self.names.items()}
            for name, value in chosen.items():
                entry = self.names.get(name) or averaged.get(_memory(value))
                if entry is not None:
                    chosen[name] = weights[entry]
        set_layer_versions(chosen, layer_versions(weights))
        return chosen


def find_averages(
    checkpoint: Mapping[str, Any],
    weights: Mapping[str, Any],
    *,
    by_epoch: bool | None = None,
    source: str | os.PathLike[str] = "",
) -> FileAverages | None:
    """The averages in a checkpoint; None where it has none.

    Files of hookrun record them. In others they are found by MMCV's naming, and whether they are
    swapped in follows from the runner: MMCV's EpochBasedRunner saves the averages as the weights,
    its IterBasedRunner does not.

    Args:
        checkpoint: the content of the file.
        weights: its state dict, as in the file.
        by_epoch: for a file that does not record it, whether its runner was an EpochBasedRunner. By
            default that follows from the name: ``iter_N.pth`` is of an IterBasedRunner.
        source: the file's name.

    Raises:
        ValueError: the record in the file is malformed.
    """
    if KEY in checkpoint:
        names, swapped = _recorded(checkpoint[KEY])
        names = {name: entry for name, entry in names.items() if name in weights}
        lost = [entry for entry in names.values() if not isinstance(weights.get(entry), Tensor)]
        if lost:
            raise ValueError(f"the checkpoint is damaged: it has no average {lost[0]!r}")
    elif "hookrun" in checkpoint:  # no averages; or an older version, which did not record them
        known = _hook_state(checkpoint["hookrun"])
        names, swapped = ({}, False) if known is None else (average_names(weights), known)
    else:
        names = average_names(weights)
        by_iter = (
            re.search(r"(^|_)iter_\d+\.\w+$", os.path.basename(os.path.realpath(source)))
            is not None
        )
        swapped = not by_iter if by_epoch is None else by_epoch
    return FileAverages(names, swapped) if names else None


def _hook_state(hookrun_state: Any) -> bool | None:
    """Whether the averages are swapped in according to EMAHook's state; None if it has none."""
    hooks = hookrun_state.get("hooks") if isinstance(hookrun_state, Mapping) else None
    state = hooks.get("EMAHook/0") if isinstance(hooks, Mapping) else None
    return bool(state.get("swapped")) if isinstance(state, Mapping) else None


def average_names(weights: Mapping[str, Any]) -> dict[str, str]:
    """Names of weights to names of averages, found by names and shapes alone.

    The average of ``a.b`` is a buffer ``ema_a_b`` of the outermost module; if that name is taken, a
    number is appended.
    """
    prefixes = {name.rpartition("ema_")[0] for name in weights if _may_be_average(name)}
    found: dict[str, str] = {}
    taken: set[str] = set()
    for prefix in prefixes:
        for name, value in weights.items():
            if not name.startswith(prefix) or _may_be_average(name):
                continue
            inner = name.removeprefix(prefix)
            for stem in dict.fromkeys(
                (_plain(inner), inner)
            ):  # MMCV keeps wrappers' parts of names
                entry = free_name(f"{prefix}ema_{stem.replace('.', '_')}", taken.__contains__)
                if _is_average(value, weights.get(entry)):
                    found[name] = entry
                    taken.add(entry)
                    break
    return found


def check_choice(which: Any) -> None:
    """Check the argument ``weights``.

    Raises:
        ValueError: it is neither ``'raw'`` nor ``'ema'`` nor None.
    """
    if which not in ("raw", "ema", None):
        raise ValueError(
            f"weights must be 'ema', 'raw' or None, not {which!r}. "
            + did_you_mean(str(which), ("ema", "raw"))
        )


def choose_weights(
    weights: Mapping[str, Any],
    averages: FileAverages | None,
    which: Weights,
    source: str | os.PathLike[str],
) -> Mapping[str, Any]:
    """The averages (``'ema'``) or the trained weights (``'raw'``) of a file.

    Raises:
        ValueError: ``'ema'``, and the file has no averages.
    """
    if averages is not None:
        return averages.choose(weights, which)
    if which == "ema":
        raise ValueError(
            f"{os.fspath(source)!r} has no averages, which weights='ema' asks for: it was saved "
            "without EMAHook; leave weights out to load what it has"
        )
    return weights


def _recorded(record: Any) -> tuple[dict[str, str], bool]:
    names = record.get("names") if isinstance(record, Mapping) else None
    if (
        not isinstance(names, Mapping)
        or not all(isinstance(each, str) for each in (*names, *names.values()))
        or not isinstance(record.get("swapped"), bool)
    ):
        raise ValueError(f"the checkpoint is damaged: its {KEY!r} part is {record!r:.80}")
    return dict(names), record["swapped"]


def _is_average(weight: Any, average: Any) -> bool:
    return (
        isinstance(weight, Tensor)
        and isinstance(average, Tensor)
        and weight.shape == average.shape
        and weight.is_floating_point() == average.is_floating_point()
    )


def _may_be_average(name: str) -> bool:
    """Whether this is ``ema_...`` of the model itself, possibly in parallel wrappers."""
    *outside, last = name.split(".")
    return last.startswith("ema_") and all(each in {"module", *INNER_NAMES} for each in outside)


def _plain(name: str) -> str:
    parts = name.split(".")
    return ".".join(each for each in parts if each not in INNER_NAMES)


def free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """The name, with a number appended if it is taken."""
    candidate, number = name, 0
    while is_taken(candidate):
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _versions(tensors: Iterable[Tensor]) -> list[int]:
    return [each._version for each in tensors]


def _memory(value: Any) -> Any:
    """A key that two values share only if they are the same tensor."""
    if isinstance(value, Tensor) and value.layout is torch.strided and value.data_ptr():
        return value.data_ptr(), value.dtype, value.shape, value.stride()
    return id(value)
