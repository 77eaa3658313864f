"""The run of ``digits.py`` as a config; the two end with the same weights:

    hookrun train examples/digits_config.py
    hookrun train examples/digits_config.py --resume auto --set runner.max_epochs=30
    hookrun hooks examples/digits_config.py

docs/config.md says what each key is.
"""

import torch.nn.functional as F
from digits import SEED, make_datasets, make_network, scores
from torch.utils.data import DataLoader

from hookrun import TrainStep


def make_model():
    return TrainStep(make_network(), F.cross_entropy)


def train_loader(batch_size):
    return DataLoader(make_datasets()[0], batch_size=batch_size, shuffle=True)


def test_loader():
    return DataLoader(make_datasets()[1], batch_size=256)


seed = SEED
model = dict(type=make_model)
data = dict(train=dict(type=train_loader, batch_size=64), val=test_loader)
optimizer = dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=5e-4)
optimizer_config = dict(grad_clip=dict(max_norm=5.0))
lr_config = dict(
    policy="CosineAnnealing", min_lr=0.0, by_epoch=False, warmup="linear", warmup_iters=50
)
checkpoint_config = dict(interval=1, max_keep_ckpts=2)
log_config = dict(interval=10, hooks=[dict(type="TextLoggerHook")])
evaluation = dict(save_best="accuracy", metrics=scores)
custom_hooks = [
    # Between the optimizer, which it averages, and the checkpoints, which hold its averages.
    dict(type="EMAHook", momentum=0.02, warm_up=10, priority=45),
    dict(type="ProgressBarHook", priority="VERY_LOW"),
]
runner = dict(type="EpochBasedRunner", max_epochs=20)
workflow = [("train", 1)]
