"""Running a model over a test set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hookrun.distributed import unwrap_model


@torch.no_grad()
def single_gpu_test(model: nn.Module, data_loader: Iterable[Any]) -> list[Any]:
    """The model's results for every sample of a loader, in order.

    Args:
        model: called as ``model(return_loss=False, **batch)``, or, where it has one, through
            ``predict_step(batch)`` as :class:`~hookrun.TrainStep` does. It is left in evaluation
            mode.
        data_loader: gives the batches.

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
    """The model's outputs and the targets for a whole loader, on the model's device.

    Args:
        model: as for :func:`single_gpu_test`. It is left in evaluation mode.
        data_loader: gives batches that are pairs ``(inputs, target)`` or dicts with ``target``.

    Returns:
        (outputs, targets): joined over all batches; tensors where the model gives tensors, else
        lists with one item per sample.
    """
    model.eval()
    outputs, targets = [], []
    split = getattr(unwrap_model(model), "split_batch", _split)
    for batch in data_loader:
        outputs.append(_predict(model, batch))
        targets.append(split(batch)[1])
    if not outputs:
        raise ValueError("the loader to evaluate on gives no batches")
    return _join(outputs), _join(targets)


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


def _join(parts: list[Any]) -> Any:
    """The parts of all batches as one; tensors, in tuples and dicts too, along the batch."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part.reshape(1) if part.ndim == 0 else part for part in parts])
    if isinstance(first, Mapping):
        return {name: _join([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return tuple(_join(list(column)) for column in zip(*parts, strict=True))
    return [item for part in parts for item in part]


@contextlib.contextmanager
def mode_kept(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation switches the model's mode: afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
