"""``hookrun hooks``: the table of a config's hooks."""

from __future__ import annotations

from pathlib import Path

import pytest

from hookrun.cli import main
from hookrun.cli.hooks import describe
from hookrun.core.triggers import ONLY_ONCE, Trigger

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits_config.py"


def test_the_hooks_of_the_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["hooks", str(DIGITS), "--set", "checkpoint_config.interval=3"]) == 0
    table = capsys.readouterr().out
    assert all(len(line) <= 80 for line in table.splitlines())
    assert not list(tmp_path.iterdir())  # no folder is made for a run
    parts = {part.split("\n")[0]: part.split("\n")[1:] for part in table.strip().split("\n\n")}
    at_epoch = [line.split() for line in parts["after_train_epoch"]]
    assert [words[-1] if len(words) < 2 else words for words in at_epoch][:3] == [
        ["45", "EMAHook", "each", "time"],
        ["NORMAL", "50", "CheckpointHook", "every", "3", "epochs,", "at", "the", "last"],
        "epoch",
    ]
    order = [line for line in parts["after_train_iter"] if "Hook" in line]
    names = [next(word for word in line.split() if "Hook" in word) for line in order]
    assert names == ["OptimizerHook", "EMAHook", "IterTimerHook", "TextLoggerHook"]


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        (None, "each time"),
        (Trigger(epochs=1), "every epoch"),
        (Trigger(inner_iters=10, log_ready=True), "every 10 inner iters, when there are scores"),
        (Trigger(iters=5, start=3), "every 5 iters from 3 on"),
        (Trigger(inner_iters=ONLY_ONCE, start=1), "at inner iter 1 only"),
        (Trigger(end_of_epoch=True, once=True, last_epoch=True), "at the last epoch, at the end"),
        (Trigger(end_of_short_epoch=4), "at the end of an epoch of fewer than 4 iters"),
    ],
)
def test_triggers_in_words(trigger: Trigger | None, words: str) -> None:
    assert describe(trigger).startswith(words)


def test_a_wrong_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks", "nowhere.py"]) == 1
    assert capsys.readouterr().err == (
        "hookrun hooks: [Errno 2] No such file or directory: 'nowhere.py'\n"
    )
