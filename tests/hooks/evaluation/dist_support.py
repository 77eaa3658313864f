"""Beginnings of programs in which several ranks evaluate."""

from __future__ import annotations

BEGIN = """
import copy, os, signal, time
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from hookrun import DistEvalHook, EpochBasedRunner, Hook, IterBasedRunner, TrainStep
from tests.support import Points, TinyModel, make_loader

def loader_of(dataset, batch_size=2, shuffle=False):
    sampler = DistributedSampler(dataset, shuffle=shuffle)
    return DataLoader(dataset, batch_size, sampler=sampler)

def make_runner(model=None, kind=EpochBasedRunner, **arguments):
    return kind(model or TinyModel(), work_dir=str(folder / "run"), **arguments)

def error_of(work):
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""

SCORING = """
class Scored(Points):
    def evaluate(self, results, logger=None, **arguments):
        found["arguments"] = arguments
        distances = [abs(float(r) - float(y)) for r, y in zip(results, self.y, strict=True)]
        weighted = sum(n * each for n, each in enumerate(distances))  # depends on the order
        return {"weighted": weighted, "mae": sum(distances) / len(distances)}

def mae(outputs, targets):
    places = torch.arange(len(outputs))
    distances = (outputs - targets).abs().flatten()
    return {"weighted": float(distances @ places.float()), "mae": float(distances.mean())}

class Step(TinyModel):
    def predict_step(self, batch):
        return self.fc(batch["x"])

    def split_batch(self, batch):
        return batch, batch["y"]

class Keep(Hook):
    def __init__(self):
        self.outputs = []

    def after_train_epoch(self, runner):
        self.outputs.append({k: v for k, v in runner.log_buffer.output.items() if k != "loss"})

def evaluate(size, **arguments):
    runner = make_runner(Step(), max_epochs=2)
    keep = Keep()
    hook = DistEvalHook(loader_of(Scored(size)), **arguments)
    runner.register_hook(hook)
    runner.register_hook(keep)
    runner.run([make_loader(1)], [("train", 1)])
    return keep.outputs
"""
