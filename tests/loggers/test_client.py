"""Clients that are not installed, or cannot be imported."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hookrun import HOOKS
from hookrun.loggers.client import import_client

_CLIENTS = ["tensorboard", "neptune", "dvclive", "wandb", "mlflow", "swanlab", "trackio"]


@pytest.mark.parametrize("client", _CLIENTS)
def test_a_missing_client_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, make_runner: Callable[..., Any], client: str
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == client:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Without(client), *sys.meta_path])
    kind = f"{client.title()}LoggerHook"
    runner = make_runner()
    message = rf'{kind} needs {client}, which is not installed: pip install "hookrun\[{client}\]"'
    with pytest.raises(ImportError, match=message):
        runner.register_logger_hooks({"hooks": [{"type": kind}]})
    assert kind in HOOKS
    assert list(runner.hooks) == []


class _Without:
    """Finds one package nowhere."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_client_that_cannot_be_imported_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken_client.py").write_text("import random, missing_part\n")
    (tmp_path / "drawing_client.py").write_text("import random\nrandom.random()\n")
    monkeypatch.syspath_prepend(tmp_path)
    message = r"Hook needs broken_client, which cannot be imported \(No module named 'missing_part'"
    with pytest.raises(ImportError, match=message):
        import_client("broken_client", "extra", "Hook")
    before = random.getstate()
    import_client("drawing_client", "extra", "Hook")
    assert random.getstate() == before
