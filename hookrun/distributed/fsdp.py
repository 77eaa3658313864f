"""What FSDP2 (``fully_shard``) has in full on each rank for a while: parameters and gradients.

Between the forward and the backward pass, and after a forward pass without one, modules may have
their parameters in full, the outermost one does so by default. They are copies: what changes the
sharded ones must call `reshard` first, or the next forward pass uses the old values.

With ``set_requires_gradient_sync(False)`` a backward pass reduces nothing: the parameters, which
are sharded, get no ``.grad``, and the modules keep their gradients in full. Torch reduces them in
the next backward pass that synchronizes, and has no public way to do it, or to drop them, outside
of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from hookrun.ops.sharded import is_sharded


def fsdp_modules(model: nn.Module) -> list[Any]:
    """The modules that ``fully_shard`` was called with, the outermost first."""
    return [
        module
        for module in model.modules()
        if callable(getattr(module, "set_requires_gradient_sync", None))
    ]


def keeps_gradients(modules: Sequence[Any]) -> bool:
    """Whether gradients that these would keep can be reduced and dropped by the functions here.

    Not where this torch keeps them elsewhere, nor for an empty list.
    """
    return bool(modules) and all(map(_is_known, modules))


def reshard(modules: Iterable[Any]) -> None:
    """Drop full copies of sharded parameters.

    Args:
        modules: as `fsdp_modules` gives them.
    """
    for module in modules:
        module.reshard()


def full_copies(model: nn.Module) -> dict[int, nn.Parameter]:
    """The model's sharded parameters by the ``id`` of their full copies, which losses depend on."""
    modules = fsdp_modules(model)
    return {
        id(param._unsharded_param): param.sharded_param
        for module in (modules if keeps_gradients(modules) else ())
        for param in _params(module)
        if hasattr(param, "_unsharded_param")  # it has been in a forward pass
    }


def sharded_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The model's parameters, the sharded ones where it has full copies of them at the moment."""
    copies = full_copies(model)
    return [copies.get(id(each), each) for each in model.parameters()]


def parameters_outside_fsdp(model: nn.Module) -> list[str]:
    """Trainable parameters of an FSDP2 model that it does not shard: nothing averages gradients.

    Empty for a model without FSDP2; those inside of DistributedDataParallel are left out.

    Returns:
        their names.
    """
    from torch.nn.parallel import DistributedDataParallel

    if not fsdp_modules(model):
        return []
    averaged = {
        id(param)
        for module in model.modules()
        if isinstance(module, DistributedDataParallel)
        for param in module.parameters()
    }
    return [
        name
        for name, param in model.named_parameters()
        if param.requires_grad and not is_sharded(param) and id(param) not in averaged
    ]


def set_gradient_sync(modules: Sequence[Any], synchronize: bool) -> None:
    """Let backward passes reduce the gradients of these, or keep them on each rank."""
    for module in modules:
        module.set_requires_gradient_sync(synchronize, recurse=False)


def reduce_kept_gradients(modules: Sequence[Any]) -> None:
    """Add the gradients that these have kept to those of their parameters, averaged over the ranks.

    All ranks must call it, between two backward passes. Nothing happens if none were kept.

    Args:
        modules: those of a model, synchronizing; see `keeps_gradients`.
    """
    for module in modules:
        state = module._get_fsdp_state()
        if state._is_root:  # it does so for all modules inside, as at the end of a backward pass
            state._root_post_backward_final_callback()


def drop_kept_gradients(modules: Sequence[Any]) -> None:
    """Forget the gradients that these have kept."""
    for module in modules:
        for param in _params(module):
            param.unsharded_accumulated_grad = None
            if hasattr(param, "_unsharded_param"):
                param._unsharded_param.grad = None


def _params(module: Any) -> Iterator[Any]:
    for group in module._get_fsdp_state()._fsdp_param_groups:
        yield from group.fsdp_params


def _is_known(module: Any) -> bool:
    """Whether the private names are there that the functions here use."""
    try:
        state = module._get_fsdp_state()
        names = ("_is_root", "_root_post_backward_final_callback")
        return all(hasattr(state, name) for name in names) and all(
            hasattr(param, "unsharded_accumulated_grad") for param in _params(module)
        )
    except AttributeError:
        return False
