"""What stands in a log buffer's output: whose it is, and names that mean two things."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .log_buffer import LogBuffer

TIMES = ("time", "data_time")
"""What a timer measures, in seconds."""
EVALUATED = "eval_iter_num"
"""By this name, an evaluation leaves the length of its loader."""


def has_averages(runner: Any) -> bool:
    """Whether the output has averages of steps, or else what hooks such as an evaluation put there.

    A buffer that is not ours does not say; one with a timer's figures is taken to have averages.
    """
    buffer = runner.log_buffer
    if isinstance(buffer, LogBuffer):
        return buffer.averaged
    return runner.mode == "val" or any(name in buffer.output for name in TIMES)


def take_apart(
    output: dict[str, Any], averaged: bool, fields: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """What the output says of itself, the values to log, and which of these are renamed.

    Args:
        output: of a log buffer.
        averaged: see :func:`has_averages`. What evaluations call ``time`` is no timer's.
        fields: names that are not free for values.
    """
    own_names = (*TIMES, EVALUATED) if averaged else (EVALUATED,)
    own = {name: output[name] for name in own_names if name in output}
    given = {name: value for name, value in output.items() if name not in own}
    taken = {*TIMES, EVALUATED, *fields}
    renamed = {name: with_underscore(name, taken | given.keys()) for name in given.keys() & taken}
    return own, {renamed.get(name, name): value for name, value in given.items()}, renamed


def with_underscore(name: str, taken: Collection[str]) -> str:
    """The name with as many underscores behind it as make it free."""
    while name in taken:
        name += "_"
    return name
