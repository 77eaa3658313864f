"""The base class of hooks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from .events import GENERIC, STAGES
from .overrides import overrides
from .registry import Registry
from .triggers import Trigger

HOOKS = Registry("hook", home="hookrun.hooks")
H = TypeVar("H", bound="Hook")


class Hook:
    """Something to do at points of a training run: override the methods of those points.

    Every point method takes the runner and returns nothing. A hook listens to the points that it
    overrides, and costs nothing at the others. ``before_epoch``, ``after_epoch``, ``before_iter``
    and ``after_iter`` serve training and validation unless the specific point is overridden.

    Optional methods are protocols in `hookrun.core.protocols`: the runner calls them on hooks
    that have them.

    Class attributes:
        reads, writes: what the hook touches, out of ``RESOURCES``; an empty set for nothing, None
            if not declared. Registration refuses or reorders hooks whose declarations would corrupt
            a run. EMAHook averages within the fused optimizer step only if all hooks between it and
            the optimizer hook declare ``writes`` without ``"parameters"``.
        state_layout: the layout of ``state_dict()``: a check of `hookrun.core.schema`, as a
            static method. A checkpoint with another layout is refused. None: not checked.
    """

    stages: ClassVar[tuple[str, ...]] = STAGES
    RESOURCES: ClassVar[frozenset[str]] = frozenset(
        {"parameters", "gradients", "learning_rate", "momentum", "checkpoint", "log"}
    )
    reads: ClassVar[frozenset[str] | None] = None
    writes: ClassVar[frozenset[str] | None] = None

    state_layout: ClassVar[Any] = None

    # The class whose settings instances start with, see `starts_with_defaults`; and those.
    _defaults: ClassVar[tuple[type[Hook], Callable[[], Hook]] | None] = None

    # The runner sets these when the hook is registered.
    priority: int
    _refresh: Callable[[], Callable[[], None] | None]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """A hook that has the default settings of the shipped class that its class extends."""
        hook = super().__new__(cls)
        if cls._defaults is not None:
            shipped, make = cls._defaults
            if cls.__init__ is not shipped.__init__:
                vars(hook).update(vars(make()))
        return hook

    def before_run(self, runner: Any) -> None:
        """Once, before the first phase of the workflow."""

    def after_run(self, runner: Any) -> None:
        """Once, after the last phase; not if an error ends the run."""

    def before_epoch(self, runner: Any) -> None:
        """Before each training or validation epoch."""

    def after_epoch(self, runner: Any) -> None:
        """After each training or validation epoch."""

    def before_iter(self, runner: Any) -> None:
        """Before each training or validation iteration."""

    def after_iter(self, runner: Any) -> None:
        """After each training or validation iteration."""

    def before_train_epoch(self, runner: Any) -> None:
        """Before each training epoch; calls ``before_epoch`` unless overridden."""
        self.before_epoch(runner)

    def before_val_epoch(self, runner: Any) -> None:
        """Before each validation epoch; calls ``before_epoch`` unless overridden."""
        self.before_epoch(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """After each training epoch; calls ``after_epoch`` unless overridden."""
        self.after_epoch(runner)

    def after_val_epoch(self, runner: Any) -> None:
        """After each validation epoch; calls ``after_epoch`` unless overridden."""
        self.after_epoch(runner)

    def before_train_iter(self, runner: Any) -> None:
        """Before each training iteration; calls ``before_iter`` unless overridden."""
        self.before_iter(runner)

    def before_val_iter(self, runner: Any) -> None:
        """Before each validation iteration; calls ``before_iter`` unless overridden."""
        self.before_iter(runner)

    def after_train_iter(self, runner: Any) -> None:
        """After each training iteration; calls ``after_iter`` unless overridden."""
        self.after_iter(runner)

    def after_val_iter(self, runner: Any) -> None:
        """After each validation iteration; calls ``after_iter`` unless overridden."""
        self.after_iter(runner)

    def close(self, runner: Any, error: BaseException | None) -> None:
        """Release resources. Not an event: called for every hook, however a run ends.

        Args:
            runner: the runner whose run ends.
            error: the exception that ended the run, or None if it ended normally.
        """

    def state_dict(self) -> dict[str, Any]:
        """The hook's state for a checkpoint: plain types and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what ``state_dict`` returned in the run that is resumed."""

    def triggers(self) -> Mapping[str, Trigger]:
        """When the methods that this class defines are due, by event; other events are always due.

        A trigger applies only while no subclass overrides the event's method or one of the
        ``every_n_*`` and ``is_last_*`` methods (`hookrun.core.overrides`); otherwise the hook
        is called at every event. The method itself must check again, so that ``super()`` works.
        """
        return {}

    def every_n_epochs(self, runner: Any, n: int) -> bool:
        """Whether the current epoch completes a multiple of ``n`` epochs; never for n <= 0."""
        return (runner.epoch + 1) % n == 0 if n > 0 else False

    def every_n_inner_iters(self, runner: Any, n: int) -> bool:
        """Whether the current iteration completes a multiple of ``n`` within the epoch."""
        return (runner.inner_iter + 1) % n == 0 if n > 0 else False

    def every_n_iters(self, runner: Any, n: int) -> bool:
        """Whether the current iteration completes a multiple of ``n`` iterations of the run."""
        return (runner.iter + 1) % n == 0 if n > 0 else False

    def end_of_epoch(self, runner: Any) -> bool:
        """Whether the current batch is the loader's last; False if the loader has no length.

        If the ``len()`` of a loader turned out to be wrong in an earlier epoch, the number of
        batches that it yielded is used instead.
        """
        length = getattr(runner, "epoch_length", None)
        if not isinstance(length, int):  # outside of an epoch, or a mock of a runner
            try:
                length = len(runner.data_loader)
            except TypeError:
                return False
        return bool(runner.inner_iter + 1 == length)

    def is_last_epoch(self, runner: Any) -> bool:
        """Whether the current epoch is the last of the run."""
        return bool(runner.epoch + 1 == runner._max_epochs)

    def is_last_iter(self, runner: Any) -> bool:
        """Whether the current iteration is the last of the run."""
        return bool(runner.iter + 1 == runner._max_iters)

    def get_triggered_stages(self) -> list[str]:
        """The points to which the hook listens, in firing order."""
        return [stage for stage in Hook.stages if listening_method(self, stage) is not None]

    def __getstate__(self) -> dict[str, Any]:
        """Without the reference to a runner, so that hooks can be copied and pickled."""
        return {name: value for name, value in vars(self).items() if name != "_refresh"}


