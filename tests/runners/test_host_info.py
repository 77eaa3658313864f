"""Who runs where, and when."""

from __future__ import annotations

import getpass
import re

import pytest

from hookrun import get_host_info, get_time_str


def test_host_info() -> None:
    assert re.fullmatch(r"[^@]+@[^@]+", get_host_info())


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert get_host_info() == "unknown"


def test_time() -> None:
    assert re.fullmatch(r"\d{8}_\d{6}", get_time_str())
