"""Fitting a state dict to a model: which entry belongs where, and what does not match."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from hookrun.core.layer_versions import layer_versions, set_layer_versions
from hookrun.core.printable import printable
from hookrun.distributed import plain_names, unwrap_model

from .averages import average_names, averages_of_model
from .names import Match, match_names
from .sharded import shard_like
from .tied import held_by, same_memory

Shape = tuple[int, ...]

_COUNTER = "num_batches_tracked"  # a buffer of BatchNorm layers that old files lack
_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_AVERAGED = "n_averaged"  # a buffer of torch's AveragedModel


@dataclass
class Mismatch:
    """How a state dict differs from a model."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    # name, in the file, in the model
    shapes: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    # groups of entries that are one tensor in the model and differ in the file
    untied: list[list[str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes or self.untied)

    def __str__(self) -> str:
        lines = [
            f"{printable(name)} has shape {theirs} in the file and {ours} in the model"
            for name, theirs, ours in self.shapes
        ]
        lines.extend(
            f"{printable(', '.join(names))} are one tensor in the model and differ in the file: "
            f"{printable(names[0])} is taken"
            for names in self.untied
        )
        if self.missing:
            lines.append(f"{len(self.missing)} missing in the file: {shorten(self.missing)}")
        if self.unexpected:
            lines.append(f"{len(self.unexpected)} not in the model: {shorten(self.unexpected)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Fit:
    """How a state dict fits a model.

    Attributes:
        module: the model, without outer wrappers.
        entries: what fits, under the model's names.
        match: which names correspond.
        mismatch: what does not fit.
        reason: why nothing at all fits; empty if something does.
    """

    module: nn.Module
    entries: OrderedDict[str, Any]
    match: Match
    mismatch: Mismatch
    reason: str

    def load(self) -> None:
        """Load what fits by the model's ``load_state_dict``, so that its hooks run."""
        ours = self.module.state_dict()
        entries = OrderedDict(
            (name, shard_like(value, ours.get(name))) for name, value in self.entries.items()
        )
        set_layer_versions(entries, layer_versions(self.entries))
        self.module.load_state_dict(entries, strict=False)


def fit(
    model: nn.Module,
    weights: Mapping[str, Any],
    *,
    averages: Mapping[str, str] | None = None,
    tied: Mapping[str, str] | None = None,
) -> Fit:
    """Find out what of a state dict fits a model; nothing is loaded.

    Names may have parts that wrappers add, on both sides. Not reported as missing or unexpected:
    averages of EMAHook, BatchNorm's counters that old files lack, and entries of the model that
    share memory with loaded ones.

    Args:
        model: possibly in wrappers.
        weights: names to tensors.
        averages: names of weights to names of averages in the file; by default found by name and
            shape. Of weights tied in the model, those that have an average are preferred.
        tied: names that the file left out to the names with the same values.

    Raises:
        ValueError: something else than a tensor where the model has one; tensors without values.
    """
    module = unwrap_model(model)
    state = module.state_dict()
    extra = {*average_names(weights).values(), *(averages or {}).values(), _AVERAGED}
    optional = _optional_names(module, state)
    shown = plain_names(module, state)
    plain = {name: original for original, name in shown.items()}
    match = match_names(
        _shapes(weights), _shapes(state), plain if len(plain) == len(state) else {}, extra, optional
    )
    mismatch = Mismatch()
    entries: OrderedDict[str, Any] = OrderedDict()
    for name, target in match.names.items():
        _check_kind(name, weights[name], state[target])
        theirs, ours = _shape(weights[name]), _shape(state[target])
        if theirs is not None and ours is not None and theirs != ours:
            mismatch.shapes.append((name, theirs, ours))
        else:
            entries[target] = weights[name]
    for name, same in (tied or {}).items():
        target = match.rename(name) or ""
        if (
            target in state
            and target not in entries
            and _shape(weights[same]) == _shape(state[target])
        ):
            entries[target] = weights[same]
    _untie(state, entries, match, averages or {}, mismatch)
    misshapen = {match.names[name] for name, *_ in mismatch.shapes}
    held = held_by(entries.keys(), state)
    mismatch.missing = [
        shown[name]
        for name in state
        if name not in entries and name not in misshapen | optional and name not in held
    ]
    mismatch.unexpected = [n for n in weights if n not in match.names and n not in extra]
    set_layer_versions(entries, _metadata(weights, match))
    reason = _why_nothing_fits(state, weights, entries, match, shown)
    return Fit(module, entries, match, mismatch, reason)


@contextlib.contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """A context that restores a model's state if the block raises."""
    module = unwrap_model(model)
    state = module.state_dict()
    before = {
        name: value.detach().to("cpu", copy=True) if _has_values(value) else value
        for name, value in state.items()
    }
    try:
        yield
    except BaseException:
        others = {n: value for n, value in before.items() if not isinstance(value, Tensor)}
        with contextlib.suppress(Exception):  # the block's error is the one to raise
            module.load_state_dict(others, strict=False)
        with torch.no_grad():
            for name, value in module.state_dict().items():
                if name in before and _has_values(before[name]):
                    value.copy_(before[name])
        raise


def shorten(names: Sequence[str], limit: int = 8) -> str:
    shown = printable(", ".join(names[:limit]))
    return shown if len(names) <= limit else f"{shown}, ..."


def _optional_names(module: nn.Module, state: Mapping[str, Any]) -> set[str]:
    """Names in the model that may be missing in the file."""
    names = {name for name in state if name.rpartition(".")[2] == _COUNTER}
    for name, part in module.named_modules():
        if isinstance(part, AveragedModel):
            names.add(f"{name}.{_AVERAGED}" if name else _AVERAGED)
    averages = averages_of_model(module)
    return names | (averages.buffers if averages else set())


def _shape(value: Any) -> Shape | None:
    """The shape; None for what is no tensor, and for lazy parameters."""
    return tuple(value.shape) if isinstance(value, Tensor) and not is_lazy(value) else None


def _shapes(entries: Mapping[str, Any]) -> dict[str, Shape | None]:
    return {name: _shape(value) for name, value in entries.items()}


def _has_values(value: Any) -> bool:
    return isinstance(value, Tensor) and not is_lazy(value) and value.device.type != "meta"


def _check_kind(name: str, value: Any, target: Any) -> None:
    if not isinstance(target, Tensor):
        return
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a tensor in the model, but a {type(value).__name__} here")
    if (value.layout in _SPARSE) != (target.layout in _SPARSE):
        kinds = ("sparse", "dense") if value.layout in _SPARSE else ("dense", "sparse")
        raise ValueError(f"{name} is {kinds[0]} here, and {kinds[1]} in the model")
    if value.device.type == "meta":
        raise ValueError(
            f"{name} has no values, for it is on the device 'meta': read the file with another "
            "map_location"
        )
    if target.device.type == "meta":
        raise ValueError(
            f"the model's {name} has no memory to load into, for it is on the device 'meta': call "
            "model.to_empty(device=...) first"
        )


def _untie(
    state: Mapping[str, Any],
    entries: OrderedDict[str, Any],
    match: Match,
    averaged: Collection[str],
    mismatch: Mismatch,
) -> None:
    """Where entries that are one tensor in the model differ in the file, keep one of them.

    That is the first with an average; if none has one, it is the first, and a mismatch is noted.
    """
    theirs = {target: name for name, target in match.names.items()}
    for group in same_memory({name: state[name] for name in entries if name in state}):
        averages = [name for name in group if theirs.get(name) in averaged]
        first = (averages or group)[0]
        others = [name for name in group if not _equal(entries[first], entries[name])]
        for name in others:
            del entries[name]
        if others and not averages:
            mismatch.untied.append([theirs.get(name, name) for name in (first, *others)])


def _equal(one: Any, other: Any) -> bool:
    """Whether two entries of the same shape are bitwise equal."""
    if one is other or not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return one is other
    if (one.dtype, one.layout) != (other.dtype, other.layout) or one.layout is not torch.strided:
        return False
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    return torch.equal(*(each.detach().flatten().view(torch.uint8) for each in (one, other)))


def _metadata(weights: Mapping[str, Any], match: Match) -> OrderedDict[str, Any]:
    """The versions of modules in the file (``_metadata``), under the model's names."""
    theirs = layer_versions(weights) or {}
    found: OrderedDict[str, Any] = OrderedDict()
    if "" in theirs:
        found[""] = theirs[""]
    for name, target in match.names.items():
        inside, ours = name.split(".")[:-1], target.split(".")[:-1]
        while ".".join(ours) not in found and ".".join(inside) in theirs:
            found[".".join(ours)] = theirs[".".join(inside)]
            if not inside or not ours or inside[-1] != ours[-1]:
                break
            inside, ours = inside[:-1], ours[:-1]
    return found


def _why_nothing_fits(
    state: Mapping[str, Any],
    weights: Mapping[str, Any],
    entries: Mapping[str, Any],
    match: Match,
    shown: Mapping[str, str],
) -> str:
    targets = [
        n for n, value in state.items() if isinstance(value, Tensor) and not n.endswith(_COUNTER)
    ]
    if not targets or any(name in entries for name in targets):
        return ""
    tensors = [name for name, value in weights.items() if isinstance(value, Tensor)]
    inside = [
        name
        for name, value in weights.items()
        if isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())
    ]
    if not tensors and inside:
        return (
            f"its weights are in nested dicts, {_listed(inside)}: read it with torch.load() and "
            "pass the one that is meant to load_state_dict()"
        )
    if not tensors:
        return f"it holds no tensors, but {_listed(weights)}" if weights else "it holds nothing"
    if match.ambiguous:
        parts = " and ".join(f"{part + '.'!r}" for part in match.ambiguous)
        pattern = f"^{re.escape(match.ambiguous[0])}\\."
        return (
            f"its names fit in several ways, as those that begin with {parts}: choose one with "
            f"revise_keys=[({pattern!r}, '')]"
        )
    if match.ambiguous_in_model:
        parts = " and ".join(map(repr, match.ambiguous_in_model))
        return (
            f"it fits several parts of the model, {parts}: give the part that is meant in place "
            "of the model"
        )
    if match.names:
        name, target = next(iter(match.names.items()))
        shapes = [_shape(part[n]) for part, n in ((weights, name), (state, target))]
        return f"no shape fits: {name!r} is {shapes[0]}, and the model's {target!r} is {shapes[1]}"
    ours = [shown[name] for name in targets]
    near = [difflib.get_close_matches(name, tensors, n=1, cutoff=0.0)[0] for name in ours[:3]]
    theirs_first = _listed(dict.fromkeys([*near, *tensors]))
    return (
        f"the model has {_listed(ours)}, and the file {theirs_first}; where names differ, "
        "load_checkpoint(..., revise_keys=[(pattern, replacement)]) changes the file's by regular "
        "expressions"
    )


def _listed(names: Iterable[str]) -> str:
    return shorten([repr(name) for name in names], limit=3)
