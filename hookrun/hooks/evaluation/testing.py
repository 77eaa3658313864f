"""Functions that run a model over a test set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hookrun.distributed import unwrap_model


@torch.no_grad()
def single_gpu_test(model: nn.Module, data_loader: Iterable[Any]) -> list[Any]:
    """Run the model over a loader and collect its results, in order.

    Args:
        model: called as ``model(return_loss=False, **batch)``, or as ``predict_step(batch)`` if it
            has that method, as :class:`~hookrun.TrainStep` does. It is put into evaluation mode and
            stays in it.
        data_loader: yields the batches.

    Returns:
        A list with one result per sample.
    """
    model.eval()
    results: list[Any] = []
    for batch in data_loader:
        results.extend(_predict(model, batch))
    return results


@torch.no_grad()
def collect_predictions(model: nn.Module, data_loader: Iterable[Any]) -> tuple[Any, Any]:
    """Run the model over a loader and collect its outputs and the targets.

    Args:
        model: as for :func:`single_gpu_test`; it too stays in evaluation mode.
        data_loader: yields batches that are pairs ``(inputs, target)`` or dicts with ``target``.
            A model with ``split_batch(batch)`` may have others: it returns ``(inputs, target)``.

    Returns:
        (outputs, targets): of all batches. Tensors are concatenated along the batch dimension, in
        tuples and dicts too; anything else becomes a list with one item per sample.

    Raises:
        ValueError: the loader yields no batches.
        KeyError: a batch is a dict without ``target``.
    """
    model.eval()
    outputs, targets = [], []
    split = getattr(unwrap_model(model), "split_batch", _split)
    for batch in data_loader:
        outputs.append(_predict(model, batch))
        targets.append(split(batch)[1])
    if not outputs:
        raise ValueError("the loader to evaluate on yields no batches")
    return _concatenate(outputs), _concatenate(targets)


def _predict(model: nn.Module, batch: Any) -> Any:
    predict = getattr(unwrap_model(model), "predict_step", None)
    if predict is not None:
        return predict(batch)
    if not isinstance(batch, dict):
        raise TypeError(
            f"evaluation calls {type(model).__name__}(return_loss=False, **batch), but the batch "
            f"is a {type(batch).__name__}: let the loader give dicts, wrap the model in "
            "hookrun.TrainStep, or give EvalHook a test_fn"
        )
    return model(return_loss=False, **batch)


def _split(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, dict):
        if "target" not in batch:
            raise KeyError(f"metrics need 'target' in a batch that is a dict; it has {list(batch)}")
        return batch, batch["target"]
    inputs, target = batch
    return inputs, target


def _concatenate(parts: list[Any]) -> Any:
    """Concatenate the outputs of all batches; see :func:`collect_predictions`."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part.reshape(1) if part.ndim == 0 else part for part in parts])
    if isinstance(first, Mapping):
        return {name: _concatenate([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return tuple(_concatenate(list(column)) for column in zip(*parts, strict=True))
    return [item for part in parts for item in part]


@contextlib.contextmanager
def restore_modes(model: torch.nn.Module) -> Iterator[None]:
    """A context after which every module is in training or evaluation mode as it was before."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
