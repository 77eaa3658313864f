"""Averages beside the weights: which entries of a model or a file they are, and which of the two
sits where."""

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
"""The key of a checkpoint under which :class:`FileAverages` are recorded."""

_ATTRIBUTE = "_averages_record"


@dataclass
class AveragesRecord:
    """What a model says of its averages.

    Attributes:
        buffers: all buffers that hooks gave it for averages, in earlier runs too.
        names: the buffers of the latest run, by the plain names of the tensors they average.
        swapped: whether the tensors hold the averages, and the buffers what was averaged.
        exact: while swapped, averages that the tensors' dtype rounds; by the tensor's place.
        tensors, versions: the tensors at the latest swap, and their versions then.
    """

    buffers: set[str] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)
    swapped: bool = False
    exact: dict[int, Tensor] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def note_swap(self, tensors: Iterable[Tensor]) -> None:
        """The tensors of the model have just been exchanged with the averages."""
        self.swapped = not self.swapped
        self.tensors = list(tensors)
        self.versions = _versions(self.tensors)

    def changed_since_swap(self, tensors: Sequence[Tensor]) -> bool:
        """Whether somebody wrote or replaced the model's tensors since the latest swap."""
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
        if state["versions"] is None:  # copies of tensors count their versions anew
            self.versions = _versions(self.tensors)

    def as_plain(self) -> dict[str, Any]:
        """What files say of it."""
        return {"names": dict(self.names), "swapped": self.swapped}


def averages_of_model(model: nn.Module) -> AveragesRecord | None:
    """The record of a model's averages, if it has some; the model may be in wrappers."""
    record: AveragesRecord | None = vars(unwrap_model(model)).get(_ATTRIBUTE)
    return record


def begin_averages(model: nn.Module) -> AveragesRecord:
    """The record of a model's averages, which is the model's from now on."""
    record: AveragesRecord = vars(unwrap_model(model)).setdefault(_ATTRIBUTE, AveragesRecord())
    return record


@dataclass(frozen=True)
class FileAverages:
    """The averages in a checkpoint.

    Attributes:
        names: the names of the entries beside the weights, by those of the weights.
        swapped: whether the weights are the averages, and the entries what was averaged.
    """

    names: Mapping[str, str]
    swapped: bool

    def choose(self, weights: Mapping[str, Any], which: Weights) -> OrderedDict[str, Any]:
        """The averages, or what was averaged, under the weights' names.

        What has no average, as buffers, is as it is in the file; so is its memory: what shares it
        with an averaged weight, as tied weights do, follows that.
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

    Files of hookrun record them. In others they are found by their names, as MMCV gives them, and
    which of the two sits where follows from the runner: MMCV's EpochBasedRunner saves the averages
    as the weights, its IterBasedRunner does not.

    Args:
        checkpoint: what the file holds.
        weights: its state dict, as in the file.
        by_epoch: whether the runner of a file that does not say was one by epochs; by default that
            follows from the name: ``iter_N.pth`` is of one by iterations.
        source: the file's name.

    Raises:
        ValueError: what it records makes no sense.
    """
    if KEY in checkpoint:
        names, swapped = _recorded(checkpoint[KEY])
        names = {name: entry for name, entry in names.items() if name in weights}
        lost = [entry for entry in names.values() if not isinstance(weights.get(entry), Tensor)]
        if lost:
            raise ValueError(f"the checkpoint is damaged: it has no average {lost[0]!r}")
    elif "hookrun" in checkpoint:  # a file without averages, or an old one: they were not recorded
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


def _hook_state(own: Any) -> bool | None:
    """Whether the averages are swapped in, as far as EMAHook's state in a file says so."""
    hooks = own.get("hooks") if isinstance(own, Mapping) else None
    state = hooks.get("EMAHook/0") if isinstance(hooks, Mapping) else None
    return bool(state.get("swapped")) if isinstance(state, Mapping) else None


def average_names(weights: Mapping[str, Any]) -> dict[str, str]:
    """Names of averages by the names of weights, from names and shapes alone.

    An average of ``a.b`` is called ``ema_a_b``, beside the outermost module of the model; where
    that is taken, a number is behind it.
    """
    prefixes = {name.rpartition("ema_")[0] for name in weights if _may_be_average(name)}
    found: dict[str, str] = {}
    taken: set[str] = set()
    for prefix in prefixes:
        for name, value in weights.items():
            if not name.startswith(prefix) or _may_be_average(name):
                continue
            inner = name.removeprefix(prefix)
            for stem in dict.fromkeys((_plain(inner), inner)):  # MMCV keeps names of wrappers
                entry = free_name(f"{prefix}ema_{stem.replace('.', '_')}", taken.__contains__)
                if _is_average(value, weights.get(entry)):
                    found[name] = entry
                    taken.add(entry)
                    break
    return found


def check_choice(which: Any) -> None:
    """Refuse what names no weights.

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
    """Of the weights in a file, the averages (``'ema'``), or what was averaged (``'raw'``).

    Raises:
        ValueError: the file has no averages, and they are asked for.
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
    """Whether it is ``ema_...`` of the model itself, which parallel wrappers may be around."""
    *outside, last = name.split(".")
    return last.startswith("ema_") and all(each in {"module", *INNER_NAMES} for each in outside)


def _plain(name: str) -> str:
    parts = name.split(".")
    return ".".join(each for each in parts if each not in INNER_NAMES)


def free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """The name, with a number behind it where it is taken."""
    candidate, number = name, 0
    while is_taken(candidate):
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _versions(tensors: Iterable[Tensor]) -> list[int]:
    return [each._version for each in tensors]


def _memory(value: Any) -> Any:
    """What equals that of another tensor if the two are one; otherwise it is only its own."""
    if isinstance(value, Tensor) and value.layout is torch.strided and value.data_ptr():
        return value.data_ptr(), value.dtype, value.shape, value.stride()
    return id(value)
