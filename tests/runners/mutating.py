"""Runs of several kinds, their checkpoints, and trees in which one thing is not what it was."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hookrun import (
    CheckpointHook,
    EMAHook,
    EpochBasedRunner,
    EvalHook,
    Fp16OptimizerHook,
    GradientCumulativeFp16OptimizerHook,
    GradientCumulativeOptimizerHook,
    IterBasedRunner,
    OptimizerHook,
    ResumableDistributedSampler,
    ResumableSampler,
    StepLrUpdaterHook,
    TextLoggerHook,
)
from hookrun.hooks import CosineAnnealingMomentumUpdaterHook
from tests.hooks.optimizer.fp16_support import Half
from tests.support import Points, TinyModel

QUIET = logging.getLogger("hookrun.tests.mutating")
QUIET.propagate = False
QUIET.addHandler(logging.NullHandler())

BATCHES = 4


class Normed(TinyModel):
    """With buffers, one of them of whole numbers."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.norm = nn.BatchNorm1d(2)


def two_groups(model: nn.Module, kind: Any, **options: Any) -> Any:
    weight, *others = model.parameters()
    groups = [{"params": [weight]}, {"params": others, "lr": 0.01, "weight_decay": 0.1}]
    return kind(groups, lr=0.1, **options)


def two_optimizers(model: nn.Module) -> Any:
    weight, bias = model.parameters()
    return {"a": torch.optim.SGD([weight], lr=0.1, momentum=0.9), "b": torch.optim.Adam([bias])}


def shuffled(seed: int = 0) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(Points(2 * BATCHES), batch_size=2, shuffle=True, generator=generator)


def plain() -> DataLoader[Any]:
    return DataLoader(Points(2 * BATCHES), batch_size=2, shuffle=True)


def seeking() -> DataLoader[Any]:
    data = Points(2 * BATCHES)
    return DataLoader(data, batch_size=2, sampler=ResumableSampler(data))


def distributed() -> DataLoader[Any]:
    data = Points(2 * BATCHES)
    sampler = ResumableDistributedSampler(data, num_replicas=1, rank=0)
    return DataLoader(data, batch_size=2, sampler=sampler)


