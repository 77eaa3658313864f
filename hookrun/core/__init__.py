"""Events, hooks and the dispatcher: what every other room builds on. Imports no torch."""

from hookrun._native import BatchCursor

from .dispatcher import HookList, ReferenceDispatcher, make_dispatcher, resolve
from .events import EVENTS, GENERIC, STAGES
from .hook import HOOKS, Hook, TriggerSetting, listening_method, starts_with_defaults, writes_of
from .overrides import declaring_class, overrides
from .priority import Priority, get_priority
from .protocols import ChecksBeforeSaving, ChecksRunner
from .registry import Registry, obj_from_dict
from .triggers import Trigger, every, last, once

__all__ = [
    "EVENTS",
    "GENERIC",
    "HOOKS",
    "STAGES",
    "BatchCursor",
    "ChecksBeforeSaving",
    "ChecksRunner",
    "Hook",
    "HookList",
    "Priority",
    "ReferenceDispatcher",
    "Registry",
    "Trigger",
    "TriggerSetting",
    "declaring_class",
    "every",
    "get_priority",
    "last",
    "listening_method",
    "make_dispatcher",
    "obj_from_dict",
    "once",
    "overrides",
    "resolve",
    "starts_with_defaults",
    "writes_of",
]
