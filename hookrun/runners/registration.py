"""Registering hooks: single hooks, from configs, and the usual set for training."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hookrun._native import Dispatcher as NativeDispatcher
from hookrun._native import RunState
from hookrun.core.dispatcher import Dispatcher, HookList, make_dispatcher
from hookrun.core.errors import noting
from hookrun.core.events import EVENTS
from hookrun.core.hook import Hook, tie_to_runner, untie_from_runner, writes_of
from hookrun.core.hook_order import check_resources, resolve_position
from hookrun.core.hook_times import HookTime
from hookrun.core.priority import Priority, get_priority, priority_name
from hookrun.core.protocols import ChecksRunner, implements
from hookrun.core.spelling import check_spelling

from .hook_configs import (
    averaging_configs,
    build_hook,
    config_hint,
    custom_configs,
    custom_hooks_called,
    logger_configs,
    place_of,
)

HookConfig = Mapping[str, Any] | Hook | None

_MAX_SPANS = 100_000_000
_SETS_EVENT = "__sets_current_event__"


def setting_event(call_hook: Callable[..., Any]) -> Callable[..., Any]:
    """A subclass's ``call_hook``, during which ``current_event`` is the event.

    One that is written for MMCV calls the hooks itself; the counts of a checkpoint and of a log
    line depend on the event all the same.
    """

    @functools.wraps(call_hook)
    def wrapper(runner: RunState, *args: Any, **kwargs: Any) -> Any:
        event = args[0] if args else kwargs.get("fn_name")
        outer = runner.current_event
        if event in EVENTS:  # a custom event leaves it at the lifecycle event around it
            runner.current_event = event
        try:
            return call_hook(runner, *args, **kwargs)
        finally:
            runner.current_event = outer

    setattr(wrapper, _SETS_EVENT, True)
    return wrapper


class HookRegistration(RunState):
    """The part of a runner that manages its hooks."""

    _dispatcher: Dispatcher
    _hook_list: HookList
    waiting_hook_states: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep ``current_event`` right where a subclass has its own ``call_hook``."""
        super().__init_subclass__(**kwargs)
        method = cls.call_hook
        if method is not RunState.call_hook and not hasattr(method, _SETS_EVENT):
            cls.call_hook = setting_event(method)  # type: ignore[method-assign]

    def _init_hooks(self) -> None:
        self._dispatcher = make_dispatcher(self)
        self._hook_list = HookList([], self.refresh_hooks)
        self._registered: list[Hook] = []  # in order of registration

    @property
    def hooks(self) -> HookList:
        """The registered hooks in the order of their calls."""
        return self._hook_list

    @property
    def dispatches_natively(self) -> bool:
        """Whether the native dispatcher fires the events, not the reference in Python."""
        return isinstance(self._dispatcher, NativeDispatcher)

    @property
    def _hooks(self) -> HookList:
        """The same list under MMCV's name, for third-party hooks; changes take effect."""
        return self._hook_list

    @_hooks.setter
    def _hooks(self, hooks: Sequence[Hook]) -> None:
        before = self._hook_list
        self._hook_list = HookList(hooks, self.refresh_hooks)
        try:
            self.refresh_hooks()
        except BaseException:
            self._hook_list = before
            raise

    def keyed_hooks(self) -> dict[str, Hook]:
        """The hooks by the keys that their states have in a checkpoint.

        A key is the class name and a number, which counts the hooks of that class in the order of
        registration.
        """
        keyed: dict[str, Hook] = {}
        seen: dict[str, int] = {}
        order = {id(hook): number for number, hook in enumerate(self._registered)}
        for hook in sorted(self.hooks, key=lambda hook: order.get(id(hook), len(order))):
            name = type(hook).__name__
            keyed[f"{name}/{seen.get(name, 0)}"] = hook
            seen[name] = seen.get(name, 0) + 1
        return keyed

    def refresh_hooks(self) -> None:
        """Resolve again what each event calls; needed after replacing a method of a hook."""
        for hook in self._hook_list:
            if not isinstance(hook, Hook):
                raise TypeError(f"only hooks can be in the list of hooks, not {hook!r}")
            check_spelling(hook)
            check_resources(hook)
        self._dispatcher.replace([(hook, _priority_of(hook)) for hook in self._hook_list])

    def register_hook(
        self, hook: Hook | Mapping[str, Any], priority: int | str | Priority | None = None
    ) -> None:
        """Register a hook.

        Args:
            hook: a hook, or a config dict (``type`` and arguments).
            priority: lower values fire first; equal ones in order of registration. By default the
                ``priority`` of the config dict, else NORMAL (50).

        Raises:
            TypeError: not a hook, or one whose ``reads`` or ``writes`` is no set.
            ValueError: the hook is registered already; it sets the reserved attribute ``priority``;
                its position would corrupt the run, by what it and other hooks write (the message
                says how to fix it); or a method name, such as ``after_trian_iter``, or a name in
                ``reads`` or ``writes`` is misspelt.
            KeyError: an unknown type or priority level; the message has near spellings.
        """
        if isinstance(hook, Mapping):
            hook, own_priority = build_hook(hook, "the config given to register_hook")
            priority = own_priority if priority is None else priority
        if not isinstance(hook, Hook):
            raise TypeError(f"only hooks can be registered, not {hook!r}{config_hint(hook)}")
        level = get_priority("NORMAL" if priority is None else priority)
        name = type(hook).__name__
        if self._hook_list.has(hook):
            raise ValueError(f"this {name} is registered already")
        if hasattr(hook, "priority"):
            raise ValueError(
                f"this {name} has a 'priority' already: the attribute is set by registration, so "
                "either the hook belongs to another runner or its class uses the reserved name"
            )
        check_spelling(hook)
        check_resources(hook)
        if implements(hook, ChecksRunner):
            hook.check_runner(self)
        position = None
        if writes_of(hook):
            registered = [(other, _priority_of(other)) for other in self._hook_list]
            position = resolve_position(hook, level, registered)
        if position is None:
            self._hook_list.insert_silently(self._dispatcher.insert(hook, level), hook)
        else:
            registered.insert(position, (hook, level))
            self._dispatcher.replace(registered)
            self._hook_list.insert_silently(position, hook)
        hook.priority = level
        self._registered.append(hook)
        tie_to_runner(hook, self.refresh_hooks)
        self._restore_hook(hook)

    def _restore_hook(self, hook: Hook) -> None:
        """Load the hook's state from a checkpoint that was resumed before it was registered."""

    def register_hook_from_cfg(self, hook_cfg: Mapping[str, Any]) -> None:
        """Register a hook from its config: ``type``, arguments, and optionally ``priority``."""
        self.register_hook(hook_cfg)

    def register_lr_hook(self, lr_config: HookConfig) -> None:
        """Register a learning-rate schedule at VERY_HIGH (10).

        Args:
            lr_config: a hook, or ``policy`` (such as ``'step'`` or ``'CosineAnnealing'``) and the
                arguments of ``POLICYLrUpdaterHook``. None registers nothing.
        """
        self._register_usual(lr_config, "lr_config", "VERY_HIGH", policy_suffix="LrUpdaterHook")

    def register_momentum_hook(self, momentum_config: HookConfig) -> None:
        """Register a momentum schedule at HIGH (30); the config is as for the learning rate."""
        self._register_usual(
            momentum_config, "momentum_config", "HIGH", policy_suffix="MomentumUpdaterHook"
        )

    def register_optimizer_hook(self, optimizer_config: HookConfig) -> None:
        """Register the optimizer hook at ABOVE_NORMAL (40); ``OptimizerHook`` by default."""
        self._register_usual(optimizer_config, "optimizer_config", "ABOVE_NORMAL", "OptimizerHook")

    def register_checkpoint_hook(self, checkpoint_config: HookConfig) -> None:
        """Register the checkpoint hook at NORMAL (50); ``CheckpointHook`` by default."""
        self._register_usual(checkpoint_config, "checkpoint_config", "NORMAL", "CheckpointHook")

    def register_timer_hook(self, timer_config: HookConfig) -> None:
        """Register the timer at LOW (70); ``IterTimerHook`` by default."""
        self._register_usual(timer_config, "timer_config", "LOW", "IterTimerHook")

    def register_profiler_hook(self, profiler_config: HookConfig) -> None:
        """Register the profiler at NORMAL (50); ``ProfilerHook`` by default."""
        self._register_usual(profiler_config, "profiler_config", "NORMAL", "ProfilerHook")

    def register_logger_hooks(self, log_config: Mapping[str, Any] | None) -> None:
        """Register loggers at VERY_LOW (90).

        Args:
            log_config: ``hooks``, a list of logger configs or hooks; ``interval`` (10 by default)
                for configs without one; and ``average_over_ranks`` (False by default), whether
                losses and what else steps report are averaged over all ranks, not those of rank 0.
                None registers nothing.
        """
        if log_config is None:
            return
        with self._all_or_none():
            for config in averaging_configs(log_config):
                self._register(config, "log_config['average_over_ranks']", "VERY_LOW")
            for config, name in logger_configs(log_config):
                self._register(config, name, "VERY_LOW")

    def register_custom_hooks(
        self, custom_config: HookConfig | Sequence[Mapping[str, Any] | Hook]
    ) -> None:
        """Register one hook or config, or a list of them, at NORMAL (50) or their own priority."""
        if custom_config is None:
            return
        with self._all_or_none():
            for config, name in custom_configs(custom_config):
                self._register(config, name)

    def register_training_hooks(
        self,
        lr_config: HookConfig,
        optimizer_config: HookConfig = None,
        checkpoint_config: HookConfig = None,
        log_config: Mapping[str, Any] | None = None,
        momentum_config: HookConfig = None,
        timer_config: HookConfig = {"type": "IterTimerHook"},  # noqa: B006 (never modified)
        custom_hooks_config: HookConfig | Sequence[Mapping[str, Any] | Hook] = None,
    ) -> None:
        """Register the hooks that a training run usually has.

        ====================  ============
        hook                  priority
        ====================  ============
        learning rate         VERY_HIGH 10
        momentum              HIGH 30
        optimizer             ABOVE_NORMAL 40
        checkpoint            NORMAL 50
        timer                 LOW 70
        loggers               VERY_LOW 90
        custom hooks          NORMAL 50, or their own
        ====================  ============

        Each argument is a config dict, a hook, or None to register none; dicts are not modified.
        Custom hooks with the priority of a default hook fire after it. If one hook is refused, none
        is registered.
        """
        with self._all_or_none():
            self.register_lr_hook(lr_config)
            self.register_momentum_hook(momentum_config)
            self.register_optimizer_hook(optimizer_config)
            self.register_checkpoint_hook(checkpoint_config)
            self.register_timer_hook(timer_config)
            self.register_logger_hooks(log_config)
            with custom_hooks_called("custom_hooks_config"):
                self.register_custom_hooks(custom_hooks_config)

    def get_hook_info(self) -> str:
        """A text that lists the hooks called at each point of a run, in the order of calls."""
        parts = []
        for stage in Hook.stages:
            lines = [
                f"({priority_name(_priority_of(hook)):<12}) {type(hook).__name__:<35}"
                for hook in self._hook_list
                if stage in hook.get_triggered_stages()
            ]
            if lines:
                parts.append("\n".join([f"{stage}:", *lines, " -------------------- "]))
        return "\n".join(parts)

    def measure_hooks(self, on: bool = True, *, max_spans: int = 0) -> None:
        """Begin or end to measure how much time hooks take; see `hook_stats`.

        Without it nothing is measured, and calling hooks costs nothing more. Beginning again
        forgets what was measured.

        Args:
            on: whether to measure, from the next event on.
            max_spans: how many of the latest calls to keep one by one for `hook_spans`.

        Raises:
            ValueError: ``max_spans`` is negative or huge.
        """
        if not on:
            self._dispatcher.stop_timing()
            return
        if not 0 <= max_spans <= _MAX_SPANS:
            raise ValueError(f"max_spans must lie between 0 and {_MAX_SPANS}, not at {max_spans}")
        self._dispatcher.start_timing(max_spans)

    @property
    def is_measuring_hooks(self) -> bool:
        """Whether the time that hooks take is measured."""
        return self._dispatcher.timings() is not None

    def hook_stats(self) -> list[HookTime]:
        """The calls and times of each hook at each event, since ``measure_hooks()``.

        Raises:
            RuntimeError: nothing is measured.
        """
        timings = self._dispatcher.timings()
        if timings is None:
            raise RuntimeError(
                "the time of hooks is not measured: call runner.measure_hooks() before the run, or "
                "register the hook HookStats()"
            )
        return [HookTime(*each) for each in timings]

    def hook_spans(self) -> list[tuple[Hook, str, int, int]]:
        """(hook, event, start, duration) of the latest calls, in nanoseconds of the monotonic
        clock; see `measure_hooks`.
        """
        return self._dispatcher.spans()

    def _register_usual(self, config: HookConfig, *arguments: Any, **keywords: Any) -> None:
        if config is not None:
            self._register(config, *arguments, **keywords)

    def _register(
        self,
        config: Any,
        name: str,
        default_priority: str = "NORMAL",
        default_type: str | None = None,
        policy_suffix: str | None = None,
    ) -> None:
        with noting(place_of(config, name)):
            hook, priority = build_hook(config, name, default_type, policy_suffix)
            self.register_hook(hook, priority=default_priority if priority is None else priority)

    @contextlib.contextmanager
    def _all_or_none(self) -> Iterator[None]:
        """A context whose registrations are undone if one of them fails."""
        hooks, registered = list(self._hook_list), list(self._registered)
        waiting_states = dict(self.waiting_hook_states)
        try:
            yield
        except BaseException:
            added, self._registered = self._registered[len(registered) :], registered
            self._hook_list[:] = hooks
            for hook in added:
                del hook.priority
                untie_from_runner(hook)
            self.waiting_hook_states = waiting_states
            raise


def _priority_of(hook: Hook) -> int:
    """The hook's priority; NORMAL for a hook that was put into the list directly."""
    return get_priority(getattr(hook, "priority", "NORMAL"))
