"""Sharded checkpoints: what several ranks write, who loads it, and what is refused."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from hookrun import (
    CheckpointHook,
    FileClient,
    IterBasedRunner,
    Preempted,
    TrainStep,
    load_checkpoint,
)
from hookrun.checkpoint import RUN_FILE, newest_valid, read_checkpoint, write_checkpoint
from hookrun.checkpoint.parts import KEY
from hookrun.cli import main
from tests.checkpoint.hostile import Call
from tests.checkpoint.sharded_support import ITERS, batches, full, make_net, train
from tests.distributed.workers import run_workers


def on_two_ranks(folder: Path) -> dict[str, Any]:
    """What the tests look at, in one pair of processes: they take long to start."""
    run = folder / "run"
    found: dict[str, Any] = {"whole": train(run, "fsdp", interval=1)}
    found["files"] = sorted(os.listdir(run / "iter_5.sharded"))
    found["resumed"] = resumed(folder)
    if dist.get_rank() == 0:
        shutil.copytree(run, folder / "auto", symlinks=True)
    dist.barrier()
    found["preempted"] = preempted(folder / "preempted")
    found["auto"] = train(folder / "auto", "fsdp", "auto", interval=1)
    for sharded, end in ((True, "sharded"), (False, "pth")):
        half = {"dtype": torch.float16, "sharded": sharded, "interval": 4}
        first = train(folder / f"half {end}", "fsdp", **half)
        file = folder / f"half {end}" / f"iter_4.{end}"
        found[f"half {end}"] = first, train(folder / f"half {end} 2", "fsdp", file, **half)
    kept = {"background": False, "interval": 2, "max_keep_ckpts": 2}
    found["ddp"] = train(folder / "ddp", "ddp", **kept)
    found["kept"] = sorted(os.listdir(folder / "ddp"))
    net = make_net("fsdp")
    load_checkpoint(net, run / "iter_5.sharded", strict=True)
    found["loaded"] = full(net.state_dict())
    found["errors"] = [error_of_a_full_disk(folder, background) for background in (False, True)]
    dist.barrier()
    found["alike"] = error_of_other_hooks(folder)
    found["left"] = [name for _, _, names in os.walk(folder / "disk") for name in names]
    return found


def resumed(folder: Path) -> list[dict[str, Any]]:
    """Runs that go on from inside of a window, from between two, and from the end."""
    ranks, run = dist.get_world_size(), folder / "run"
    return [
        train(folder / f"{ranks} from {at}", "fsdp", run / f"iter_{at}.sharded", interval=1)
        for at in ((2, 3) if ranks == 2 else (ITERS,))
    ]


def preempted(folder: Path) -> dict[str, Any]:
    """A run that a signal ends, and the one that goes on from there."""
    never = {"interval": 100, "save_last": False, "out_dir": str(folder / "saved")}
    with pytest.raises(Preempted) as info:
        train(folder / "run", "fsdp", signal_at=1, **never)
    files = sorted(os.listdir(folder / "saved")), sorted(os.listdir(folder / "saved/run"))
    end = train(folder / "run", "fsdp", "auto", **never)
    return {"checkpoint": info.value.checkpoint, "files": files, "end": end}


def error_of_a_full_disk(folder: Path, background: bool) -> str:
    """The error on each rank where files of rank 1 alone cannot be as large as its parts."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if dist.get_rank() == 1:
        store = folder / "2 ranks" / "store"  # a file of the process group, which grows
        resource.setrlimit(resource.RLIMIT_FSIZE, (store.stat().st_size + 40_000, limit[1]))
    try:
        train(folder / "disk", "fsdp", width=30_000, background=background)
    except OSError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    return "none"


def error_of_other_hooks(folder: Path) -> str:
    """The error on each rank where ranks would save at other iterations."""
    runner = IterBasedRunner(TrainStep(make_net(), F.mse_loss), work_dir=folder, max_iters=2)
    runner.logger.setLevel("CRITICAL")
    runner.register_hook(CheckpointHook(1 + dist.get_rank(), by_epoch=False, sharded=True))
    try:
        runner.run([batches()], [("train", 1)])
    except ValueError as error:
        return str(error)
    return "none"


PROGRAM = """
from pathlib import Path
from tests.checkpoint.test_parts import {work}
torch.save({work}(Path({folder!r})), folder / f"{{rank}}.pt")
"""


