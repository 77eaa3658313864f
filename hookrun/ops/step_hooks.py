"""An optimizer's step hooks, as torch registers them, called as torch calls them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import optimizer as torch_optimizer


def has_step_hooks(optimizer: Any) -> bool:
    """Whether something is registered for the optimizer's steps, or for those of all optimizers."""
    return bool(
        torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
        or getattr(optimizer, "_optimizer_step_pre_hooks", None)
        or getattr(optimizer, "_optimizer_step_post_hooks", None)
    )


def fire_pre_hooks(
    optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Call the pre-hooks, which may replace the arguments of the step.

    Args:
        args, kwargs: of ``optimizer.step``, the optimizer itself first.

    Returns:
        The arguments to take the step with.

    Raises:
        RuntimeError: a hook returned something else than None or new ``(args, kwargs)``.
    """
    global_hooks = torch_optimizer._global_optimizer_pre_hooks.values()
    for hook in [*global_hooks, *optimizer._optimizer_step_pre_hooks.values()]:
        result = hook(optimizer, args, kwargs)
        if result is None:
            continue
        if not isinstance(result, tuple) or len(result) != 2:
            raise RuntimeError(
                f"the step pre-hook {hook!r} must return None or a tuple of new args and kwargs, "
                f"not {result!r}"
            )
        args, kwargs = result
    return args, kwargs


def fire_post_hooks(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Call the post-hooks with the arguments that the step was taken with."""
    global_hooks = torch_optimizer._global_optimizer_post_hooks.values()
    for hook in [*optimizer._optimizer_step_post_hooks.values(), *global_hooks]:
        hook(optimizer, args, kwargs)


def closure_in(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The closure among the arguments of a step, or None.

    Raises:
        TypeError: they are not the arguments of this optimizer's ``step``.
    """
    try:
        given = inspect.signature(type(optimizer).step).bind(*args, **kwargs).arguments
    except TypeError as error:
        raise TypeError(
            f"a step pre-hook returned arguments that {type(optimizer).__name__}.step does not "
            f"take, which begin with the optimizer: {error}"
        ) from error
    if next(iter(given.values())) is not optimizer:
        raise TypeError("a step pre-hook returned new args that do not begin with the optimizer")
    return given.get("closure")


def own_step(optimizer: Any, *closure: Any) -> Any:
    """The optimizer's own step, with step counts on the CPU if the default device is meta.

    Some of torch's optimizers create their step counts on the default device; on meta they would
    hold no number.
    """
    if torch.get_default_device().type != "meta":
        return optimizer.step(*closure)
    with torch.device("cpu"):
        return optimizer.step(*closure)


def step_without_hooks(optimizer: Any) -> None:
    """Take the own step of one of torch's optimizers, whose hooks have been called already."""
    type(optimizer).step.__wrapped__(optimizer)


def why_replaced(optimizer: Any) -> str | None:
    """Says so if someone assigned a ``step`` to this optimizer object; else None.

    The one that torch's schedulers assign does not count: it only notes that a step was taken.
    """
    step: Callable[..., Any] | None = getattr(optimizer, "__dict__", {}).get("step")
    by_scheduler = getattr(step, "_wrapped_by_lr_sched", False)
    original = getattr(type(optimizer), "step", None)
    if step is None or (by_scheduler and getattr(step, "__wrapped__", None) is original):
        return None
    return "the optimizer's step was replaced"


class ClosureCall:
    """The closure of a step: it is called once, sooner or later, and its result is kept."""

    def __init__(self, closure: Callable[[], Any] | None) -> None:
        self.closure = closure
        self.arguments = () if closure is None else (closure,)
        self.result: Any = None

    def now(self) -> None:
        """Call it with gradients enabled, unless it was."""
        if self.closure is not None:
            with torch.enable_grad():
                self.result = self.closure()
            self.closure = None

    def of(self, closure: Callable[[], Any] | None) -> None:
        """Call this closure, as a hook may have replaced it; not if it was called already."""
        if self.arguments != (closure,):
            self.closure = closure
        self.now()

    def by_own_step(self, optimizer: Any) -> None:
        """Let the optimizer's own step call it, or the one that a hook replaces it with."""
        pending = () if self.closure is None else (self.closure,)
        result = own_step(optimizer, *pending)
        self.result = self.result if result is None else result
