"""Running a model over a test set: one result per sample, joined outputs and targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookrun import TrainStep
from hookrun.hooks import single_gpu_test
from hookrun.hooks.evaluation.testing import collect_predictions

PAIRS = [(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 2])), (torch.ones(1, 1), torch.ones(1))]


class Doubling(nn.Module):
    """An MMCV-style model that gives a list with one result per sample."""

    def forward(self, x: Tensor, target: Any = None, return_loss: bool = True) -> Any:
        assert not return_loss
        assert not torch.is_grad_enabled()
        assert not self.training
        return [{"value": 2 * each.item()} for each in x]


class Several(nn.Module):
    """Gives tensors in a tuple and a dict, which are no samples."""

    def forward(self, x: Tensor) -> Any:
        return x, {"double": 2 * x, "mean": x.mean()}


def test_single_gpu_test_gives_one_result_per_sample_in_order() -> None:
    batches = [{"x": torch.tensor([[1.0], [2.0]])}, {"x": torch.tensor([[3.0]])}]
    results = single_gpu_test(Doubling(), batches)
    assert results == [{"value": 2.0}, {"value": 4.0}, {"value": 6.0}]


def test_single_gpu_test_takes_a_train_step() -> None:
    model = TrainStep(nn.Flatten(0), nn.functional.mse_loss)
    results = single_gpu_test(model, PAIRS)
    assert [result.item() for result in results] == [1.0, 2.0, 1.0]


def test_predictions_are_joined_over_batches() -> None:
    model = TrainStep(nn.Flatten(0), nn.functional.mse_loss)
    outputs, targets = collect_predictions(model, PAIRS)
    assert outputs.tolist() == [1.0, 2.0, 1.0]
    assert targets.tolist() == [1.0, 2.0, 1.0]


def test_lists_of_results_are_joined_as_lists() -> None:
    batches = [{"x": x, "target": target} for x, target in PAIRS]
    outputs, targets = collect_predictions(Doubling(), batches)
    assert outputs == [{"value": 2.0}, {"value": 4.0}, {"value": 2.0}]
    assert targets.tolist() == [1.0, 2.0, 1.0]


def test_what_cannot_be_evaluated_is_explained() -> None:
    with pytest.raises(TypeError, match=r"Doubling\(return_loss=False.*batch is a tuple"):
        single_gpu_test(Doubling(), PAIRS)
    with pytest.raises(KeyError, match=r"need 'target'.*\['x'\]"):
        collect_predictions(Doubling(), [{"x": torch.ones(1, 1)}])
    with pytest.raises(ValueError, match="yields no batches"):
        collect_predictions(Doubling(), [])


def test_several_tensors_are_joined_each_by_itself() -> None:
    (x, others), _ = collect_predictions(TrainStep(Several(), nn.functional.mse_loss), PAIRS)
    assert x.flatten().tolist() == [1.0, 2.0, 1.0]
    assert others["double"].flatten().tolist() == [2.0, 4.0, 2.0]
    assert others["mean"].tolist() == [1.5, 1.0]
