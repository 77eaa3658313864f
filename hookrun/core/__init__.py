"""Events, hooks, the dispatcher and the log buffer: what every other room builds on."""

from hookrun._native import BatchCursor

from .dispatcher import HookList, ReferenceDispatcher, make_dispatcher, resolve
from .events import EVENTS, GENERIC, STAGES
from .hook import HOOKS, Hook, TriggerSetting, listening_method, starts_with_defaults, writes_of
from .log_buffer import LogBuffer
from .overrides import declaring_class, overrides
from .priority import Priority, get_priority
from .protocols import ChecksBeforeSaving, ChecksRunner
from .registry import Registry, obj_from_dict
from .sync_guard import HostSync, HostSyncError, SyncGuard, SyncReport
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
    "HostSync",
    "HostSyncError",
    "LogBuffer",
    "Priority",
    "ReferenceDispatcher",
    "Registry",
    "SyncGuard",
    "SyncReport",
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
