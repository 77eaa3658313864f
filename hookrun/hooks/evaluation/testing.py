"""Functions that run a model over a test set."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from hookrun.distributed import (
    collect_results_cpu,
    collect_results_gpu,
    fail_together,
    gather_parts,
    get_dist_info,
    unwrap_model,
    watch_failures,
    without_buffer_sync,
)

from .joining import join_batches, join_ranks
from .progress import progress_over


@torch.no_grad()
def single_gpu_test(model: nn.Module, data_loader: Iterable[Any]) -> list[Any]:
    """Run the model over a loader and collect its results, in order.

    A terminal shows how far it is.

    Args:
        model: called as ``model(return_loss=False, **batch)``, or as ``predict_step(batch)`` if it
            has that method, as `TrainStep` does. It is put into evaluation mode and
            stays in it.
        data_loader: yields the batches.

    Returns:
        A list with one result per sample.
    """
    model.eval()
    results: list[Any] = []
    with without_buffer_sync(model), progress_over(data_loader) as batches:
        for batch in batches:
            results.extend(predict(model, batch))
    return results


@torch.no_grad()
def multi_gpu_test(
    model: nn.Module,
    data_loader: Any,
    tmpdir: str | os.PathLike[str] | None = None,
    gpu_collect: bool = False,
) -> list[Any] | None:
    """Run the model over this rank's part of a test set and collect the results of all ranks.

    To be called on all ranks. If it fails on one, it fails on all.

    Args:
        model: as for `single_gpu_test`.
        data_loader: yields this rank's batches; its ``dataset`` is the test set of all ranks, its
            sampler a ``DistributedSampler`` without shuffling.
        tmpdir: as for `collect_results_cpu`.
        gpu_collect: whether to use `collect_results_gpu` instead, without files.

    Returns:
        On rank 0, a list with one result per sample, in the order of the set and without those of
        samples that the sampler repeated; else None.

    Raises:
        TypeError: the loader has no dataset with a length.
        ValueError: the ranks do not have as many results as a ``DistributedSampler`` gives samples.
        RuntimeError: it failed on another rank.
    """
    with watch_failures("multi_gpu_test") as check, without_buffer_sync(model):
        size = size_of_set(data_loader)
        model.eval()
        results: list[Any] = []
        with progress_over(data_loader) as batches:
            for batch in batches:
                check()
                results.extend(predict(model, batch))
    if get_dist_info()[1] == 1:
        return results
    if gpu_collect:
        return collect_results_gpu(results, size)
    return collect_results_cpu(results, size, tmpdir)


def size_of_set(data_loader: Any) -> int:
    """The number of samples in the test set of all ranks.

    Raises:
        TypeError: the loader has no dataset with a length.
    """
    try:
        return len(data_loader.dataset)
    except (AttributeError, TypeError):
        raise TypeError(
            "results of all ranks are put in the order of the test set: give a DataLoader whose "
            f"dataset has a length, not {_kind_of(data_loader)}"
        ) from None


def _kind_of(data_loader: Any) -> str:
    dataset = getattr(data_loader, "dataset", None)
    kind = type(data_loader).__name__
    return kind if dataset is None else f"a {kind} of {type(dataset).__name__}"


@torch.no_grad()
def collect_predictions(model: nn.Module, data_loader: Iterable[Any]) -> tuple[Any, Any]:
    """Run the model over a loader and collect its outputs and the targets.

    Args:
        model: as for `single_gpu_test`; it too stays in evaluation mode.
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
    with without_buffer_sync(model), progress_over(data_loader) as batches:
        for batch in batches:
            outputs.append(predict(model, batch))
            targets.append(target_of(model, batch))
    _check_not_empty(outputs)
    return join_batches(outputs), join_batches(targets)


@torch.no_grad()
def collect_predictions_of_all_ranks(model: nn.Module, data_loader: Any) -> tuple[Any, Any] | None:
    """Run the model over this rank's part of a test set and collect outputs and targets.

    To be called on all ranks. If it fails on one, it fails on all.

    Args:
        model: as for `single_gpu_test`.
        data_loader: as for `multi_gpu_test`, with batches as for `collect_predictions`.

    Returns:
        On rank 0, what `collect_predictions` would give in one process, on the CPU; else
        None.

    Raises:
        TypeError: the loader has no dataset with a length.
        ValueError: no rank has a batch, or the ranks do not have as many outputs as a
            ``DistributedSampler`` gives samples.
        KeyError: a batch is a dict without ``target``.
        RuntimeError: it failed on another rank.
    """
    if get_dist_info()[1] == 1:
        return collect_predictions(model, data_loader)
    with watch_failures("collecting predictions") as check, without_buffer_sync(model):
        size = size_of_set(data_loader)
        model.eval()
        outputs, targets = [], []
        with progress_over(data_loader) as batches:
            for batch in batches:
                check()
                outputs.append(predict(model, batch))
                targets.append(target_of(model, batch))
    parts = gather_parts((outputs, targets))
    joined = None
    with fail_together("collecting predictions"):
        if parts is not None:
            _check_not_empty([batch for part in parts for batch in part[0]])
            joined = tuple(join_ranks(each, size) for each in zip(*parts, strict=True))
    return joined


def predict(model: nn.Module, batch: Any) -> Any:
    """The outputs of the model for a batch; see `single_gpu_test`.

    Raises:
        TypeError: the model has no ``predict_step``, and the batch is no dict.
    """
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


def target_of(model: nn.Module, batch: Any) -> Any:
    """The targets of a batch; see `collect_predictions`.

    Raises:
        KeyError: the batch is a dict without ``target``.
    """
    split = getattr(unwrap_model(model), "split_batch", None)
    if split is not None:
        return split(batch)[1]
    if not isinstance(batch, dict):
        _, target = batch
        return target
    if "target" not in batch:
        raise KeyError(f"metrics need 'target' in a batch that is a dict; it has {list(batch)}")
    return batch["target"]


def _check_not_empty(batches: list[Any]) -> None:
    if not batches:
        raise ValueError("the loader to evaluate on yields no batches")


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """A context in which ranks exchange no buffers when the model is called, and after which every
    module is in training or evaluation mode as it was before.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        with without_buffer_sync(model):
            yield
    finally:
        for module, training in modes:
            module.training = training
