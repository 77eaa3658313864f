"""``hookrun verify`` tells damaged files and runs that do not resume."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import CheckpointHook, OptimizerHook
from hookrun.checkpoint import write_checkpoint
from hookrun.cli import main, resume_both_ways
from hookrun.cli.resume_both_ways import differences
from tests import programs
from tests.support import make_loader


@pytest.fixture
def folder(make_runner: Any) -> Path:
    """The work_dir of a run of two epochs."""
    runner = make_runner(max_epochs=2)
    runner.register_hook(OptimizerHook())
    runner.register_hook(CheckpointHook(1))
    runner.run([make_loader()], [("train", 1)])
    return Path(runner.work_dir)


def verify(*arguments: Any) -> int:
    return main(["verify", *map(str, arguments)])


def test_a_whole_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(folder) == 0
    printed = capsys.readouterr().out
    assert "epoch_1.pth: digest right; epoch 1, iter 4, 2 weights, optimizer" in printed
    assert "latest.pth: link to epoch_2.pth" in printed
    assert printed.endswith("a resume starts from epoch_2.pth, epoch 2, iter 8\n")


def test_a_damaged_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = bytearray((folder / "epoch_2.pth").read_bytes())
    whole[len(whole) // 2] ^= 4
    (folder / "epoch_2.pth").write_bytes(whole)
    (folder / "best.pth").symlink_to("gone.pth")
    (folder / ".epoch_3.pth.host-1.tmp").touch()
    assert verify(folder) == 1
    printed = capsys.readouterr().out
    assert "epoch_2.pth: DAMAGED: " in printed
    assert "best.pth: DAMAGED: link to the missing file gone.pth" in printed
    assert ".epoch_3.pth.host-1.tmp: left by" in printed
    assert printed.endswith("a resume starts from epoch_1.pth, epoch 1, iter 4\n")


BAD = torch.tensor([0.5, float("nan"), 1.0])
GROUPS = [{"params": [0]}]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"state_dict": {"fc.weight": BAD}}, "1 tensor: state_dict['fc.weight'] (1 of 3)"),
        ({"state_dict": {"fc.weight": BAD.half()}}, "state_dict['fc.weight'] (1 of 3)"),
        ({"state_dict": {"a": BAD, "ema_a": BAD}}, "2 tensors: state_dict['a'] (1 of 3), state_"),
        ({"state_dict": {"a": torch.full((2,), torch.inf)}}, "state_dict['a'] (2 of 2)"),
        ({"state_dict": {"a": torch.tensor([1.0, -torch.inf])}}, "state_dict['a'] (1 of 2)"),
        ({"state_dict": {"a": BAD.to(torch.complex64)}}, "state_dict['a'] (1 of 3)"),
        (
            {"optimizer": {"state": {0: {"exp_avg": BAD}}, "param_groups": GROUPS}},
            "optimizer['state'][0]['exp_avg'] (1 of 3)",
        ),
        (
            {
                "optimizer": {
                    "g": {"state": {0: {"m": BAD}}, "param_groups": GROUPS},
                    "d": {"state": {}, "param_groups": GROUPS},
                }
            },
            "optimizer['g']['state'][0]['m'] (1 of 3)",
        ),
        (
            {
                "hookrun": {
                    "format": 1,
                    "inner_iter": 0,
                    "hooks": {"EMAHook/0": {"swapped": True, "exact": {0: BAD}}},
                }
            },
            "hooks['EMAHook/0']['exact'][0] (1 of 3)",
        ),
        ({"state_dict": {str(n): BAD for n in range(9)}}, "9 tensors: state_dict['0'] (1 of 3), "),
    ],
)
def test_values_that_are_not_finite(
    tmp_path: Path, part: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = {"meta": {"epoch": 1, "iter": 2}, "state_dict": {"b": torch.ones(2)}, **part}
    write_checkpoint(tree, tmp_path / "epoch_1.pth")
    assert verify(tmp_path) == 1
    out = capsys.readouterr().out
    assert re.match(
        rf"epoch_1\.pth: NOT FINITE: .*{re.escape(message)}.*; digest right; epoch 1", out
    )
    assert "a resume starts from epoch_1.pth" in out


def test_values_that_may_be_infinite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = torch.zeros(3, 3).masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf)
    tree = {
        "meta": {"epoch": 1, "iter": 2, "best": float("nan"), "seen": BAD},
        "state_dict": {"mask": mask, "count": torch.tensor(3)},
    }
    write_checkpoint(tree, tmp_path / "epoch_1.pth")
    assert verify(tmp_path) == 0
    assert "FINITE" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "tree",
    [
        {"meta": {"epoch": -1, "iter": 0}},
        {"meta": {"epoch": "1", "iter": 0}},
        {"meta": {"epoch": 1, "iter": 0}, "hookrun": 3},
        {"meta": {"epoch": 1, "iter": 0}, "hookrun": {"format": 99}},
        {"state_dict": 3},
    ],
)
def test_whole_bytes_of_a_wrong_state(
    tmp_path: Path, tree: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint({"state_dict": {}, **tree}, tmp_path / "a.pth")
    assert verify(tmp_path) == 1
    assert "a.pth: DAMAGED" in capsys.readouterr().out


def test_files_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "weights.pth")
    assert verify(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "weights.pth: no digest; 1 weights, not of a run" in printed
    assert "a resume starts afresh" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give RUN_DIR, or --resume SCRIPT"),
        (["nowhere"], "there is no folder 'nowhere'"),
        (["--resume", "nowhere.py"], "there is no script 'nowhere.py'"),
        (["--steps", "1", "--resume", "nowhere.py"], "--steps must be at least 2"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(*arguments) == 2
    assert message in capsys.readouterr().err


SCRIPT = """
    import sys
    import torch
    from hookrun import EpochBasedRunner, Hook, OptimizerHook
    from tests.support import TinyModel, make_loader

    class Drift(Hook):
        '''Adds to the weights what it has counted; forgets to keep the count.'''
        count = 0
        def after_train_iter(self, runner):
            self.count += 1
            with torch.no_grad():
                runner.model.fc.bias.add_(self.count)

    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    runner = EpochBasedRunner(
        model, optimizer=optimizer, work_dir=sys.argv[1], max_epochs=int(sys.argv[2])
    )
    runner.register_hook(OptimizerHook())
    if "drift" in sys.argv:
        runner.register_hook(Drift())
    runner.run([make_loader(4)], [("train", 1)])
