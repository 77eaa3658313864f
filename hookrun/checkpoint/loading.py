"""Loading weights of a checkpoint into a model."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from hookrun.core.interrupts import uninterrupted
from hookrun.core.layer_versions import layer_versions, set_layer_versions
from hookrun.core.schema import WrongValue, mapping, optional, record, text, whole
from hookrun.distributed import all_gather_objects, get_dist_info, plain_name
from hookrun.storage import FileClient

from .averages import Weights, check_choice, choose_weights, find_averages
from .files import read_checkpoint
from .fitting import Fit, fit, unchanged_on_error
from .safetensors import TIED

MapLocation = str | torch.device | Callable[..., Any] | None
STRIP_MODULE = ((r"^module\.", ""),)

# Keys under which a checkpoint may have its weights; the first that is there counts.
_KEYS = ("state_dict", "model", "model_state_dict", "module")


def load_state_dict(
    module: nn.Module,
    state_dict: Mapping[str, Any],
    strict: bool = False,
    logger: logging.Logger | None = None,
) -> None:
    """Load weights into a model.

    Parts of names that wrappers add may differ; see `load_checkpoint`.

    Args:
        module: the model, possibly in wrappers.
        state_dict: names to tensors.
        strict: whether names and shapes must match exactly.
        logger: where mismatches are logged if not strict; by default they are a Python warning.

    Raises:
        RuntimeError: ``strict``, and they do not match.
        ValueError: nothing fits; something else than a tensor where the model has one; tensors
            without values.

    The model is unchanged then.
    """
    _load(fit(module, state_dict), "the state dict", strict, logger)


def load_checkpoint(
    model: nn.Module,
    filename: str | os.PathLike[str],
    map_location: MapLocation = None,
    strict: bool = False,
    logger: logging.Logger | None = None,
    revise_keys: Sequence[tuple[str, str]] = STRIP_MODULE,
    *,
    weights: Weights | None = None,
    trust: bool = False,
    file_client_args: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Load the weights in a checkpoint file into a model.

    Parts of names that wrappers add may differ between file and model: ``TrainStep`` and other
    modules around the model, parallel wrappers, ``torch.compile`` of the model or of parts of it,
    torch's AveragedModel. If names do not match unchanged, they are all renamed in the one way in
    which most entries fit. EMAHook's averages in the file are ignored if the model has none.

    Args:
        model: the model, possibly in wrappers.
        filename: the file: a checkpoint of hookrun or MMCV, a state dict, a dict with one under
            ``state_dict`` or ``model``, or a safetensors file; or the folder of a sharded
            checkpoint.
        map_location: as for ``torch.load``.
        strict: whether names and shapes must match exactly. Tied weights need to be there once.
        logger: where mismatches are logged if not strict; by default they are a Python warning.
        revise_keys: (pattern, replacement) pairs of regular expressions applied to the names in
            the file, before anything else; by default a leading ``module.`` is optional.
        weights: of a file with averages, ``'ema'`` for these, ``'raw'`` for the trained weights, or
            None for what the file has under the weights' names: the averages if it was saved while
            they were swapped in, as at the end of an epoch. That is assumed of MMCV's files, except
            those called ``iter_N.pth``.
        trust: also read files with other objects than plain types and tensors, as old ones may
            have. That runs code from the file; a warning says so.
        file_client_args: the storage; by default that of the URI, or the local disk.

    Returns:
        The content of the file.

    Raises:
        FileNotFoundError: there is no such file.
        RuntimeError: ``strict``, and names or shapes do not match.
        ValueError: the file is no checkpoint, is damaged, or needs ``trust``; nothing in it fits;
            ``revise_keys`` map two names to one; ``weights`` is none of the three, or ``'ema'`` and
            the file has no averages.

    The model is unchanged then.
    """
    check_choice(weights)
    client = FileClient.infer_client(file_client_args, filename)
    checkpoint = read_checkpoint(filename, map_location, trust=trust, client=client)
    fitting = _fit_content(model, checkpoint, filename, revise_keys, weights)
    _load(fitting, repr(os.fspath(filename)), strict, logger)
    return checkpoint


