"""``python -m hookrun.compat.mmcv``: a code base on MMCV, unchanged, trains as it does on MMCV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun.checkpoint import read_checkpoint
from tests.compat.mmcv_runs import CODE_BASE, mmcv_folder, run_python, through_hookrun

TRAIN, CONFIG = CODE_BASE / "train.py", CODE_BASE / "config.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on MMCV, one on hookrun, and both resumed by the other and by MMCV."""
    mmcv_folder()
    folder = tmp_path_factory.mktemp("runs")
    runs = {
        "on_mmcv": (run_python, []),
        "on_hookrun": (through_hookrun, []),
        "mmcv_resumed": (through_hookrun, ["--resume-from", "on_mmcv/epoch_2.pth"]),
        "mmcv_resumed_by_mmcv": (run_python, ["--resume-from", "on_mmcv/epoch_2.pth"]),
        "hookrun_resumed_by_mmcv": (run_python, ["--resume-from", "on_hookrun/epoch_2.pth"]),
    }
    for name, (run, more) in runs.items():
        done = run(TRAIN, CONFIG, "--work-dir", name, *more, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def weights(file: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(file)["state_dict"]


def logged(folder: Path) -> list[Any]:
    """What a logger of the code base was given, without the iterations of validation.

    MMCV's are one too high.
    """
    said = json.loads((folder / "said.json").read_text())
    return [[mode, None if mode == "val" else at, dict(values)] for mode, at, values in said]


def test_the_run_is_the_same(folder: Path) -> None:
    mmcv, hookrun = folder / "on_mmcv", folder / "on_hookrun"
    names = sorted(path.name for path in mmcv.iterdir())
    assert sorted(path.name for path in hookrun.iterdir()) == names
    expected, found = logged(mmcv), logged(hookrun)
    assert [entry[:2] for entry in found] == [entry[:2] for entry in expected]
    for (*_, values), (*_, others) in zip(found, expected, strict=True):
        assert values == pytest.approx(others, rel=1e-5)
    assert any(mode == "val" for mode, *_ in found)


@pytest.mark.parametrize(
    ("run", "expected", "name"),
    [
        ("on_hookrun", "on_mmcv", "epoch_2.pth"),
        ("on_hookrun", "on_mmcv", "epoch_3.pth"),
        ("on_hookrun", "on_mmcv", "best_accuracy_epoch_1.pth"),
        ("mmcv_resumed", "on_mmcv", "epoch_3.pth"),
        # MMCV begins its averages anew, and so goes on differently from both files.
        ("hookrun_resumed_by_mmcv", "mmcv_resumed_by_mmcv", "epoch_3.pth"),
    ],
)
def test_weights_are_the_same(folder: Path, run: str, expected: str, name: str) -> None:
    found, other = (weights(folder / each / name) for each in (run, expected))
    torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-6)


def test_meta_and_optimizer_are_the_same(folder: Path) -> None:
    mmcv, hookrun = (
        read_checkpoint(folder / run / "epoch_3.pth") for run in ("on_mmcv", "on_hookrun")
    )
    for key in ("epoch", "iter", "seed", "checked", "note"):
        assert hookrun["meta"][key] == mmcv["meta"][key], key
    rates = [
        [group["lr"] for group in each["optimizer"]["param_groups"]] for each in (mmcv, hookrun)
    ]
    assert rates[1] == pytest.approx(rates[0])
    assert len(rates[0]) > 1  # groups of their own, by paramwise_cfg


def test_no_hook_of_mmcv_takes_part(folder: Path, tmp_path: Path) -> None:
    """All classes of a run's runner and hooks are hookrun's, or the code base's."""
    script = tmp_path / "check.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(CODE_BASE)!r})\n"
        "import project, mmcv.runner\n"
        "from mmcv.runner import HOOKS, RUNNERS, OPTIMIZERS\n"
        "vendors = ('ClearML', 'Pavi', 'Segmind', 'Dvc', 'Ml', 'Nept', 'Tens', 'Wandb', 'Prof')\n"
        "for registry in (HOOKS, RUNNERS, OPTIMIZERS):\n"
        "    for name, kind in registry.module_dict.items():\n"
        "        if not name.startswith(vendors):\n"
        "            assert not kind.__module__.startswith('mmcv'), kind\n"
        "        assert not any(base.__module__.startswith('mmcv') for base in kind.__mro__[1:])\n"
        "assert HOOKS.get('CheckInvalidLossHook') is project.CheckInvalidLossHook\n"
    )
    done = through_hookrun(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# What a user may get wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tools/trian.py", "config.py"], "the script 'tools/trian.py' does not exist"),
        (["."], "the script '.' is a folder"),
        (["--work-dir", "x"], "'--work-dir' is no script"),
        (["-m"], "-m needs the name of a module"),
        (["-m", "no_such_module"], "no_such_module"),
        ([], "usage: python -m hookrun.compat.mmcv SCRIPT"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = through_hookrun(*arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr


def test_help(tmp_path: Path) -> None:
    done = through_hookrun("--help", cwd=tmp_path, mmcv=False)
    assert done.returncode == 0
    assert "tools/train.py" in done.stdout


def test_without_mmcv(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import mmcv.runner\n")
    done = through_hookrun("script.py", cwd=tmp_path, mmcv=False)
    assert done.returncode != 0
    assert done.stderr.startswith("hookrun.compat.mmcv: no MMCV is installed")
    assert "Traceback" not in done.stderr


def test_with_mmcv_2(tmp_path: Path) -> None:
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").write_text("__version__ = '2.1.0'\n")
    (tmp_path / "script.py").write_text("import mmcv.runner\n")
    done = run_python("-m", "hookrun.compat.mmcv", "script.py", cwd=tmp_path, mmcv=False)
    assert "MMCV 2.1.0 has no mmcv.runner" in done.stderr


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("from mmcv.runner import EpochBasedRuner", "Did you mean 'EpochBasedRunner'"),
        ("from mmcv.runner.hooks import OptimzerHook", "Did you mean 'OptimizerHook'"),
        ("import mmcv.runner; mmcv.runner.build_runer", "Did you mean 'build_runner'"),
    ],
)
def test_a_name_that_neither_has(line: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f"{line}\n")
    done = through_hookrun("script.py", cwd=tmp_path)
    assert done.returncode == 1
    assert hint in done.stderr


def test_arguments_and_path_are_the_scripts(tmp_path: Path) -> None:
    """sys.argv and sys.path are as without the command, and its exit status is passed on."""
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "script.py").write_text("import sys, beside; print(sys.argv); sys.exit(3)\n")
    done = through_hookrun("script.py", "--flag", "-m", cwd=tmp_path)
    assert done.stdout.strip() == "['script.py', '--flag', '-m']"
    assert done.returncode == 3


def test_a_module(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text("import sys, mmcv.runner; print(sys.argv[1:])\n")
    done = through_hookrun("-m", "tool", "--flag", cwd=tmp_path)
    assert done.stdout.strip() == "['--flag']", done.stderr
