"""From a config to a runner with its hooks, and the loaders it runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hookrun.core.errors import did_you_mean, missing_key, noting
from hookrun.core.registry import obj_from_dict
from hookrun.distributed import get_dist_info, set_random_seed
from hookrun.hooks import DistEvalHook, EvalHook
from hookrun.optim import build_optimizer
from hookrun.runners import BaseRunner, IterBasedRunner, build_runner, custom_hooks_called

from .config import config_name, read_config
from .processes import check_shares, over_ranks
from .run_config import DEFAULTS, apply_settings, select_keys

MODES = ("train", "val")


@dataclass(frozen=True)
class Run:
    """What a config describes.

    Attributes:
        runner: with all its hooks.
        loaders: one for each phase of the workflow.
        workflow: the phases.
        config: the config with the defaults of keys that it leaves out.
    """

    runner: BaseRunner
    loaders: list[Any]
    workflow: list[tuple[str, int]]
    config: dict[str, Any]


def build_run(source: str, settings: Sequence[str] = (), *, with_work_dir: bool = True) -> Run:
    """Build what a config describes: model, data, optimizer, runner and hooks, in this order.

    Args:
        source: ``CONFIG.py``, ``CONFIG.json`` or JSON text.
        settings: ``key=value``, see `apply_settings`.
        with_work_dir: whether to make the folder of the run.

    Raises:
        OSError: the config cannot be read.
        KeyError, TypeError, ValueError: it is wrong; the message says where.
        Exception: what the config's own code raises.
    """
    name = config_name(source) or "run"
    given = apply_settings(select_keys(read_config(source), source), settings)
    config = {**DEFAULTS, **given}
    if config["seed"] is not None:
        with noting("seed"):
            set_random_seed(config["seed"])
    loaders = build_loaders(config)
    check_shares(loaders)
    workflow = check_workflow(config["workflow"], loaders)
    model = build_model(config)
    meta = {"exp_name": config["exp_name"] or name, "seed": config["seed"]}
    work_dir = config["work_dir"] or Path("work_dirs", name) if with_work_dir else None
    runner = make_runner(config, model, work_dir, meta)
    register_hooks(runner, config, loaders)
    return Run(runner, [loaders[mode] for mode, _ in workflow], workflow, config)


def build_loaders(config: Mapping[str, Any]) -> dict[str, Any]:
    """The loaders of a config by mode, of which ``val`` may be missing."""
    data = config["data"]
    if callable(data):
        with noting("data"):
            data = data()
        makers: dict[str, Callable[[], Any]] = {}
    elif isinstance(data, Mapping):
        makers = {mode: factory(each, f"data[{mode!r}]") for mode, each in data.items()}
    else:
        raise TypeError(
            "data is dict(train=FACTORY, val=FACTORY), or a function that returns a dict of "
            f"loaders, not {data!r:.60}"
        )
    if not isinstance(data, Mapping):
        raise TypeError(f"the function 'data' returns a dict of loaders, not {data!r:.60}")
    for mode in data:
        if mode not in MODES:
            raise TypeError(f"data has no key {mode!r}. {did_you_mean(str(mode), MODES)}")
    if "train" not in data:
        raise KeyError(missing_key("data", "train", data))
    return {mode: makers[mode]() if makers else each for mode, each in data.items()}


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """The model of a config, on its device; with a process group, its gradients are averaged."""
    model = factory(config["model"], "model")()
    if not isinstance(model, nn.Module):
        raise TypeError(f"the factory 'model' makes a torch.nn.Module, not {model!r:.60}")
    with noting("device"):
        model = model.to(config["device"] or ("cuda" if torch.cuda.is_available() else "cpu"))
    return over_ranks(model)


def factory(given: Any, name: str) -> Callable[[], Any]:
    """What makes an object: a function, its full name, or a dict of it and its arguments.

    Raises:
        TypeError: none of them.
        KeyError: nothing has the full name.
    """
    if isinstance(given, str):
        given = {"type": given}
    if isinstance(given, Mapping):
        if "type" not in given:
            raise KeyError(missing_key(name, "type", given) + ": a function or its full name")
        return noting(name)(partial(obj_from_dict, given))
    if callable(given) and not isinstance(given, nn.Module):
        made: Callable[[], Any] = noting(name)(given)
        return made
    raise TypeError(
        f"{name} is a factory: a function, its full name such as 'package.module.function', or "
        f"dict(type=FUNCTION, ...), not {type(given).__name__}"
    )


def check_workflow(workflow: Any, loaders: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The workflow as the runner takes it; it checks the rest.

    Raises:
        TypeError: no list of pairs.
        KeyError: a phase without data.
    """
    if not isinstance(workflow, (list, tuple)):
        raise TypeError(f"workflow is a list such as [('train', 1)], not {workflow!r}")
    for phase in workflow:
        if not isinstance(phase, (list, tuple)) or len(phase) != 2:
            raise TypeError(f"workflow is a list such as [('train', 1)], not {workflow!r}")
        if phase[0] not in loaders:
            hint = did_you_mean(str(phase[0]), loaders)
            raise KeyError(f"workflow: there is no data for {phase[0]!r}. {hint}")
    return [(mode, count) for mode, count in workflow]


def make_runner(
    config: Mapping[str, Any], model: nn.Module, work_dir: Any, meta: Mapping[str, Any]
) -> BaseRunner:
    """The runner of a config, without hooks."""
    if not isinstance(config["runner"], Mapping):
        raise TypeError(
            "runner is a dict such as dict(type='EpochBasedRunner', max_epochs=12), not "
            f"{config['runner']!r}"
        )
    given = {"type": "EpochBasedRunner", **config["runner"]}
    if "max_epochs" not in given and "max_iters" not in given:
        raise KeyError(missing_key("runner", "max_epochs", given) + ", or max_iters")
    with noting("optimizer"):
        optimizer = build_optimizer(model, config["optimizer"])
    others = {"model": model, "optimizer": optimizer, "work_dir": work_dir, "meta": meta}
    with noting("runner"):
        runner = build_runner(given, others)
        if not isinstance(runner, BaseRunner):
            raise TypeError(f"runner must build a runner, but it builds {runner!r:.60}")
        return runner


def register_hooks(
    runner: BaseRunner, config: Mapping[str, Any], loaders: Mapping[str, Any]
) -> None:
    """Register the hooks of a config: the evaluation at LOW (70), all others as usual."""
    with custom_hooks_called("custom_hooks"):
        runner.register_training_hooks(
            lr_config=config["lr_config"],
            optimizer_config=config["optimizer_config"],
            checkpoint_config=config["checkpoint_config"],
            log_config=config["log_config"],
            momentum_config=config["momentum_config"],
            timer_config=config["timer_config"],
            custom_hooks_config=config["custom_hooks"],
        )
    evaluation = config["evaluation"]
    if evaluation is None:
        return
    if not isinstance(evaluation, Mapping):
        raise TypeError(f"evaluation is a dict of EvalHook's arguments, not {evaluation!r:.60}")
    if "val" not in loaders:
        raise KeyError(missing_key("data", "val", loaders) + ": what evaluation is to go through")
    arguments = {"by_epoch": not isinstance(runner, IterBasedRunner), **evaluation}
    priority = arguments.pop("priority", "LOW")
    hook_type = DistEvalHook if get_dist_info()[1] > 1 else EvalHook
    with noting("evaluation"):
        runner.register_hook(hook_type(loaders["val"], **arguments), priority=priority)
