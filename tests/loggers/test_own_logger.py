"""Loggers that others have written: what they raise does not end a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hookrun import LoggerHook
from tests.support import make_loader

MakeRunner = Callable[..., Any]


@pytest.mark.parametrize("method", ["before_run", "log", "after_run"])
def test_a_logger_of_ones_own_that_raises(
    make_runner: MakeRunner, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on; with on_error='raise' it does not."""

    class Own(LoggerHook):
        def log(self, runner: Any) -> None:
            self.fail("log")

        def before_run(self, runner: Any) -> None:
            super().before_run(runner)
            self.fail("before_run")

        def after_run(self, runner: Any) -> None:
            super().after_run(runner)
            self.fail("after_run")

        def fail(self, name: str) -> None:
            if name == method:
                raise OSError("the service is down")

    runner = make_runner(max_epochs=1)
    runner.register_hook(Own(interval=1), "VERY_LOW")
    runner.run([make_loader(2)], [("train", 1)])
    assert runner.iter == 2
    told = [each for each in caplog.messages if "Own failed and is disabled" in each]
    assert len(told) == 1
    assert "the service is down" in told[0]
    runner = make_runner(max_epochs=1)
    runner.register_hook(Own(interval=1, on_error="raise"), "VERY_LOW")
    with pytest.raises(OSError, match="the service is down"):
        runner.run([make_loader(2)], [("train", 1)])
