"""Who runs where, and when: for logs and names of files."""

from __future__ import annotations

import time


def get_host_info() -> str:
    """``user@host``, or ``unknown``: in some containers the user has no name."""
    from getpass import getuser
    from socket import gethostname

    try:
        return f"{getuser()}@{gethostname()}"
    except (OSError, KeyError, ImportError):
        return "unknown"


def get_time_str() -> str:
    """The local time as ``YYYYMMDD_HHMMSS``, as in the names of log files."""
    return time.strftime("%Y%m%d_%H%M%S", time.localtime())