def load_content(
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    filename: str | os.PathLike[str],
    strict: bool = False,
    logger: logging.Logger | None = None,
    revise_keys: Sequence[tuple[str, str]] = STRIP_MODULE,
    weights: Weights | None = None,
) -> None:
    """Load the weights in the content of a checkpoint file into a model.

    Args:
        checkpoint: the content.
        filename: the file that it comes from, for messages; averages in MMCV's files depend on it.

    The other arguments and the errors are those of `load_checkpoint`.
    """
    fitting = _fit_content(model, checkpoint, filename, revise_keys, weights)
    _load(fitting, repr(os.fspath(filename)), strict, logger)


def _fit_content(
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    filename: str | os.PathLike[str],
    revise_keys: Sequence[tuple[str, str]],
    weights: Weights | None,
) -> Fit:
    """What of the content fits the model; see `load_checkpoint`."""
    found: Mapping[str, Any] = state_dict_of(checkpoint)
    averages = find_averages(checkpoint, found, source=filename)
    if weights is not None:
        found = choose_weights(found, averages, weights, filename)
    revise = _reviser(revise_keys)
    return fit(
        model,
        _revised(found, revise, repr(os.fspath(filename))),
        averages=_renamed(averages.names, revise) if averages else {},
        tied=_renamed(_tied(checkpoint, found), revise),
    )


def load_from_local(
    filename: str | os.PathLike[str], map_location: MapLocation = None
) -> dict[str, Any]:
    """The content of a checkpoint file of the local disk; see `load_checkpoint`.

    Args:
        filename: the file; ``~`` is the user's home.
        map_location: as for ``torch.load``.

    Raises:
        FileNotFoundError: there is no such file on the disk; an address is none either.
        ValueError: it is no checkpoint, or damaged.
    """
    filename = os.path.expanduser(filename)
    return read_checkpoint(filename, map_location, client=FileClient("disk"))


