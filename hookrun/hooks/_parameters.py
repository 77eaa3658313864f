"""The parameters of a model by name, and a watch that they stay the same during a run."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from hookrun.distributed import plain_names
from hookrun.ops.sharded import is_sharded


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The model's parameters, each once, under their names without those of wrappers."""
    parameters = dict(model.named_parameters())
    names = plain_names(model, parameters)
    for name, parameter in parameters.items():
        yield names[name], parameter


class ParameterWatch:
    """Notices parameters that are replaced, or moved to another device, after a run began.

    The optimizer would step, and averages follow, tensors that the model does not use any more, and
    nothing else would show it.

    Args:
        owner: the hook's name, for the error.
        model: the model whose parameters count.
    """

    def __init__(self, owner: str, model: nn.Module) -> None:
        self.owner = owner
        self._parameters = dict(named_parameters(model))
        self._devices = {name: each.device for name, each in self._parameters.items()}
        self._first = next(iter(self._parameters.values()), None)
        self._first_device = None if self._first is None else self._first.device

    def check(self, model: nn.Module) -> bool:
        """Look at all of them.

        Returns:
            Whether there are new ones since the last time.

        Raises:
            ValueError: one is another tensor, or on another device.
        """
        found_new = False
        for name, parameter in named_parameters(model):
            seen = self._parameters.get(name)
            if seen is None:
                self._parameters[name], self._devices[name] = parameter, parameter.device
                found_new = True
                continue
            if is_sharded(seen) and not is_sharded(parameter):
                continue  # FSDP has the unsharded one there between forward and backward
            if parameter is not seen:
                raise ValueError(
                    f"{self.owner}: the parameter {name!r} is another tensor than when the run "
                    "began, so the one known to the optimizer and to averages would be stepped in "
                    "vain. Replace parts of a model before runner.run(), and build the optimizer "
                    "after that."
                )
            self._check_device(name, parameter)
        return found_new

    def has_moved(self) -> bool:
        """Whether the first of them is on another device, as in a model that was moved."""
        return self._first is not None and self._first.device != self._first_device

    def _check_device(self, name: str, parameter: Tensor) -> None:
        if parameter.device != self._devices[name]:
            raise ValueError(
                f"{self.owner}: the parameter {name!r} was on {self._devices[name]} when the run "
                f"began and is on {parameter.device} now. Move a model before runner.run(), and "
                "build the optimizer after that."
            )
