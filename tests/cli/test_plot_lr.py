"""hookrun plot-lr: what it draws from which configs, and what it says of wrong ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hookrun.cli import main
from hookrun.schedules import plotting, preview
from tests import programs

COSINE = {"policy": "CosineAnnealing", "min_lr": 0.0, "by_epoch": False}
PNG = b"\x89PNG"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The curves that would have been drawn."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(plotting, "draw", lambda curves, path: seen.update(curves))
    return seen


def test_a_python_config_tells_the_run(tmp_path: Path, drawn: dict[str, Any]) -> None:
    config = tmp_path / "small.py"
    config.write_text(
        "epochs = 3\n"
        "lr_config = dict(policy='step', step=[1, 2])\n"
        "momentum_config = dict(policy='LinearAnnealing', min_momentum=0.5)\n"
        "optimizer = dict(type='SGD', lr=0.4, momentum=0.8)\n"
        "runner = dict(type='EpochBasedRunner', max_epochs=epochs)\n"
    )
    assert main(["plot-lr", str(config), "--iters-per-epoch", "2"]) == 0
    curves = drawn["small"]
    assert curves.lr.tolist() == pytest.approx([0.4, 0.4, 0.04, 0.04, 0.004, 0.004])
    assert curves.momentum.tolist() == pytest.approx([0.8, 0.8, 0.7, 0.7, 0.6, 0.6])


def test_a_config_may_import_modules_of_its_folder(tmp_path: Path, drawn: dict[str, Any]) -> None:
    """As for ``hookrun train``; the folder is on the path meanwhile only."""
    (tmp_path / "plot_lr_settings.py").write_text("milestones = [1, 2]\n")
    config = tmp_path / "imports.py"
    config.write_text(
        "from plot_lr_settings import milestones\n"
        "lr_config = dict(policy='step', step=milestones)\n"
        "runner = dict(max_epochs=3)\n"
    )
    before = list(sys.path)
    assert main(["plot-lr", str(config), "--iters-per-epoch", "1"]) == 0
    assert drawn["imports"].lr.tolist() == pytest.approx([0.1, 0.01, 0.001])
    assert sys.path == before


def test_json_files_and_text_and_options(tmp_path: Path, drawn: dict[str, Any]) -> None:
    config = tmp_path / "run.json"
    config.write_text(json.dumps({"lr_config": COSINE, "runner": {"max_iters": 7}}))
    text = json.dumps(COSINE)
    assert main(["plot-lr", str(config), text, text, "--base-lr", "0.2"]) == 0
    assert list(drawn) == ["run", "CosineAnnealing", "CosineAnnealing (2)"]
    assert len(drawn["run"].lr) == 7
    assert drawn["run"].lr[0] == pytest.approx(0.2)
    assert len(drawn["CosineAnnealing"].lr) == 1200
    assert main(["plot-lr", text, "--max-iters", "5"]) == 0
    assert np.array_equal(drawn["CosineAnnealing"].lr, preview(COSINE, max_iters=5).lr)


def test_pictures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lr.png"
    one_cycle = {
        "lr_config": {"policy": "OneCycle", "max_lr": 0.2},
        "momentum_config": {"policy": "OneCycle"},
    }
    assert main(["plot-lr", json.dumps(COSINE), json.dumps(one_cycle), "-o", str(path)]) == 0
    assert path.read_bytes()[:4] == PNG
    assert capsys.readouterr().out.strip() == str(path)


def test_one_iteration_and_two_groups_can_be_drawn(tmp_path: Path) -> None:
    curves = preview({"policy": "fixed"}, max_epochs=1, iters_per_epoch=1, base_lr=[0.1, 0.2])
    plotting.draw({"fixed": curves}, tmp_path / "lr.svg")
    assert (tmp_path / "lr.svg").stat().st_size > 0
    with pytest.raises(ValueError, match="at least one curve"):
        plotting.draw({}, tmp_path / "none.png")


def test_the_gallery_is_written(tmp_path: Path) -> None:
    path = tmp_path / "schedules.png"
    assert main(["plot-lr", "--gallery", "-o", str(path)]) == 0
    assert path.read_bytes()[:4] == PNG


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"policy": "cosin"}', "no policy is called 'cosin'"),
        ('{"policy": "step", "step": -1}', "step must be a positive int"),
        ('{"optimizer": {}}', "neither lr_config nor momentum_config"),
        ("{", "the JSON text is not valid JSON: Expecting"),
        ("config.yaml", ".py file, a .json file or JSON text"),
        ("missing.json", "missing.json"),
    ],
)
def test_wrong_configs_are_said_in_one_line(
    config: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot-lr", config]) == 1
    error = capsys.readouterr().err
    assert error.startswith("hookrun plot-lr: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_broken_json_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    for content in (b'{"policy" "fixed"}', b"\xff{"):
        path.write_bytes(content)
        assert main(["plot-lr", str(path)]) == 1
        assert f"{path} is not valid JSON: " in capsys.readouterr().err


def test_nothing_to_draw_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot-lr"]) == 2
    assert "give configs or --gallery" in capsys.readouterr().err


def test_as_a_command(tmp_path: Path) -> None:
    path = tmp_path / "lr.png"
    done = programs.run("-m", "hookrun.cli", "plot-lr", json.dumps(COSINE), "-o", path)
    assert done.returncode == 0, done.stderr
    assert path.exists()
