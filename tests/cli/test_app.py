"""What all commands have in common: help with an example, the version, and wrong arguments."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version

import pytest

from hookrun.cli import app, main
from tests import programs

COMMANDS = [each.name for each in app.app.registered_commands]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_in_80_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example: hookrun {name}" in re.sub(r"\x1b\[\d*m", "", shown)
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "…" not in shown


CALLS = [[], ["--help"], ["--version"], ["trian"], ["train"], ["bench", "--rounds", "many"]]
LOOK = """
import json, sys
from hookrun.cli import main
for arguments in json.loads(sys.argv[1]):
    main(arguments)
    for name in {"torch", "triton", "matplotlib", "fsspec"} & set(sys.modules):
        sys.exit(f"{arguments} has imported {name}")
"""


def test_help_and_wrong_arguments_do_not_wait_for_torch() -> None:
    calls = [*CALLS, *([name, "--help"] for name in COMMANDS)]
    done = subprocess.run(
        [sys.executable, "-c", LOOK, json.dumps(calls)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hookrun {version('hookrun')}\n"


def test_all_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    printed = capsys.readouterr()
    for name in COMMANDS:
        assert f" {name} " in printed.out + printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "hookrun: No such command 'trian'"),
        (["train"], "hookrun train: Missing argument 'CONFIG'"),
        (["train", "a.py", "--resum", "auto"], "hookrun train: No such option: --resum"),
        (["verify", "--steps", "many", "--resume", "a.py"], "hookrun verify: Invalid value"),
    ],
)
def test_wrong_arguments_are_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert said.count("\n") == 1
    assert "--help)" in said


def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "hookrun.cli.app")
    monkeypatch.setitem(sys.modules, "typer", None)
    assert main(["--version"]) == 1
    said = capsys.readouterr().err
    assert said == "hookrun: the command line needs typer: pip install 'hookrun[cli]'\n"


def test_importing_hookrun_imports_neither() -> None:
    code = "import sys, hookrun; print({'typer', 'rich'} & set(sys.modules))"
    done = programs.run("-c", code)
    assert done.stdout == "set()\n", done.stderr