"""


class InForks:
    """In the place of the module `subprocess`."""

    PIPE, STDOUT = subprocess.PIPE, subprocess.STDOUT

    @staticmethod
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert command[:2] == [sys.executable, "-u"]
        assert options.pop("stdout") == subprocess.PIPE
        assert options.pop("stderr") == subprocess.STDOUT
        return programs.run(*command[2:])


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["5"], 0, "resumes bit for bit: the same after 6 iterations"),
        (["5", "drift"], 1, "state_dict['fc.bias'] differs by up to"),
        (["1"], 2, "trains for fewer than 6 iterations"),
    ],
)
def test_a_script_is_run_both_ways(
    tmp_path: Path,
    arguments: list[str],
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if status != 2:  # one of them starts processes as it does
        monkeypatch.setattr(resume_both_ways, "subprocess", InForks)
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    assert verify("--resume", script, tmp_path / "work", *arguments) == status
    printed = capsys.readouterr()
    assert message in printed.out + printed.err
    assert len((printed.out + printed.err).splitlines()) <= 5  # the verdict, not the script's log
    assert "start running" not in printed.out + printed.err
    assert not list((tmp_path / "work").glob("*.pth"))  # its own folder is left alone


def test_what_a_failing_script_prints_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text("import sys\nprint('printed')\nprint(sys.argv[1:])\nraise OSError('why')\n")
    assert verify("--resume", script, "--steps", "3") == 2
    said = capsys.readouterr().err
    assert said.startswith("printed\n['--steps', '3']\nTraceback")
    assert "OSError: why\nhookrun verify: " in said


def test_differences_are_named() -> None:
    nan = float("nan")
    one = {"a": [1, torch.ones(2)], "nan": nan, "meta": {"time": 1}, "x": 1}
    other = {"a": [1, torch.tensor([1.0, 1.5])], "nan": nan, "meta": {"time": 2}, "y": 1, "z": {}}
    assert differences(one, other) == [
        "a[1] differs by up to 0.5",
        "x is in one of the two only",
        "y is in one of the two only",
    ]
    assert differences({"a": torch.zeros(1)}, {"a": -torch.zeros(1)}) != []
    assert differences({"a": 1}, {"a": 1.0}) == ["a is 1 in one go and 1.0 resumed"]
    assert differences([1], [1, 2]) == [" has 1 items in one go and 2 resumed"]
    assert "float64" in differences({"a": torch.ones(1)}, {"a": torch.ones(1).double()})[0]


def test_a_newer_format_stops_a_resume(
    folder: Path, make_runner: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = torch.load(folder / "epoch_2.pth")
    checkpoint["hookrun"]["format"] = 99
    torch.save(checkpoint, folder / "newer.pth")
    assert verify(folder) == 1
    assert (
        "a resume starts nowhere: it would take newer.pth, and refuse it" in capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="format 99"):
        make_runner(work_dir=str(folder)).resume("auto")


NONE: dict[str, Any] = {"optimizer": None}
NO_RUN: dict[str, Any] = {"meta": None}
BAD_FORMAT: dict[str, Any] = {"hookrun": {"format": 99}}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {3: NONE},
        {3: {"optimizer": {}}},
        {2: NONE, 3: NONE},
        {1: NONE, 2: NONE, 3: NONE},
        {2: NONE},
        {3: NO_RUN},
        {2: NONE, 3: NO_RUN},
        {2: NO_RUN, 3: NONE},
        {1: NO_RUN, 2: NO_RUN, 3: NO_RUN},
        {1: NO_RUN, 2: NONE, 3: NO_RUN},
        {3: "damage"},
        {2: "damage", 3: NONE},
        {3: {"state_dict": 3}},
        {3: {**NONE, **BAD_FORMAT}},
        {2: BAD_FORMAT, 3: NONE},
        {3: {**NONE, "meta": {"epoch": -1, "iter": 0}}},
    ],
)
def test_a_resume_starts_where_it_is_said(
    tmp_path: Path,
    make_runner: Any,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    changes: dict[int, Any],
) -> None:
    runner = make_runner(max_epochs=3, work_dir=str(tmp_path))
    runner.register_optimizer_hook({})
    runner.register_checkpoint_hook({"interval": 1, "create_symlink": False})
    runner.run([make_loader(1)], [("train", 1)])
    for number in (1, 2, 3):
        path, change = tmp_path / f"epoch_{number}.pth", changes.get(number, {})
        if change == "damage":
            path.write_bytes(path.read_bytes()[:100])
        elif change:
            checkpoint = {**torch.load(path), **change}
            torch.save({key: value for key, value in checkpoint.items() if value is not None}, path)
        os.utime(path, (number, number))
    verify(tmp_path)
    said = capsys.readouterr().out.splitlines()[-1]
    resumed = make_runner(work_dir=str(tmp_path))
    if "nowhere" in said:
        with pytest.raises((ValueError, TypeError)):
            resumed.resume("auto")
    else:
        resumed.resume("auto")
        start = f"epoch {resumed.epoch}, iter {resumed.iter}" if resumed.epoch else "afresh"
        assert start in said
    later = "what was written later has"
    assert (later in said) == (later in caplog.text and "nowhere" not in said)


def test_links_in_a_circle(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "circle.pth").symlink_to("circle.pth")
    assert verify(folder) == 1
    assert "circle.pth: DAMAGED: link to the missing file circle.pth" in capsys.readouterr().out


def test_a_folder_without_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was checked, which is no success."""
    (tmp_path / "notes.txt").write_text("")
    assert main(["verify", str(tmp_path)]) != 0
    assert "there is no checkpoint in" in capsys.readouterr().err
