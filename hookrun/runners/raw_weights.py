"""Resuming without EMAHook from a checkpoint whose weights are averages: use the raw weights."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hookrun import checkpoint as ckpt
from hookrun.core.protocols import LendsWeights, implements
from hookrun.distributed import get_dist_info, plain_name, unwrap_model

from .any_runner import AnyRunner


@torch.no_grad()
def load_raw_weights(runner: AnyRunner) -> None:
    """If the resumed file has averages as the model's weights, and no hook of the run keeps
    averages, load the raw weights, with a warning.
    """
    resumed = runner.resumed
    if not isinstance(resumed, Mapping) or any(implements(h, LendsWeights) for h in runner.hooks):
        return
    by_epoch = runner.max_epochs is not None
    entries, swapped = ckpt.averages_for(runner.model, resumed, by_epoch)
    model = unwrap_model(runner.model)
    if not swapped:
        _warn_of_dropped(runner, model, resumed)
        return
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        value = entries.get(plain_name(model, name))
        if value is not None:
            tensor.copy_(ckpt.shard_like(value, tensor))
    # The state "swapped" is no longer true for the checkpoints that this run saves.
    runner.waiting_hook_states = {
        key: state for key, state in runner.waiting_hook_states.items() if not _says_swapped(state)
    }
    if get_dist_info()[0] == 0:
        runner.logger.warning(
            "the resumed checkpoint has averages as the model's weights, and this run has no "
            "EMAHook: it goes on with the raw weights, and drops the averages. Register EMAHook to "
            "keep them"
        )


def _warn_of_dropped(runner: AnyRunner, model: nn.Module, resumed: Mapping[str, Any]) -> None:
    """Say that averages in the file are not loaded, where the model has no buffers for them."""
    weights = resumed.get("state_dict")
    if not isinstance(weights, Mapping) or get_dist_info()[0] != 0:
        return
    known = {plain_name(model, name) for name, _ in model.named_buffers()}
    dropped = {name.rpartition(".")[2] for name in ckpt.average_names(weights).values()} - known
    if dropped:
        runner.logger.warning(
            "the resumed checkpoint has averages of the weights (%s, ...), and neither the model "
            "nor an EMAHook takes them: they are dropped. A hook of your own that keeps averages "
            "must load them itself",
            min(dropped),
        )


def _says_swapped(state: Any) -> bool:
    return isinstance(state, Mapping) and state.get("swapped") is True
