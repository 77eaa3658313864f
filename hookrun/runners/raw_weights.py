"""A run without averages goes on with raw weights, also from a file that has averages in them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hookrun import checkpoint as ckpt
from hookrun.core.protocols import LendsWeights
from hookrun.distributed import get_dist_info, unwrap_model

if TYPE_CHECKING:
    from .base_runner import BaseRunner


@torch.no_grad()
def take_raw_weights(runner: BaseRunner) -> None:
    """Where a resumed file has averages as its weights, and no hook of the run keeps any, go on
    with the raw weights, with a warning.
    """
    resumed = runner.resumed
    if not isinstance(resumed, Mapping) or any(isinstance(h, LendsWeights) for h in runner.hooks):
        return
    if not _has_averages_as_weights(resumed, runner):
        return
    raw = _raw_weights(unwrap_model(runner.model), ckpt.state_dict_of(resumed))
    for tensor, value in raw:
        tensor.copy_(value)
    # What the file says of its averages holds no longer for those that this run saves.
    runner._hook_states = {
        key: state for key, state in runner._hook_states.items() if not _says_swapped(state)
    }
    if raw and get_dist_info()[0] == 0:
        runner.logger.warning(
            "the resumed checkpoint has averages as the model's weights, and this run has no "
            "EMAHook: it goes on with the raw weights, and drops the averages. Register EMAHook to "
            "keep them"
        )


def _has_averages_as_weights(checkpoint: Mapping[str, Any], runner: BaseRunner) -> bool:
    own = checkpoint.get("hookrun")
    if not own:  # of MMCV's runners, whose files do not say, only the one by epochs swaps
        return runner.max_epochs is not None
    return any(_says_swapped(state) for state in (own.get("hooks") or {}).values())


def _says_swapped(state: Any) -> bool:
    return isinstance(state, Mapping) and state.get("swapped") is True


def _raw_weights(model: torch.nn.Module, weights: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """The model's tensors with their raw values, which lie where a file keeps averages else."""
    buffers = {name: buffer for name, buffer in model.named_buffers() if name[:4] != "ema_"}
    found, taken = [], set(buffers)
    for name, tensor in itertools.chain(model.named_parameters(), buffers.items()):
        plain = name.replace("_orig_mod.", "").replace("module.", "")
        candidate = base = f"ema_{plain.replace('.', '_')}"
        number = 0
        while candidate in taken:
            number += 1
            candidate = f"{base}_{number}"
        taken.add(candidate)
        value = weights.get(candidate)
        if isinstance(value, Tensor) and value.shape == tensor.shape:
            found.append((tensor, value))
    return found
