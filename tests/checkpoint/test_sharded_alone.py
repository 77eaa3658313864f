"""Sharded checkpoints of a single process: with a process group of one rank, or without any."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import Preempted
from tests.checkpoint.sharded_support import ITERS, train
from tests.distributed.workers import results_of


def stopped_and_resumed(folder: Path, kind: str, sharded: bool = True) -> dict[str, Any]:
    """A run that a signal ends, and the one that goes on from there."""
    never: dict[str, Any] = {
        "interval": 100,
        "save_last": False,
        "out_dir": str(folder / "saved"),
    }
    with pytest.raises(Preempted) as info:
        train(folder / "run", kind, signal_at=1, sharded=sharded, **never)
    saved = Path(str(info.value.checkpoint))
    found = {"saved": str(saved.relative_to(folder)), "files": sorted(os.listdir(saved.parent))}
    return {**found, "end": train(folder / "run", kind, "auto", sharded=sharded, **never)}


def on_one_rank(folder: Path) -> list[dict[str, Any]]:
    """Its parameters are sharded over itself."""
    return [stopped_and_resumed(folder / f"{each}", "fsdp", each) for each in (True, False)]


def saved_within_a_window(folder: Path) -> list[dict[str, Any]]:
    """Runs that go on from there, on one rank."""
    ends = []
    for sharded, name in ((True, "iter_4.sharded"), (False, "iter_4.pth")):
        arguments: dict[str, Any] = {"sharded": sharded, "interval": 4}
        train(folder / name, "fsdp", **arguments)
        ends.append(train(folder / "on", "fsdp", folder / name / name, **arguments))
    return ends


def test_a_signal_saves_what_a_run_goes_on_from(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", "plain")
    ((parts, full),) = results_of(on_one_rank, tmp_path, world_size=1)
    plain = stopped_and_resumed(tmp_path / "plain", "plain")
    for each in (parts, plain):
        assert each["saved"] == "saved/run/preempted.sharded"
        assert each["files"] == ["latest.sharded", "preempted.sharded"]
    assert full["saved"] == "run/preempted.pth"
    for each in (parts, full, plain):
        torch.testing.assert_close(each["end"], whole)


def test_the_gradients_of_a_window_are_saved(tmp_path: Path) -> None:
    """Which FSDP2 keeps from the parameters."""
    whole = train(tmp_path / "whole", "plain")
    for end in results_of(saved_within_a_window, tmp_path, world_size=1)[0]:
        torch.testing.assert_close(end, whole)


def test_where_there_are_no_links_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is not copied; but an older link that would go on to an older one is an error."""

    def no_links(source: Any, target: Any) -> None:
        raise PermissionError("links are not supported")

    with monkeypatch.context() as without:
        without.setattr(os, "symlink", no_links)
        train(tmp_path / "run", "plain", interval=2)
    assert sorted(os.listdir(tmp_path / "run")) == [f"iter_{n}.sharded" for n in (2, 4, ITERS)]
    train(tmp_path / "run", "plain", interval=2)
    assert os.readlink(tmp_path / "run" / "latest.sharded") == f"iter_{ITERS}.sharded"
    monkeypatch.setattr(os, "symlink", no_links)
    with pytest.raises(IsADirectoryError):
        train(tmp_path / "run", "plain", interval=2)