class Kind:
    """A kind of run.

    Args:
        by_epoch: which runner.
        save: after how many iterations the checkpoint in question is written.
        model, optimizer: how they are made.
        loader: the training loader.
        hooks: its hooks, by priority.
        val: whether there is a phase of validation.
    """

    def __init__(
        self,
        by_epoch: bool,
        save: int,
        optimizer: Callable[[Any], Any],
        loader: Callable[[], Any],
        hooks: Callable[[], dict[int, list[Any]]],
        model: Callable[[], Any] = TinyModel,
        val: bool = False,
    ) -> None:
        self.by_epoch, self.save, self.model, self.optimizer = by_epoch, save, model, optimizer
        self.loader, self.hooks, self.val = loader, hooks, val

    def runner(self, folder: Path) -> Any:
        """A runner with its hooks."""
        model = self.model()
        arguments: Any = {"work_dir": str(folder), "logger": QUIET, "optimizer": None}
        optimizer = self.optimizer(model)
        arguments["optimizer"] = optimizer
        if self.by_epoch:
            runner: Any = EpochBasedRunner(model, max_epochs=3, **arguments)
        else:
            runner = IterBasedRunner(model, max_iters=3 * BATCHES, **arguments)
        for priority, hooks in self.hooks().items():
            for hook in hooks:
                runner.register_hook(hook, priority)
        saver = CheckpointHook(interval=self.save, by_epoch=False, save_last=False)
        if self.by_epoch and self.save % BATCHES == 0:
            saver = CheckpointHook(interval=self.save // BATCHES)
        runner.register_hook(saver, 50)
        return runner

    def run(self, runner: Any) -> None:
        """Train to the end."""
        loaders, workflow = [self.loader()], [("train", 1)]
        if self.val:
            loaders.append(shuffled(1))
            workflow.append(("val", 1))
            if not self.by_epoch:
                workflow = [("train", 3), ("val", 2)]
        runner.run(loaders, workflow)

    def checkpoint(self, folder: Path) -> dict[str, Any]:
        """What is in the first file that a run of this kind writes."""
        self.run(self.runner(folder))
        at_end = self.by_epoch and self.save % BATCHES == 0
        name = f"epoch_{self.save // BATCHES}" if at_end else f"iter_{self.save}"
        return torch.load(folder / f"{name}.pth", weights_only=True)


def sgd(model: Any) -> Any:
    return two_groups(model, torch.optim.SGD, momentum=0.9)


def adam(model: Any) -> Any:
    return two_groups(model, torch.optim.Adam)


def one_adamw(model: Any) -> Any:
    return torch.optim.AdamW(model.parameters(), amsgrad=True)


def evaluation() -> Any:
    return EvalHook(DataLoader(Points(4), batch_size=2), save_best="acc", interval=1)


KINDS: dict[str, Kind] = {
    "mid-epoch": Kind(
        True,
        6,
        sgd,
        shuffled,
        lambda: {
            10: [StepLrUpdaterHook(step=[1], warmup="linear", warmup_iters=3)],
            40: [OptimizerHook(grad_clip={"max_norm": 1.0})],
            90: [TextLoggerHook(interval=2)],
        },
    ),
    "at the end of an epoch": Kind(
        True,
        4,
        adam,
        plain,
        lambda: {
            10: [StepLrUpdaterHook(step=[1])],
            30: [CosineAnnealingMomentumUpdaterHook(min_momentum=0.5)],
            40: [OptimizerHook()],
            49: [EMAHook(momentum=0.1)],
            55: [evaluation()],
            90: [TextLoggerHook(interval=2)],
        },
        model=Normed,
        val=True,
    ),
    "by iteration": Kind(
        False,
        5,
        one_adamw,
        seeking,
        lambda: {
            10: [StepLrUpdaterHook(step=[4], by_epoch=False)],
            40: [OptimizerHook()],
            49: [EMAHook(momentum=0.1)],
            90: [TextLoggerHook(interval=2, by_epoch=False)],
        },
        val=True,
    ),
    "masters": Kind(
        True,
        6,
        sgd,
        distributed,
        lambda: {
            40: [Fp16OptimizerHook(loss_scale={"init_scale": 8.0, "growth_interval": 2})],
            49: [EMAHook(momentum=0.1)],
        },
        model=Half,
    ),
    "accumulation": Kind(
        False,
        5,
        two_optimizers,
        shuffled,
        lambda: {40: [GradientCumulativeOptimizerHook(cumulative_iters=3)]},
    ),
    "accumulated masters": Kind(
        True,
        5,
        adam,
        shuffled,
        lambda: {
            40: [GradientCumulativeFp16OptimizerHook(cumulative_iters=2, loss_scale="dynamic")]
        },
        model=Half,
    ),
}


# Mutations


def nodes(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a tree, but for the tree itself."""
    items: Any = ()
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    for key, value in items:
        yield (*path, key)
        yield from nodes(value, (*path, key))


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def replaced(tree: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A tree in which one value is another; what leads to it is made anew."""
    if not path:
        return change(tree)
    key, *rest = path
    new = replaced(tree[key], tuple(rest), change)
    if isinstance(tree, tuple):
        return (*tree[:key], new, *tree[key + 1 :])
    copied = tree.copy()
    if isinstance(tree, dict):
        for name in ("_metadata",):
            if hasattr(tree, name):
                setattr(copied, name, getattr(tree, name))
    copied[key] = new
    return copied


def dropped(tree: Any, path: tuple[Any, ...]) -> Any:
    def drop(container: Any) -> Any:
        if isinstance(container, tuple):
            return container[: path[-1]] + container[path[-1] + 1 :]
        copied = container.copy()
        del copied[path[-1]]
        return copied

    return replaced(tree, path[:-1], drop)


def itself(tree: Any, path: tuple[Any, ...]) -> Any:
    """A tree in which a container holds itself."""

    def add(value: Any) -> Any:
        held = value.copy()
        if isinstance(held, dict):
            held["itself"] = held
        else:
            held.append(held)
        return held

    return replaced(tree, path, add)


def others(value: Any) -> list[Any]:
    """What may stand in the place of a value."""
    found: list[Any] = [
        *(
            None,
            True,
            False,
            -1,
            2**63,
            10**30,
            -(2**70),
            1.5,
            math.nan,
            math.inf,
            -math.inf,
            1e308,
        ),
        *("x", "", b"x", [], {}, (), [None], [value], {"a": value}, {1: value}, (value,), 1j),
        *(torch.zeros(0), torch.tensor(1.0), torch.ones(3, 3), torch.tensor(True), {"x"}),
        *(torch.float16, torch.device("cpu"), "\x1b[31mred\n"),
    ]
    if isinstance(value, Tensor):
        found += [value.flatten()[:-1], torch.cat([value.flatten()] * 2), value.unsqueeze(0)]
        found += [value.to(kind) for kind in (torch.int64, torch.bool, torch.complex64)]
        found += [value.to(torch.float64), value.to(torch.uint8), value.tolist(), value.to_sparse()]
        found += [torch.full_like(value, 255 if value.dtype == torch.uint8 else 17)]
        found += [torch.zeros_like(value), value.float() * math.nan, value.float() + math.inf]
    elif isinstance(value, dict):
        found += [list(value.items()), {**value, 3: 4}, {**value, None: 1}, {**value, "more": []}]
        found += [{str(key) + "x": each for key, each in value.items()}]
        found += [dict(enumerate(value.values())), str(value)]
    elif isinstance(value, (list, tuple)):
        found += [[*value, None], [*value, *value], list(reversed(value)), value[:-1], tuple(value)]
        found += [dict(enumerate(value)), list(value), str(value)]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found += [value + 1, -value, value * 1000, str(value), float(value), [value] * 3]
    return found


def mutated(tree: dict[str, Any], random_source: random.Random) -> tuple[str, dict[str, Any]]:
    """A tree with one thing changed, and what that is."""
    paths = list(nodes(tree))
    # Every part of the tree alike, for that of the weights is the largest.
    top = random_source.choice(sorted({str(path[0]) for path in paths}))
    paths = [path for path in paths if str(path[0]) == top]
    depth = random_source.choice(sorted({len(path) for path in paths}))
    path = random_source.choice([path for path in paths if len(path) == depth])
    value = at(tree, path)
    name = "".join(f"[{key!r}]" for key in path)
    draw = random_source.random()
    if draw < 0.15:
        return f"without {name}", dropped(tree, path)
    if draw < 0.2 and isinstance(value, (dict, list)):
        return f"{name} in itself", itself(tree, path)
    new = random_source.choice(others(value))
    shown = f"{tuple(new.shape)} {new.dtype} {new!r:.40}" if isinstance(new, Tensor) else repr(new)
    return f"{name} = {shown:.200} for {value!r:.80}", replaced(tree, path, lambda _: new)


# What a runner is


def state_of(runner: Any) -> list[Any]:
    """What a refused resume must leave as it was."""
    optimizers = runner.optimizer
    optimizers = optimizers if isinstance(optimizers, dict) else {"": optimizers}
    return [
        runner.epoch,
        runner.iter,
        runner.inner_iter,
        runner.meta,
        runner.resumed,
        runner.progress.samples,
        runner.progress.resume_point,
        dict(runner.waiting_hook_states),
        _plain({k: v.clone() for k, v in runner.model.state_dict().items()}),
        _plain({name: each.state_dict() for name, each in optimizers.items()}),
        [_plain(hook.state_dict()) for hook in runner.hooks],
        [type(hook).__name__ for hook in runner.hooks],
        torch.get_rng_state().tolist(),
        random.getstate(),
        runner.group_options.state_dict(),
    ]


def _plain(value: Any) -> Any:
    """In a form that compares equal where it is the same, NaN included."""
    if isinstance(value, Tensor):
        return (str(value.dtype), tuple(value.shape), value.detach().numpy().tobytes())
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return repr(value)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
