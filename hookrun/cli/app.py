"""All commands together, and how a call of one ends."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Sequence
from importlib.metadata import version as version_of
from typing import Annotated

import typer
from typer.exceptions import TyperException

from . import bench, doctor, hooks, plot_log, plot_lr, train, verify
from .failures import Call, Debug, error_line


def unwrapped(docstring: str | None) -> str:
    """A docstring with each paragraph in one line, for a terminal to break where it is full."""
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


app = typer.Typer(
    name="hookrun",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for _name, _run, _example in (
    ("train", train.run, "hookrun train config.py --set optimizer.lr=0.05"),
    ("hooks", hooks.run, "hookrun hooks config.py"),
    ("plot-lr", plot_lr.run, "hookrun plot-lr config.py other.json -o lr.png"),
    ("plot-log", plot_log.run, "hookrun plot-log work_dirs/first work_dirs/second -o log.png"),
    ("bench", bench.run, "hookrun bench -o bench.png"),
    ("doctor", doctor.run, "hookrun doctor"),
    ("verify", verify.run, "hookrun verify work_dirs/config"),
):
    app.command(
        _name,
        help=unwrapped(_run.__doc__),
        epilog=f"Example: [bold]{_example}[/bold]",
        # What follows `verify --resume SCRIPT` belongs to the script.
        context_settings={"allow_interspersed_args": False} if _name == "verify" else None,
    )(_run)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hookrun {version_of('hookrun')}")
        raise typer.Exit


@app.callback(epilog="Example: [bold]hookrun train --help[/bold]")
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """A training runner with hooks."""
    context.obj.command = context.invoked_subcommand or ""


def run(arguments: Sequence[str] | None) -> int:
    """Run a command; returns the exit status: 0, 1 if it failed, 2 if it was called wrongly."""
    call = Call()
    command = typer.main.get_command(app)
    given = None if arguments is None else list(arguments)
    try:
        status = command.main(given, "hookrun", standalone_mode=False, obj=call)
        return int(status or 0)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except TyperException as error:  # of the arguments
        text = getattr(error, "format_message", error.__str__)()
        if text:
            call.say(f"{text} (see {' '.join(['hookrun', call.command]).strip()} --help)")
        return getattr(error, "exit_code", 2)
    except Exception as error:  # a config is code, and may raise anything
        if call.debug:
            traceback.print_exc()
        else:
            call.say(error_line(error))
        return 1
