"""Hooks and runners as code bases on MMCV have them; ``ports.py NAME DIR`` records what happens.

They know nothing of hookrun.
"""

import json
import math
import os
import sys
from itertools import cycle

import project
import torch
from mmcv.parallel import MMDataParallel
from mmcv.runner import (
    HOOKS,
    RUNNERS,
    EpochBasedRunner,
    Hook,
    IterBasedRunner,
    IterLoader,
    LoggerHook,
    LrUpdaterHook,
    OptimizerHook,
    build_runner,
)
from mmcv.runner.hooks.lr_updater import CosineAnnealingLrUpdaterHook, annealing_cos
from mmcv.utils import get_logger

SEEN = []


class Trace(Hook):
    """Records each iteration."""

    def after_train_iter(self, runner):
        weights = sum(float(param.detach().abs().sum()) for param in runner.model.parameters())
        rates, momenta = runner.current_lr(), runner.current_momentum()
        SEEN.append(["iter", runner.iter, rates, momenta, float(runner.outputs["loss"]), weights])

    def after_train_epoch(self, runner):
        buffers = sum(float(each.double().abs().sum()) for each in runner.model.buffers())
        messages = runner.meta["hook_msgs"]
        written = [os.path.exists(messages.get(key, "")) for key in ("last_ckpt", "best_ckpt")]
        SEEN.append(["epoch", runner.epoch, buffers, written])


@HOOKS.register_module()
class EachLineLoggerHook(LoggerHook):
    """With its own copy of the body of MMCV's."""

    def log(self, runner):
        tags = self.get_loggable_tags(runner, tags_to_skip=("time", "data_time", "eval_iter_num"))
        SEEN.append(["line", self.get_mode(runner), runner.iter, sorted(tags.items())])

    def after_train_iter(self, runner):
        every = self.every_n_inner_iters if self.by_epoch else self.every_n_iters
        if every(runner, self.interval):
            runner.log_buffer.average(self.interval)
        if runner.log_buffer.ready:
            self.log(runner)
            if self.reset_flag:
                runner.log_buffer.clear_output()


@HOOKS.register_module()
class SquareWarmupLrUpdaterHook(CosineAnnealingLrUpdaterHook):
    """Ends with constant rates, as YOLOX does."""

    def __init__(self, num_last_epochs, **kwargs):
        self.num_last_epochs = num_last_epochs
        super().__init__(**kwargs)

    def get_warmup_lr(self, cur_iters):
        k = self.warmup_ratio * pow((cur_iters + 1) / float(self.warmup_iters), 2)
        return [lr * k for lr in self.base_lr]

    def get_lr(self, runner, base_lr):
        last = len(runner.data_loader) * self.num_last_epochs
        done, end = runner.iter + 1, runner.max_iters - last
        target = base_lr * self.min_lr_ratio
        if done >= end:
            return target
        return annealing_cos(
            base_lr, target, (done - self.warmup_iters) / (end - self.warmup_iters)
        )


