"""DistEvalHook: evaluates on all ranks, each on its part of the test set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from hookrun.core import HOOKS, overrides, starts_with_defaults
from hookrun.core.errors import path_or_none
from hookrun.core.events import EVALUATION_SCORED, fire_own
from hookrun.distributed import (
    all_gather_objects,
    broadcast_object,
    broadcast_tensors_,
    fail_together,
)

from .arguments import NO_LOADER
from .evaluation import EvalHook, Metrics
from .metrics import stream_on_all_ranks
from .scores import log_length
from .testing import collect_predictions_of_all_ranks, multi_gpu_test, size_of_set
from .watching import watched_loader


@HOOKS.register_module()
@starts_with_defaults(dataloader=NO_LOADER)
class DistEvalHook(EvalHook):
    """An `EvalHook` for distributed training: all ranks test, each its part of the set.

    All ranks must have it, with the same arguments. The results come together on rank 0, which
    computes the scores and decides which checkpoint is the best; the other ranks get the numbers
    among the scores, and its decisions. The results are those of one process, also where the size
    of the set is not divisible by the number of ranks. If an evaluation fails on one rank, the run
    ends on all, with an error that names the rank and the cause.

    Args:
        dataloader: a ``DataLoader`` with a ``DistributedSampler(dataset, shuffle=False)``.
        test_fn: ``test_fn(model, dataloader, tmpdir=..., gpu_collect=...)`` returns the results of
            all ranks on rank 0; by default `multi_gpu_test`.
        broadcast_bn_buffer: whether all ranks evaluate with the running statistics of rank 0's
            batch normalization; those of the ranks differ otherwise.
        tmpdir: the folder through which the results are collected; all ranks must share it. By
            default ``.eval_hook`` in the runner's ``work_dir``.
        gpu_collect: whether to collect results through the process group, without files. Outputs
            and targets for a function ``metrics`` are always collected so.
        metrics: as for EvalHook. Those of torchmetrics are reduced over the ranks on the device,
            and so are others that have a method ``sync()`` which does it; any other metric is
            updated on rank 0, with the batches of all ranks.
        start, interval, by_epoch, save_best, rule, greater_keys, less_keys: as for EvalHook.
        out_dir, file_client_args, background, name, eval_kwargs: as for EvalHook.

    Raises:
        RuntimeError: at the start of a run, there is no process group; at an evaluation, it failed
            on another rank.
        TypeError: as for EvalHook; the loader has no dataset with a length.
        ValueError: as for EvalHook; the sampler shuffles; at the start of a run, the ranks have
            different arguments or test sets.
    """

    def __init__(
        self,
        dataloader: Any,
        start: int | None = None,
        interval: int = 1,
        by_epoch: bool = True,
        save_best: str | Sequence[str] | None = None,
        rule: str | Sequence[str | None] | None = None,
        test_fn: Callable[..., Any] | None = None,
        greater_keys: str | Sequence[str] | None = None,
        less_keys: str | Sequence[str] | None = None,
        broadcast_bn_buffer: bool = True,
        tmpdir: str | os.PathLike[str] | None = None,
        gpu_collect: bool = False,
        out_dir: str | None = None,
        file_client_args: Mapping[str, Any] | None = None,
        *,
        metrics: Metrics | None = None,
        background: bool = True,
        name: str | None = None,
        **eval_kwargs: Any,
    ) -> None:
        given = {"broadcast_bn_buffer": broadcast_bn_buffer, "gpu_collect": gpu_collect}
        for argument, value in given.items():
            if not isinstance(value, bool):
                raise TypeError(f"DistEvalHook: {argument} must be a bool, not {value!r}")
        super().__init__(
            dataloader,
            start,
            interval,
            by_epoch,
            save_best,
            rule,
            test_fn,
            greater_keys,
            less_keys,
            out_dir,
            file_client_args,
            metrics=metrics,
            background=background,
            name=name,
            **eval_kwargs,
        )
        self.test_fn: Callable[..., Any] = test_fn or multi_gpu_test
        self.broadcast_bn_buffer = broadcast_bn_buffer
        self.tmpdir = path_or_none("DistEvalHook", tmpdir=tmpdir)
        self.gpu_collect = gpu_collect
        self._set_size = size_of_set(dataloader) if test_fn is None else None
        if metrics is None and test_fn is None and _shuffles(dataloader):
            raise ValueError(
                "DistEvalHook: results of a sampler that shuffles are in another order than the "
                "dataset expects: give DistributedSampler(dataset, shuffle=False)"
            )

    def required_signature(self, runner: Any) -> Any:
        """That it evaluates; its settings are compared at the start of the run."""
        return [True]

    def before_run(self, runner: Any) -> None:
        if not _is_initialized():
            raise RuntimeError(
                "DistEvalHook needs a process group: call torch.distributed.init_process_group "
                "first; for a run of one process there is EvalHook"
            )
        settings = (
            *(self.start, self.interval, self.by_epoch, self.save_best),
            *(self.broadcast_bn_buffer, self.gpu_collect, self._set_size),
        )
        of_all = all_gather_objects(settings)
        if any(theirs != of_all[0] for theirs in of_all):
            names = "start, interval, by_epoch, save_best, broadcast_bn_buffer, gpu_collect, "
            names += "size of the test set"
            raise ValueError(
                f"DistEvalHook must be the same on all ranks, but the ranks have, of ({names}): "
                + ", ".join(map(str, of_all))
            )
        super().before_run(runner)

    def _test(self, runner: Any) -> Any:
        if self.broadcast_bn_buffer:
            broadcast_tensors_(_running_statistics(runner.model))
        own = self.metrics is None and self.test_fn is not multi_gpu_test
        loader = self.dataloader if own else watched_loader(self.dataloader, runner)
        if self._streaming is not None:
            return stream_on_all_ranks(runner.model, loader, self._streaming)
        if self.metrics is not None:
            return collect_predictions_of_all_ranks(runner.model, loader)
        tmpdir = self.tmpdir
        if tmpdir is None and runner.work_dir is not None:
            tmpdir = os.path.join(runner.work_dir, ".eval_hook")
        return self.test_fn(runner.model, loader, tmpdir=tmpdir, gpu_collect=self.gpu_collect)

    def _score(self, runner: Any, results: Any) -> None:
        score, name = None, type(self).__name__
        with fail_together(f"{name}: computing scores"):
            log_length(runner, self.dataloader)
            if runner.rank == 0:
                score = self.evaluate(runner, results)
        self._last_evaluated = self._count_finished(runner)
        of_rank_0 = broadcast_object(_plain(self.scores))
        if runner.rank != 0:
            self.scores = of_rank_0
            runner.log_buffer.output.update(of_rank_0)
            runner.log_buffer.ready = True
        fire_own(runner, EVALUATION_SCORED)
        if self.save_best is None:
            return
        if not overrides(self, DistEvalHook, ("_save_ckpt",)):
            self._keep_best_of_rank_0(runner, score)
            return
        with fail_together(f"{name}: saving the best checkpoint"):
            if score is not None:  # on rank 0: as in MMCV, the others do not save
                self._save_ckpt(runner, score)


def _plain(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers and texts among scores, which other ranks can be sent."""
    return {name: value for name, value in scores.items() if isinstance(value, (Real, str))}


def _is_initialized() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def _shuffles(data_loader: Any) -> bool:
    """Whether a loader's sampler says that it shuffles and that it is one of several ranks'."""
    sampler = getattr(data_loader, "sampler", None)
    return bool(getattr(sampler, "shuffle", False)) and hasattr(sampler, "num_replicas")


def _running_statistics(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, (_BatchNorm, _InstanceNorm)):
            for each in (module.running_mean, module.running_var):
                if module.track_running_stats and each is not None:
                    yield each
