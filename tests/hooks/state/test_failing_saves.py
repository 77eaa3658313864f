"""What is noted of files is noted of those that are there, whichever write fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hookrun import CheckpointHook, EvalHook, Hook
from hookrun.checkpoint import read_checkpoint, writer
from tests.support import Points, make_loader

SCORES = [0.1, 0.4, 0.3, 0.8, 0.9, 0.2]


class Truthful(Hook):
    """Whenever nothing is being written, the files that the messages name are there."""

    def __init__(self) -> None:
        self.looked = 0

    def before_train_epoch(self, runner: Any) -> None:
        runner.checkpoint_writer.wait()
        self.look(runner)

    def look(self, runner: Any) -> None:
        messages = runner.meta["hook_msgs"]
        for name in ("best_ckpt", "last_ckpt"):
            if name in messages:
                assert Path(messages[name]).is_file(), (name, messages)
        if "best_ckpt" in messages:
            own = read_checkpoint(messages["best_ckpt"])["meta"]["hook_msgs"]
            assert own["best_score"] == messages["best_score"]
        self.looked += 1


@pytest.mark.sampled(2)
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("fails", range(1, 11))
def test_any_write_may_fail_once(
    make_runner: Any, monkeypatch: pytest.MonkeyPatch, fails: int, background: bool
) -> None:
    write, writes = writer.write_checkpoint, 0

    def failing(*arguments: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == fails:
            raise OSError(28, "no space left")
        write(*arguments)

    monkeypatch.setattr(writer, "write_checkpoint", failing)
    runner = make_runner(max_epochs=6, meta={"hook_msgs": {}})
    truthful = Truthful()
    runner.register_hook(truthful, priority=10)
    runner.register_hook(
        CheckpointHook(interval=1, max_keep_ckpts=2, background=background), priority=60
    )
    loader = make_loader(2)
    dataset = Points(2, scores=[{"acc": score} for score in SCORES * 2])
    evaluation = type(loader)(dataset, 2)
    runner.register_hook(
        EvalHook(evaluation, save_best="acc", interval=1, background=background), priority=70
    )
    with pytest.raises(OSError, match="no space left"):
        runner.run([loader], [("train", 1)])
    truthful.look(runner)
    runner.run([loader], [("train", 1)])  # the same runner goes on
    assert runner.epoch == 6
    truthful.look(runner)
    messages = runner.meta["hook_msgs"]
    assert {"best_ckpt", "last_ckpt"} <= messages.keys()
    left = sorted(path.name for path in Path(runner.work_dir).glob("best_*"))
    assert left == [Path(messages["best_ckpt"]).name]
    assert truthful.looked >= 7
