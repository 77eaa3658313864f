"""Files that are not trusted are refused, and nothing in them runs."""

from __future__ import annotations

import logging
import pickle
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import EpochBasedRunner, load_checkpoint
from hookrun.checkpoint import newest_valid, read_checkpoint
from tests.support import TinyModel

from .hostile import CALLS, MAKERS, write_archive


def folder_content(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_hostile_files_are_refused_without_a_side_effect(
    tmp_path: Path, name: str, logger: logging.Logger
) -> None:
    path, touched = tmp_path / "in" / "epoch_1.pth", tmp_path / "touched"
    path.parent.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of two records of one name
        MAKERS[name](path, touched)
    before = folder_content(tmp_path)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"epoch_1\.pth"):
        read_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    runner = EpochBasedRunner(TinyModel(), work_dir=path.parent, logger=logger, max_epochs=1)
    weights = runner.model.fc.weight.clone()
    with pytest.raises(ValueError, match=r"epoch_1\.pth"):
        runner.resume(path)
    assert newest_valid(path.parent, logger) is None
    assert torch.equal(runner.model.fc.weight, weights)
    assert not touched.exists()
    assert folder_content(tmp_path) == before


def test_there_are_at_least_fifty_of_them() -> None:
    print(f"{len(MAKERS)} hostile files")
    assert len(MAKERS) >= 50


def test_the_calls_would_have_touched_the_file(tmp_path: Path) -> None:
    """Half of them at least are not harmless for another reason."""
    worked = []
    for name in ("os.system", "os.mkdir", "open", "eval", "exec", "pathlib", "torch.save"):
        touched = tmp_path / name
        pickle.loads(pickle.dumps(CALLS[name](str(touched))))
        worked.append(touched.exists())
    assert all(worked)


def test_the_archive_they_start_from_is_read(tmp_path: Path) -> None:
    from .hostile import records

    write_archive(tmp_path / "a.pth", records())
    assert read_checkpoint(tmp_path / "a.pth")["meta"]["epoch"] == 1


class Old:
    """What an old file may hold beside its tensors."""

    def __init__(self, value: int) -> None:
        self.value = value


def test_an_old_pickled_file_needs_trust_and_warns(tmp_path: Path) -> None:
    model = TinyModel(1)
    tree: dict[str, Any] = {"state_dict": model.state_dict(), "meta": {"config": Old(3)}}
    torch.save(tree, tmp_path / "old.pth")
    with pytest.raises(ValueError, match=r"read safely.*Old.*load_checkpoint\(\).*trust=True"):
        load_checkpoint(TinyModel(), tmp_path / "old.pth")
    other = TinyModel(2)
    with pytest.warns(UserWarning, match="runs code"):
        read = load_checkpoint(other, tmp_path / "old.pth", trust=True)
    assert read["meta"]["config"].value == 3
    assert torch.equal(other.fc.weight, model.fc.weight)


def test_trust_changes_nothing_for_files_that_are_safe_or_damaged(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "a.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_checkpoint(tmp_path / "a.pth", trust=True) == {"a": 1}
    whole = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[:-5])
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint(tmp_path / "a.pth", trust=True)