def starts_with_defaults(**required: Any) -> Callable[[type[H]], type[H]]:
    """Class decorator of shipped hooks: subclasses that never call ``super().__init__()`` work.

    Code written for MMCV has such subclasses: they set the attributes that they know. Instances of
    a class with another ``__init__`` start with the attributes of an instance of the decorated
    class, made without arguments, and lose nothing if they do call ``super().__init__()``.

    Args:
        required: values for arguments that have no default. Attributes of that name are left out,
            so that a subclass that forgets to set one gets an AttributeError.

    Examples:
        >>> @starts_with_defaults()
        ... class Report(Hook):
        ...     def __init__(self, interval=10):
        ...         self.interval = interval
        >>> class MyReport(Report):
        ...     def __init__(self, name):
        ...         self.name = name
        >>> MyReport("mine").interval
        10
    """

    def decorate(cls: type[H]) -> type[H]:
        def make() -> Hook:
            hook = cls(**required)
            for name in required:
                vars(hook).pop(name, None)
            return hook

        cls._defaults = (cls, make)
        return cls

    return decorate


SCHEDULING_METHODS = (
    "every_n_epochs",
    "every_n_inner_iters",
    "every_n_iters",
    "end_of_epoch",
    "is_last_epoch",
    "is_last_iter",
)


class TriggerSetting:
    """A hook attribute on which its triggers depend: assigning it updates the dispatcher.

    Examples:
        >>> class Report(Hook):
        ...     interval = TriggerSetting()
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    if TYPE_CHECKING:
        # For type checkers only: without __get__, reading is as fast as for any other attribute.
        def __get__(self, hook: Any, owner: type | None = None) -> Any: ...

    def __set__(self, hook: Any, value: Any) -> None:
        vars(hook)[self.name] = value
        refresh = vars(hook).get("_refresh")
        if refresh is not None and (call := refresh()) is not None:
            call()

    def __delete__(self, hook: Any) -> None:
        del vars(hook)[self.name]

    def __repr__(self) -> str:
        """What error messages show where a hook never set the attribute."""
        return "unset"


def tie_to_runner(hook: Hook, refresh: Callable[[], None]) -> None:
    """Let the hook's trigger settings refresh the runner; holds a weak reference to it."""
    vars(hook)["_refresh"] = weakref.WeakMethod(refresh)


def writes_of(hook: Hook) -> frozenset[str]:
    """What the hook declares to write; the empty set if it declares nothing."""
    return hook.writes or frozenset()


def untie_from_runner(hook: Hook) -> None:
    """Undo `tie_to_runner`."""
    vars(hook).pop("_refresh", None)


def listening_method(hook: Hook, event: str) -> str | None:
    """The name of the method to call for the event, or None if the hook does not listen.

    The event's own method if it is overridden or set on the instance; else the generic one, if that
    is overridden or set. For a custom event, the method of that name.
    """
    for name in (event, GENERIC.get(event)):
        if name is None:
            continue
        if overrides(hook, Hook, (name,)):
            return name
    return None
