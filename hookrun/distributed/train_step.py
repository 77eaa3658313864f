"""DistributedDataParallel for models with a training step of their own."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .wrappers import MODULE_WRAPPERS, without_buffer_sync


@MODULE_WRAPPERS.register_module(name=["DistributedTrainStep", "MMDistributedDataParallel"])
class DistributedTrainStep(DistributedDataParallel):
    """A DistributedDataParallel with the ``train_step`` and ``val_step`` of the model inside.

    torch's own wrapper averages gradients where it is called itself, ``ddp(inputs)``, and has no
    other methods of the model. This one passes steps on through its ``forward``, so that their
    gradients are averaged too. It is what MMCV calls MMDistributedDataParallel. A network without a
    ``train_step`` needs none of it: ``TrainStep(DistributedDataParallel(network), loss_fn)``.

    Args:
        module: a model with ``train_step(data_batch, optimizer)`` and, to validate, ``val_step``.
        arguments, keywords: those of ``torch.nn.parallel.DistributedDataParallel``, such as
            ``device_ids``.

    Raises:
        TypeError: the model has no ``train_step``.
        ValueError: there is no process group: call `init_dist` first.
    """

    def __init__(self, module: nn.Module, *arguments: Any, **keywords: Any) -> None:
        if not hasattr(module, "train_step"):
            raise TypeError(
                f"DistributedTrainStep passes on the train_step of a model, and "
                f"{type(module).__name__} has none. For any other network there is "
                "hookrun.TrainStep(DistributedDataParallel(network), loss_fn)"
            )
        super().__init__(module, *arguments, **keywords)

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        """The model's ``train_step``; its gradients are averaged over all ranks."""
        return self._step("train_step", args, kwargs)

    def val_step(self, *args: Any, **kwargs: Any) -> Any:
        """The model's ``val_step``; ranks exchange nothing, so that they may have different numbers
        of batches.
        """
        with without_buffer_sync(self):
            return self._step("val_step", args, kwargs)

    def _step(self, name: str, args: Any, kwargs: Any) -> Any:
        # An attribute of the object hides the module of the same name.
        vars(self)["module"] = _Step(self, name)
        try:
            return self(*args, **kwargs)
        finally:
            vars(self).pop("module", None)


class _Step:
    """Stands in for the model until DistributedDataParallel calls it; the call is a step.

    Args:
        wrapper: has it as its attribute ``module``.
        name: of the model's method.
    """

    def __init__(self, wrapper: DistributedTrainStep, name: str) -> None:
        self._wrapper = wrapper
        self._model: Any = wrapper.get_submodule("module")
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        vars(self._wrapper).pop("module")
        return getattr(self._model, self._name)(*args, **kwargs)

    forward = __call__