def run_on(ranks: int, work: str, folder: Path) -> list[Any]:
    files = folder / f"{ranks} ranks"
    files.mkdir()
    run_workers(PROGRAM.format(work=work, folder=str(folder)), files, ranks)
    return [torch.load(files / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def ends(folder: Path) -> list[dict[str, Any]]:
    return run_on(2, "on_two_ranks", folder)


@pytest.fixture
def checkpoint(folder: Path, ends: Any, tmp_path: Path) -> Path:
    """A copy of the last one."""
    return shutil.copytree(folder / "run" / "iter_5.sharded", tmp_path / "iter_5.sharded")


def test_each_rank_writes_its_parts(folder: Path, ends: list[dict[str, Any]]) -> None:
    """And what they write together is what the ranks have."""
    assert ends[0]["files"] == [".metadata", "__0_0.distcp", "__1_0.distcp", RUN_FILE]
    content = read_checkpoint(folder / "run" / "latest.sharded")
    for end in ends:
        for name, value in end["whole"]["weights"].items():
            assert torch.equal(content["state_dict"][name], value), name
        for number, state in end["whole"]["states"].items():
            for name, value in state.items():
                assert torch.equal(content["optimizer"]["state"][number][name], value), name
    assert content["meta"]["iter"] == ITERS


def test_a_run_goes_on_to_the_same_bits(ends: list[dict[str, Any]]) -> None:
    # All save at the same iterations: inside of a window that reduces its gradients so far.
    for end in ends:
        for run in [*end["resumed"], end["auto"]]:
            torch.testing.assert_close(run, end["whole"], rtol=0, atol=0)


def test_a_signal_saves_parts_too(folder: Path, ends: list[dict[str, Any]]) -> None:
    for rank in ends:
        end = rank["preempted"]
        saved = folder / "preempted" / "saved" / "run" / "preempted.sharded"
        assert end["checkpoint"] == str(saved)
        assert end["files"] == (["run"], ["latest.sharded", "preempted.sharded"])
        torch.testing.assert_close(end["end"], rank["whole"])


@pytest.mark.parametrize("end", ["sharded", "pth"])
def test_masters_and_their_states_are_resumed(ends: list[dict[str, Any]], end: str) -> None:
    """Whose precision is higher than that of the parameters; from files with full tensors, too."""
    for each in ends:
        whole, resumed = each[f"half {end}"]
        torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
        assert whole["states"][0]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("ranks", [1, 3])
def test_other_ranks_get_other_parts_of_the_same(folder: Path, ends: Any, ranks: int) -> None:
    for end in run_on(ranks, "resumed", folder):
        for run in end:
            torch.testing.assert_close(run, ends[0]["whole"], rtol=0, atol=0)


def test_models_of_any_kind_load_it(folder: Path, ends: list[dict[str, Any]]) -> None:
    net = make_net()
    load_checkpoint(net, folder / "run" / "iter_5.sharded", strict=True)
    for end in ends:
        torch.testing.assert_close(end["loaded"], net.state_dict(), rtol=0, atol=0)


def test_where_nothing_is_sharded_rank_0_writes_everything(
    folder: Path, ends: list[dict[str, Any]]
) -> None:
    """In one process, too; older checkpoints are deleted as files are."""
    assert ends[0]["kept"] == ["iter_4.sharded", "iter_5.sharded", "latest.sharded"]
    alone = train(folder / "alone", "plain")
    for run in ("ddp", "alone"):
        files = os.listdir(folder / run / "iter_5.sharded")
        assert files == [RUN_FILE]
        net = make_net()
        load_checkpoint(net, folder / run / "iter_5.sharded", strict=True)
        torch.testing.assert_close(full(net.state_dict()), alone["weights"], rtol=1e-5, atol=1e-6)


def test_a_disk_that_refuses_on_one_rank_ends_all(ends: list[dict[str, Any]]) -> None:
    for end in ends:
        for error in end["errors"]:
            assert "writing a sharded checkpoint failed on rank 1" in error
        assert end["left"] == []  # no folder in part, and none that could be taken for complete


def test_ranks_must_save_together(ends: list[dict[str, Any]]) -> None:
    for end in ends:
        assert "CheckpointHook must be the same on all ranks" in end["alike"]


def test_arguments(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="sharded"):
        CheckpointHook(1, sharded="yes")  # type: ignore[arg-type]
    runner = IterBasedRunner(TrainStep(make_net(), F.mse_loss), work_dir=tmp_path, max_iters=2)
    runner.register_hook(CheckpointHook(1, sharded=True, out_dir="memory://checkpoints"))
    with pytest.raises(ValueError, match="writes to local disks only, not to 'memory://"):
        runner.run([batches()], [("train", 1)])
    with pytest.raises(ValueError, match="sharded checkpoints are written to local disks only"):
        runner.save_checkpoint("memory://checkpoints", sharded=True)


def test_torch_reads_the_parts_too(checkpoint: Path) -> None:
    """With its own metadata, which is not read here."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(checkpoint, checkpoint.parent / "torch.pth")
    theirs = torch.load(checkpoint.parent / "torch.pth", weights_only=True)
    ours = read_checkpoint(checkpoint)["state_dict"]
    (checkpoint / ".metadata").write_bytes(pickle.dumps(Call(os._exit, 3)))
    names = [name for name in ours if not name.startswith("ema_") and "steps" not in name]
    assert len(names) == 4
    assert all(torch.equal(theirs[f"state_dict.{name}"], ours[name]) for name in names)
    with pytest.raises(ValueError, match=r"damaged: its file \.metadata"):
        read_checkpoint(checkpoint)


# What is refused


def spoil(kind: str, folder: Path) -> None:
    part = folder / "__1_0.distcp"
    content = bytearray(part.read_bytes())
    if kind == "missing":
        part.unlink()
    elif kind == "truncated":
        part.write_bytes(content[:-10])
    elif kind == "changed":
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
    elif kind == "a pipe":
        part.unlink()
        os.mkfifo(part)
    else:
        (folder / RUN_FILE).unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "its file __1_0.distcp is missing"),
        ("truncated", r"its file __1_0.distcp has \d+ bytes of \d+"),
        ("changed", "its file __1_0.distcp is damaged"),
        ("a pipe", "is a named pipe, not a file"),
        ("unfinished", f"is a folder, not a checkpoint file; nor .* {RUN_FILE} .* not there"),
    ],
)
def test_a_damaged_folder(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], kind: str, message: str
) -> None:
    """Is refused, told by ``hookrun verify`` in its run and by itself, and passed over."""
    older = shutil.copytree(checkpoint, checkpoint.with_name("iter_4.sharded"))
    os.utime(older / RUN_FILE, (1, 1))
    assert main(["verify", str(checkpoint)]) == 0
    assert "iter_5.sharded: digests of 4 files right; epoch 0, iter 5" in capsys.readouterr().out
    spoil(kind, checkpoint)
    with pytest.raises((ValueError, OSError), match=message):
        load_checkpoint(make_net(), checkpoint)
    assert main(["verify", str(checkpoint.parent)]) == 1
    printed = capsys.readouterr().out
    assert "iter_5.sharded: DAMAGED: " in printed
    assert "a resume starts from iter_4.sharded" in printed
    found = newest_valid(checkpoint.parent, logging.getLogger("hookrun.test"))
    assert found is not None
    assert found[0] == older


def test_its_main_file_alone_is_no_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    """Nor is it read without the parts, which have the weights."""
    load_checkpoint(make_net(), checkpoint / RUN_FILE, strict=True)
    data = (checkpoint / RUN_FILE).read_bytes()
    (tmp_path / "copy.pth").write_bytes(data)
    with pytest.raises(ValueError, match=r"its file .* is missing"):
        load_checkpoint(make_net(), tmp_path / "copy.pth")
    FileClient("memory").put(data, "memory://copy.pth")
    with pytest.raises(ValueError, match="can only be read locally"):
        load_checkpoint(make_net(), "memory://copy.pth")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="is a folder, not a checkpoint file"):
        load_checkpoint(make_net(), tmp_path)


def write_described(folder: Path, change: Any) -> None:
    """Write the run's file anew, with a right digest but another description."""
    content = torch.load(folder / RUN_FILE, weights_only=True)
    change(content[KEY])
    write_checkpoint(content, folder / RUN_FILE)


def _reach_out(described: Any) -> None:
    described["files"]["../secret"] = described["files"].pop("__1_0.distcp")


def _claim_more(described: Any) -> None:
    for tensor in described["tensors"].values():
        tensor["size"] = [1 << 20 for _ in tensor["size"]]


def _read_beyond(described: Any) -> None:
    next(iter(described["tensors"].values()))["parts"][0]["bytes"] = [0, 1 << 40]


def _leave_a_gap(described: Any) -> None:
    next(iter(described["tensors"].values()))["parts"].pop()


def _other_dtype(described: Any) -> None:
    next(iter(described["tensors"].values()))["dtype"] = "torch.load"


def _no_place(described: Any) -> None:
    described["places"][0][1:] = ["state_dict", "gone", 3]


@pytest.mark.parametrize(
    "change", [_reach_out, _claim_more, _read_beyond, _leave_a_gap, _other_dtype, _no_place]
)
def test_a_hostile_description_is_refused(checkpoint: Path, change: Any) -> None:
    write_described(checkpoint, change)
    with pytest.raises(ValueError, match=f"is damaged: .*{RUN_FILE}"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize("target", [os.mkdir, os.system])
def test_no_code_of_a_part_runs(checkpoint: Path, target: Any) -> None:
    """A part whose pickle calls something, with right digests."""
    touched = checkpoint / "touched"
    argument = str(touched) if target is os.mkdir else f"touch {touched}"
    part = checkpoint / "__1_0.distcp"
    torch.save(Call(target, argument), part)
    data = part.read_bytes()

    def change(described: Any) -> None:
        described["files"][part.name] = [len(data), hashlib.sha256(data).hexdigest()]
        for tensor in described["tensors"].values():
            for each in tensor["parts"]:
                if each["file"] == part.name:
                    each["bytes"] = [0, len(data)]

    write_described(checkpoint, change)
    with pytest.raises(ValueError, match="is damaged"):
        read_checkpoint(checkpoint)
    assert not touched.exists()
