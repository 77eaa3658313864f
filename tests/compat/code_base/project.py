"""A small code base on MMCV 1.x: models, data, hooks and a runner in the ways such code has them.

It knows nothing of hookrun.
"""

import torch
from mmcv.runner import (
    HOOKS,
    RUNNERS,
    BaseModule,
    EpochBasedRunner,
    Hook,
    LoggerHook,
    OptimizerHook,
    Sequential,
    auto_fp16,
    get_dist_info,
    master_only,
)
from mmcv.runner import EvalHook as BasicEvalHook
from mmcv.runner.hooks import CheckpointHook  # noqa: F401
from mmcv.runner.hooks.lr_updater import LrUpdaterHook, annealing_cos
from mmcv.utils import Registry
from torch import nn
from torch.utils.data import DataLoader, Dataset

MODELS = Registry("models")


@MODELS.register_module()
class Classifier(BaseModule):
    """An MLP with MMCV's ``train_step``, ``val_step`` and ``init_cfg``."""

    def __init__(self, width, init_cfg=None):
        super().__init__(init_cfg)
        self.layers = Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU())
        self.head = nn.Linear(width, 2)
        self.fp16_enabled = False

    @auto_fp16(apply_to=("x",))
    def forward(self, x, y=None, return_loss=True):
        scores = self.head(self.layers(x))
        return dict(loss=nn.functional.cross_entropy(scores, y)) if return_loss else scores

    def train_step(self, data, optimizer):
        loss = self(**data)["loss"]
        return dict(loss=loss, log_vars=dict(loss=loss.item()), num_samples=len(data["x"]))

    def val_step(self, data, optimizer=None):
        return self.train_step(data, optimizer)


class Points(Dataset):
    def __init__(self, samples, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(samples, 4, generator=generator)
        self.y = (self.x.sum(1) > 0).long()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return dict(x=self.x[index], y=self.y[index])

    def evaluate(self, results, logger=None, **kwargs):
        guesses = torch.cat(results).argmax(1)
        return dict(accuracy=float((guesses == self.y).float().mean()))


def make_loader(samples, batch_size, seed, shuffle=False):
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(Points(samples, seed), batch_size, shuffle=shuffle, generator=generator)


class EvalHook(BasicEvalHook):
    """As code bases have it: its own way of evaluating, with private methods of the base."""

    def _do_evaluate(self, runner):
        if not self._should_evaluate(runner):
            return
        runner.model.eval()
        with torch.no_grad():
            results = [runner.model(return_loss=False, **batch) for batch in self.dataloader]
        runner.log_buffer.output["eval_iter_num"] = len(self.dataloader)
        key_score = self.evaluate(runner, results)
        if self.save_best and key_score:
            self._save_ckpt(runner, key_score)


@HOOKS.register_module()
class WarningOptimizerHook(OptimizerHook):
    """Sets its own attributes, never calls ``super().__init__()``, and steps by itself."""

    def __init__(self, grad_clip=None, interval=1):
        self.grad_clip = grad_clip
        self.interval = interval

    def before_run(self, runner):
        runner.optimizer.zero_grad()

    def after_train_iter(self, runner):
        (runner.outputs["loss"] / self.interval).backward()
        if self.every_n_inner_iters(runner, self.interval) or self.is_last_iter(runner):
            if self.grad_clip is not None:
                norm = self.clip_grads(runner.model.parameters())
                if norm is not None:
                    runner.log_buffer.update(
                        {"grad_norm": float(norm)}, runner.outputs["num_samples"]
                    )
            runner.optimizer.step()
            runner.optimizer.zero_grad()


@HOOKS.register_module()
class HalvingLrUpdaterHook(LrUpdaterHook):
    """A policy of its own, with its own warm-up."""

    def __init__(self, every, **kwargs):
        self.every = every
        super().__init__(**kwargs)

    def get_warmup_lr(self, cur_iters):
        k = (cur_iters + 1) / (self.warmup_iters + 1)
        return [lr * k for lr in self.regular_lr]

    def get_lr(self, runner, base_lr):
        progress = runner.epoch if self.by_epoch else runner.iter
        return annealing_cos(base_lr, 0.0, min(1.0, progress / runner._max_iters)) * 0.5 ** (
            progress // self.every
        )


@HOOKS.register_module()
class ShuffleHook(Hook):
    def __init__(self, seed):
        self.seed = seed

    def before_train_epoch(self, runner):
        runner.data_loader.generator.manual_seed(self.seed + runner.epoch)

    def after_train_iter(self, runner):
        if self.end_of_epoch(runner):
            runner.logger.log(20, "epoch %d ends", runner.epoch + 1)


@HOOKS.register_module()
class CheckInvalidLossHook(Hook):
    """A name that hookrun has too, and MMCV has not."""

    def __init__(self, interval=50):
        self.interval = interval

    def after_train_iter(self, runner):
        if self.every_n_iters(runner, self.interval):
            assert torch.isfinite(runner.outputs["loss"])
            runner.meta.setdefault("checked", []).append(runner.iter)


@HOOKS.register_module()
class TalkingLoggerHook(LoggerHook):
    """As vendors' loggers are written."""

    def __init__(self, interval=10, ignore_last=True, reset_flag=False, by_epoch=True):
        super().__init__(interval, ignore_last, reset_flag, by_epoch)
        self.said = []

    @master_only
    def log(self, runner):
        tags = self.get_loggable_tags(runner, add_mode=True, tags_to_skip=("time", "data_time"))
        self.said.append([self.get_mode(runner), self.get_iter(runner), sorted(tags.items())])

    @master_only
    def after_run(self, runner):
        import json

        with open(f"{runner.work_dir}/said.json", "w") as file:
            json.dump(self.said, file)


@RUNNERS.register_module()
class CountingRunner(EpochBasedRunner):
    """Overrides what MMCV's runner calls."""

    def run_iter(self, data_batch, train_mode, **kwargs):
        super().run_iter(data_batch, train_mode, **kwargs)
        self.outputs["log_vars"]["rank"] = float(get_dist_info()[0])

    def train(self, data_loader, **kwargs):
        self.trained = getattr(self, "trained", 0) + 1
        super().train(data_loader, **kwargs)
