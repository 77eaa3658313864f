"""A training step for any module."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hookrun.checkpoint import averages_of_model
from hookrun.core.nested import map_tensors
from hookrun.core.overrides import overrides
from hookrun.distributed import unwrap_model

Metric = Callable[[Any, Any], Any]


class TrainStep(nn.Module):
    """Adds the ``train_step`` and ``val_step`` that a runner calls to any module.

    A batch is a pair ``(inputs, target)``, or a dict with ``target``, whose other items are passed
    to the module as keyword arguments. Batches are moved to the module's device.

    Args:
        model: the module to train.
        loss_fn: ``loss_fn(outputs, target)``, a scalar tensor.
        metrics: by name, ``metric(outputs, target)``: a number or a one-element tensor to log with
            the loss.
        autocast: None, or ``torch.bfloat16`` (or ``torch.float16``, which needs loss scaling:
            Fp16OptimizerHook) to run module, loss and metrics under autocast. The parameters keep
            their dtype, and predictions are returned in fp32.

    Raises:
        TypeError: ``model`` is no module, or ``loss_fn`` or a metric cannot be called.
        ValueError: another ``autocast``.

    Examples:
        >>> import torch.nn.functional as F
        >>> step = TrainStep(nn.Linear(4, 2), F.cross_entropy)
        >>> outputs = step.train_step((torch.rand(8, 4), torch.zeros(8, dtype=torch.long)))
        >>> sorted(outputs), outputs["num_samples"]
        (['log_vars', 'loss', 'num_samples'], 8)
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        metrics: Mapping[str, Metric] | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"TrainStep wraps a torch.nn.Module, not {type(model).__name__}")
        if metrics is not None and not isinstance(metrics, Mapping):
            raise TypeError(
                "TrainStep: metrics is a dict of functions by the name to log, such as "
                f"dict(acc=accuracy), not {metrics!r:.80}"
            )
        for name, function in {"loss_fn": loss_fn, **(metrics or {})}.items():
            if not callable(function):
                raise TypeError(f"TrainStep: {name} must be callable, not {function!r}")
        if "loss" in (metrics or {}):
            raise ValueError(
                "TrainStep: a metric named 'loss' would be logged in place of the loss; give it "
                "another name"
            )
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise ValueError(
                "TrainStep: autocast must be torch.bfloat16, torch.float16 or None, "
                f"not {autocast!r}"
            )
        self.model = model
        self.loss_fn = loss_fn
        self.autocast = autocast
        self.metrics = dict(metrics or {})

    @property
    def wrapped_network(self) -> str:
        """The attribute that is left out of names in files: ``model``, whose weights are all.

        Empty if there are others, such as those of a loss, which such names could be confused with,
        or if both this module and the network have extra state.
        A second attribute that holds the network or parts of it adds none.
        """
        averages = averages_of_model(self)
        own = self._buffers.keys() - self._non_persistent_buffers_set
        own -= averages.buffers if averages else set()
        if any(self._buffers[name] is not None for name in own) or any(
            each is not None for each in self._parameters.values()
        ):
            return ""
        extra = (self, unwrap_model(self.model))
        if all(overrides(each, nn.Module, ["get_extra_state"]) for each in extra):
            return ""
        others = [child for name, child in self.named_children() if name != "model"]
        states = [state for child in others if (state := child.state_dict(keep_vars=True))]
        if states:
            network = {id(each) for each in (*self.model.parameters(), *self.model.buffers())}
            if any(id(each) not in network for state in states for each in state.values()):
                return ""
        return "model"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped module's outputs."""
        return self.model(*args, **kwargs)

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        """``loss``, ``log_vars`` and ``num_samples`` of a batch, without a host sync.

        Args:
            data_batch: see the class.
            optimizer: not used; the optimizer hook steps.
            kwargs: passed to the module.

        Raises:
            TypeError: the batch is neither a pair nor a dict, or the loss is no tensor.
            ValueError: the loss is no scalar.
            KeyError: a dict without ``target``.
        """
        inputs, target = self.split_batch(data_batch)
        with self._precision():
            outputs = self._call(inputs, kwargs)
            loss = self.loss_fn(outputs, target)
            if not isinstance(loss, Tensor):
                raise TypeError(f"TrainStep: loss_fn must return a tensor, not {loss!r:.80}")
            if loss.numel() != 1:
                raise ValueError(
                    "TrainStep: loss_fn must return one number, not a tensor of shape "
                    f"{tuple(loss.shape)}: take its mean() or sum()"
                )
            log_vars = {"loss": loss.detach()}
            for name, metric in self.metrics.items():
                log_vars[name] = metric(outputs, target)
        return {"loss": loss, "log_vars": log_vars, "num_samples": _batch_size(target)}

    def val_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        """The same as `train_step`; the runner has switched the module's mode."""
        return self.train_step(data_batch, optimizer, **kwargs)

    def predict_step(self, data_batch: Any) -> Any:
        """The wrapped module's outputs on the inputs of a batch."""
        inputs = self.split_batch(data_batch)[0]
        if self.autocast is None:
            return self._call(inputs, {})
        with self._precision():
            return map_tensors(self._to_fp32, self._call(inputs, {}))

    def split_batch(self, data_batch: Any) -> tuple[Any, Any]:
        """The inputs and the target of a batch, on the module's device."""
        if isinstance(data_batch, Mapping):
            if "target" not in data_batch:
                raise KeyError(f"a batch that is a dict needs 'target'; it has {list(data_batch)}")
            inputs: Any = {key: value for key, value in data_batch.items() if key != "target"}
            target = data_batch["target"]
        elif isinstance(data_batch, (tuple, list)) and len(data_batch) == 2:
            inputs, target = data_batch
        else:
            raise TypeError(
                "TrainStep takes batches that are pairs (inputs, target) or dicts with 'target', "
                f"not {_describe(data_batch)}; subclass it and override split_batch for others"
            )
        device = self._device()
        return _to_device(inputs, device), _to_device(target, device)

    def _device(self) -> torch.device:
        first = _first_parameter(self.model)
        return torch.device("cpu") if first is None else first.device

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device().type, dtype=self.autocast)

    def _to_fp32(self, tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype == self.autocast else tensor

    def _call(self, inputs: Any, kwargs: Mapping[str, Any]) -> Any:
        if isinstance(inputs, dict):
            return self.model(**inputs, **kwargs)
        return self.model(inputs, **kwargs)


def _first_parameter(module: nn.Module) -> Tensor | None:
    """The first of ``module.parameters()``, which takes ten times as long to find it."""
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    for child in module._modules.values():
        found = None if child is None else _first_parameter(child)
        if found is not None:
            return found
    return None


def _to_device(value: Any, device: torch.device) -> Any:
    def move(tensor: Tensor) -> Tensor:
        return tensor if tensor.device == device else tensor.to(device, non_blocking=True)

    return map_tensors(move, value)


def _batch_size(target: Any) -> int:
    if isinstance(target, Tensor):
        return target.shape[0] if target.ndim > 0 else 1
    if isinstance(target, Mapping):
        return _batch_size(next(iter(target.values()), None))
    return len(target) if isinstance(target, (list, tuple)) else 1


def _describe(batch: Any) -> str:
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {len(batch)}"
    return type(batch).__name__
