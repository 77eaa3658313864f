"""The runs of which MMCV's events are kept, and the model of its checkpoints."""

import torch

# workflow, batches of each phase's loader, limits of the run
BY_EPOCH = [
    ([("train", 1)], [3], {"max_epochs": 2}),
    ([("train", 2), ("val", 1)], [3, 2], {"max_epochs": 3}),
    ([("val", 1), ("train", 1)], [2, 3], {"max_epochs": 2}),
    ([("train", 1), ("val", 1), ("train", 1)], [2, 1, 3], {"max_epochs": 3}),
    ([("train", 1)], [3], {"max_epochs": 0}),
]
BY_ITER = [
    ([("train", 1)], [3], {"max_iters": 7}),
    ([("train", 2), ("val", 1)], [3, 2], {"max_iters": 5}),
    ([("val", 1), ("train", 1)], [2, 3], {"max_iters": 4}),
    ([("train", 100), ("val", 3)], [3, 2], {"max_iters": 5}),
    ([("train", 1)], [3], {"max_iters": 0}),
]


class Model(torch.nn.Module):
    """Fits x -> 2x; a batch is a tensor of x."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(1, 1)

    def train_step(self, data_batch, optimizer=None, **kwargs):
        loss = (self.fc(data_batch) - 2 * data_batch).square().mean() / 100
        return {"loss": loss, "log_vars": {"loss": loss.item()}, "num_samples": len(data_batch)}

    def val_step(self, data_batch, optimizer=None, **kwargs):
        return self.train_step(data_batch)
