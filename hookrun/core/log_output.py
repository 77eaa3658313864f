"""The output of a log buffer: what its values are, and reserved names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .log_buffer import LogBuffer

TIMES = ("time", "data_time")
"""The names of a timer's values, in seconds."""
EVALUATED = "eval_iter_num"
"""The name under which an evaluation reports the length of its loader."""


def has_averages(runner: Any) -> bool:
    """Whether the output has averages over steps, not only what hooks such as an evaluation put
    there.

    A buffer of another class does not know; with a timer's values it is assumed to have averages.
    """
    buffer = runner.log_buffer
    if isinstance(buffer, LogBuffer):
        return buffer.averaged
    return runner.mode == "val" or any(name in buffer.output for name in TIMES)


def split_output(
    output: dict[str, Any], averaged: bool, fields: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Split an output into reserved values, values to log, and the renamed ones among the latter.

    Args:
        output: of a log buffer.
        averaged: see `has_averages`. Without averages, ``time`` is a metric of an evaluation
            and not the timer's.
        fields: more reserved names.

    Returns:
        The timer's values and the length of the evaluation's loader; the values to log, by names
        that are not reserved; and the names that were changed for this, old to new.
    """
    own_names = (*TIMES, EVALUATED) if averaged else (EVALUATED,)
    own = {name: output[name] for name in own_names if name in output}
    given = {name: value for name, value in output.items() if name not in own}
    taken = {*TIMES, EVALUATED, *fields}
    renamed = {name: with_underscore(name, taken | given.keys()) for name in given.keys() & taken}
    return own, {renamed.get(name, name): value for name, value in given.items()}, renamed


def with_underscore(name: str, taken: Collection[str]) -> str:
    """The name, with underscores appended until it is not taken."""
    while name in taken:
        name += "_"
    return name