def load_from_http(
    filename: str,
    map_location: MapLocation = None,
    model_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """The content of a checkpoint file on a web server; see `load_checkpoint`.

    Args:
        filename: its address, ``http://...`` or ``https://...``.
        map_location: as for ``torch.load``.
        model_dir: a folder in which the file is kept and, if it is there, read from. Rank 0 writes
            it, so that the function must be called on all ranks then.

    Raises:
        OSError: the file could not be got; with ``model_dir``, or not be written, on all ranks.
        ValueError: it is no checkpoint, or damaged.
    """
    if model_dir is None:
        return read_checkpoint(filename, map_location)
    kept = os.path.join(model_dir, os.path.basename(urlsplit(filename).path))
    failure = None
    if get_dist_info()[0] == 0 and not os.path.exists(kept):
        try:
            content = FileClient.infer_client(uri=filename).get(filename)
            FileClient("disk").put(content, kept)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
    failure = all_gather_objects(failure)[0]
    if failure is not None:
        raise OSError(f"{filename!r} could not be copied to {kept!r}: {failure}")
    return read_checkpoint(kept, map_location)


def state_dict_of(checkpoint: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """The weights in a checkpoint, or the checkpoint itself if it is a bare state dict.

    Args:
        checkpoint: the content of a file.

    Raises:
        ValueError: its ``state_dict`` is no dict, or damaged.
        TypeError: its keys are not strings.
    """
    found = checkpoint.get("state_dict", checkpoint)
    if found is checkpoint:
        dicts = {key: value for key, value in checkpoint.items() if _holds_tensors(value)}
        known = [key for key in _KEYS if key in dicts] or (list(dicts) if len(dicts) == 1 else [])
        found = dicts[known[0]] if known else checkpoint
    if not isinstance(found, Mapping):
        raise ValueError(f"the weights of a checkpoint are a dict, not a {type(found).__name__}")
    odd = next((name for name in found if not isinstance(name, str)), None)
    if odd is not None:
        raise TypeError(f"the weights of a checkpoint have names, but here a key is {odd!r:.80}")
    weights = OrderedDict(found)
    versions = layer_versions(found)
    try:
        _VERSIONS(versions, "state_dict._metadata")
    except WrongValue as error:
        raise ValueError(f"the weights of a checkpoint are damaged: {error}") from error
    set_layer_versions(weights, versions)
    return weights


_VERSIONS = optional(mapping(text, record({}, {"version": optional(whole)})))


def averages_for(
    model: nn.Module, checkpoint: Mapping[str, Any], by_epoch: bool
) -> tuple[dict[str, Tensor], bool]:
    """The averages in a checkpoint for the tensors of a model.

    Args:
        model: possibly in wrappers, which may differ from those of the saved model.
        checkpoint: the content of a file.
        by_epoch: see `find_averages`.

    Returns:
        (the entries that EMAHook keeps beside the weights, by the plain names of the model's
        tensors; whether they are swapped: the weights hold the averages, and these entries the
        trained weights)

    Raises:
        ValueError: the checkpoint is damaged.
    """
    weights = state_dict_of(checkpoint)
    averages = find_averages(checkpoint, weights, by_epoch=by_epoch)
    if averages is None:
        return {}, False
    fitting = fit(model, weights, averages=averages.names)
    entries = {
        plain_name(fitting.module, fitting.match.names[name]): weights[entry]
        for name, entry in averages.names.items()
        if name in fitting.match.names
    }
    return entries, averages.swapped


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(each, Tensor) for each in value.values())


def _tied(checkpoint: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, str]:
    """Names that a safetensors file left out, and the names with the same values."""
    tied = checkpoint.get(TIED)
    return dict(tied) if isinstance(tied, Mapping) and weights.keys() >= set(tied.values()) else {}


def _reviser(revise_keys: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    pairs = tuple((pattern, replacement) for pattern, replacement in revise_keys)
    if pairs == STRIP_MODULE:  # match_names handles it, in both directions
        return lambda name: name

    def revise(name: str) -> str:
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        return name

    return revise


def _revised(
    weights: Mapping[str, Any], revise: Callable[[str], str], source: str
) -> OrderedDict[str, Any]:
    revised: OrderedDict[str, Any] = OrderedDict()
    before: dict[str, str] = {}
    for name, value in weights.items():
        new = revise(name)
        if new in revised:
            raise ValueError(
                f"revise_keys make {new!r} of both {before[new]!r} and {name!r} in {source}"
            )
        revised[new], before[new] = value, name
    set_layer_versions(revised, layer_versions(weights))
    return revised


def _load(fitting: Fit, source: str, strict: bool, logger: logging.Logger | None) -> None:
    """Load what fits, and report what does not."""
    model = type(fitting.module).__name__
    different = f"the model {model} and {source} do not match:\n{fitting.mismatch}"
    if strict and fitting.mismatch:
        reason = f"\nNothing fits: {fitting.reason}" if fitting.reason else ""
        raise RuntimeError(different + reason)
    if fitting.reason:
        raise ValueError(f"nothing in {source} fits the model {model}: {fitting.reason}")
    if fitting.mismatch and get_dist_info()[0] == 0:
        if logger is not None:
            logger.warning(different)
        else:
            warnings.warn(different, stacklevel=3)
    uninterrupted(_load_or_restore, fitting)


def _load_or_restore(fitting: Fit) -> None:
    with unchanged_on_error(fitting.module):
        fitting.load()


def _renamed(names: Mapping[str, str], revise: Callable[[str], str]) -> dict[str, str]:
    return {revise(name): revise(other) for name, other in names.items()}
