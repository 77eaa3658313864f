"""The six figures that stand for all: what the README shows of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNITS = {"us": "µs"}


@dataclass(frozen=True)
class Headline:
    """One figure among the results.

    Args:
        key: the figure's in the results file.
        title: what is measured, in few words.
        chinese: the title in Chinese.
    """

    key: str
    title: str
    chinese: str


HEADLINES = (
    Headline(
        "dispatch/not_due", "An event, ten hooks that are not due", "一次事件，十个未到时机的钩子"
    ),
    Headline(
        "loop/iteration", "What the usual hooks add to an iteration", "常用钩子给每次迭代增加的时间"
    ),
    Headline(
        "ops/phase c/ResNet-50",
        "Clip, AdamW and averages, ResNet-50",
        "裁剪、AdamW 和滑动平均，ResNet-50",
    ),
    Headline(
        "small steps/161 x 64",
        "The same for 161 small tensors, one thread",
        "同样的更新，161 个小张量，单线程",
    ),
    Headline(
        "checkpoint/1024 MB",
        "What a step waits for a checkpoint of 1 GiB",
        "每次保存 1 GiB 的检查点时，训练等待的时间",
    ),
    Headline("end to end/MLP", "A whole iteration of a small MLP", "小型 MLP 的一次完整迭代"),
)


def unit_of(figure: Mapping[str, Any]) -> str:
    """Such as ``ns``."""
    return with_sign(str(figure["unit"]).partition(" ")[0])


def with_sign(unit: str) -> str:
    """``µs`` where results files have ``us``."""
    return UNITS.get(unit, unit)


def best_of_torch(figure: Mapping[str, Any]) -> str | None:
    """The quickest of the systems that are torch alone; None if there is none."""
    systems = figure["systems"]
    of_torch = [name for name in systems if name.startswith("torch")]
    return min(of_torch, key=lambda name: systems[name]["median"], default=None)


def times_hookrun(figure: Mapping[str, Any], system: str) -> float | None:
    """How many times hookrun's time a system takes; None if it is lost in noise."""
    ratio = figure["systems"][system][f"times_{figure['subject']}"]
    return None if ratio is None else float(ratio)