@HOOKS.register_module()
class RestartsLrUpdaterHook(LrUpdaterHook):
    """The scheduler of another library: no formula, the rates are set at each iteration."""

    def before_train_iter(self, runner):
        cycle_at, factor = runner.iter % 5, 0.5 ** (runner.iter // 5)
        scale = factor * 0.5 * (1 + math.cos(math.pi * cycle_at / 5))
        self._set_lr(runner, [base * scale for base in self.base_lr])


@HOOKS.register_module()
class BufferEMAHook(Hook):
    """Averages all of the state in buffers of the model, and swaps by epoch, as mmdet's does."""

    def before_run(self, runner):
        model = runner.model.module
        self.tensors = model.state_dict()
        for name, value in self.tensors.items():
            model.register_buffer(f"mean_{name.replace('.', '_')}", value.clone())
        self.means = dict(model.named_buffers())

    def pairs(self):
        for name, value in self.tensors.items():
            yield value, self.means[f"mean_{name.replace('.', '_')}"]

    def after_train_iter(self, runner):
        momentum = 0.9 * math.exp(-(1 + runner.iter) / 20) + 0.1
        for value, mean in self.pairs():
            if value.dtype.is_floating_point:
                mean.mul_(1 - momentum).add_(value, alpha=momentum)

    def swap(self):
        for value, mean in self.pairs():
            kept = value.clone()
            value.copy_(mean)
            mean.copy_(kept)

    def before_train_epoch(self, runner):
        self.swap()

    def after_train_epoch(self, runner):
        self.swap()


class FreezingOptimizerHook(OptimizerHook):
    """Accumulates, and freezes layers for a while, as mmselfsup's does."""

    def __init__(self, update_interval, frozen):
        self.update_interval = update_interval
        self.frozen = frozen

    def before_run(self, runner):
        runner.optimizer.zero_grad()

    def after_train_iter(self, runner):
        runner.outputs["loss"] /= self.update_interval
        runner.outputs["loss"].backward()
        if self.every_n_iters(runner, self.update_interval):
            for name, param in runner.model.named_parameters():
                if any(layer in name and runner.iter < n for layer, n in self.frozen.items()):
                    param.grad = None
            runner.optimizer.step()
            runner.optimizer.zero_grad()


@RUNNERS.register_module()
class DynamicRunner(IterBasedRunner):
    """Calls the hooks itself, and has its own loop, as mmgen's runner."""

    def call_hook(self, fn_name):
        for hook in self._hooks:
            getattr(hook, fn_name)(self)

    def train(self, data_loader, **kwargs):
        self.model.train()
        self.mode = "train"
        self.data_loader = data_loader
        data_batch = next(self.data_loader)
        self.call_hook("before_train_iter")
        outputs = self.model.train_step(data_batch, self.optimizer, **kwargs)
        self.log_buffer.update(outputs["log_vars"], outputs["num_samples"])
        self.outputs = outputs
        self.call_hook("after_train_iter")
        self._inner_iter += 1
        self._iter += 1

    def run(self, data_loaders, workflow, **kwargs):
        self.call_hook("before_run")
        loaders = [IterLoader(each) for each in data_loaders]
        self.call_hook("before_epoch")
        while self.iter < self._max_iters:
            self._inner_iter = 0
            for _ in range(workflow[0][1]):
                if self.iter < self._max_iters:
                    self.train(loaders[0], **kwargs)
        self.call_hook("after_epoch")
        self.call_hook("after_run")


@RUNNERS.register_module()
class TwoSourcesRunner(EpochBasedRunner):
    """Trains on batches of a second source too, in the same iteration, as mmaction's does."""

    def train(self, data_loader, **kwargs):
        self.model.train()
        self.mode = "train"
        self.data_loader = data_loader
        self._max_iters = self._max_epochs * len(data_loader)
        self.call_hook("before_train_epoch")
        second = cycle(data_loader)
        for i, batch in enumerate(data_loader):
            self._inner_iter = i
            for each in (batch, next(second)):
                self.call_hook("before_train_iter")
                self.run_iter(each, train_mode=True)
                self.call_hook("after_train_iter")
            self._iter += 1
        self.call_hook("after_train_epoch")
        self._epoch += 1


EPOCHS = dict(type="EpochBasedRunner", max_epochs=3)
ITERS = dict(type="DynamicRunner", max_iters=14)
STEPS = dict(policy="step", step=[1, 2])
YOLOX = dict(
    policy="SquareWarmup",
    by_epoch=False,
    warmup="exp",
    warmup_by_epoch=True,
    warmup_iters=1,
    warmup_ratio=1,
    num_last_epochs=1,
    min_lr_ratio=0.05,
)
RUNS = {
    "yolox": dict(runner=EPOCHS, lr=YOLOX, hooks=[dict(type="BufferEMAHook", priority=49)]),
    "restarts": dict(runner=EPOCHS, lr=dict(policy="Restarts", by_epoch=False)),
    "freezing": dict(runner=EPOCHS, lr=STEPS, optimizer=FreezingOptimizerHook(2, dict(head=7))),
    "dynamic": dict(runner=ITERS, lr=dict(policy="poly", by_epoch=False)),
    "two sources": dict(runner=dict(EPOCHS, type="TwoSourcesRunner"), lr=STEPS, logged=False),
}


def main(name, folder):
    how = RUNS[name]
    torch.manual_seed(0)
    model = MMDataParallel(project.Classifier(width=8), device_ids=[])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    given = dict(model=model, optimizer=optimizer, work_dir=folder, logger=get_logger("ports"))
    runner = build_runner(how["runner"], dict(given, meta=dict(seed=0)))
    runner.timestamp = "run"
    by_epoch = "max_epochs" in how["runner"]
    loggers = (
        [dict(type="EachLineLoggerHook", by_epoch=by_epoch)] if how.get("logged", True) else []
    )
    runner.register_training_hooks(
        how["lr"],
        how.get("optimizer", dict(grad_clip=dict(max_norm=1.0))),
        dict(interval=1 if by_epoch else 5, by_epoch=by_epoch),
        dict(interval=3, hooks=[dict(type="TextLoggerHook", by_epoch=by_epoch), *loggers]),
        custom_hooks_config=how.get("hooks"),
    )
    validation = project.make_loader(13, 5, seed=7)
    evaluation = dict(interval=1 if by_epoch else 6, by_epoch=by_epoch, save_best="accuracy")
    runner.register_hook(project.EvalHook(validation, **evaluation), priority="LOW")
    runner.register_hook(Trace(), priority="LOWEST")
    runner.run([project.make_loader(24, 4, seed=3)], [("train", 1 if by_epoch else 100)])
    with open(f"{folder}/seen.json", "w") as file:
        json.dump(SEEN, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
