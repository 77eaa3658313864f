"""``hookrun plot-log``: which points are drawn of which logs, and what is said of wrong ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hookrun import OptimizerHook, TextLoggerHook
from hookrun.cli import log_picture, main
from hookrun.cli.log_curves import read_run
from tests.support import make_loader


def entry(epoch: int, number: int, loss: Any, **more: Any) -> dict[str, Any]:
    return {"mode": "train", "epoch": epoch, "iter": number, "lr": 0.1, "loss": loss, **more}


def write(path: Path, *entries: Any) -> Path:
    lines = [each if isinstance(each, str) else json.dumps(each) for each in entries]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_epochs(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.log.json",
        {"exp_name": "meta"},
        entry(1, 5, 3.0, time=0.1, memory=7),
        entry(1, 10, 2.0),
        {"mode": "val", "epoch": 1, "iter": 4, "lr": 0.1, "acc": 0.5},
        entry(2, 5, 1.0),
        entry(2, 10, float("nan")),
    )
    log = read_run(str(path))
    assert (log.unit, log.broken) == ("epoch", 0)
    assert log.curves == {
        ("loss", "train"): [(0.5, 3.0), (1.0, 2.0), (1.5, 1.0)],
        ("lr", "train"): [(0.5, 0.1), (1.0, 0.1), (1.5, 0.1), (2.0, 0.1)],
        ("acc", "val"): [(1.0, 0.5)],
    }


@pytest.mark.parametrize("epoch", [1, 2])
def test_iterations(tmp_path: Path, epoch: int) -> None:
    path = write(
        tmp_path / "a.log.json",
        entry(1, 10, 2.0, lr={"g": 0.1, "d": 0.2}),
        {"mode": "val", "epoch": 1, "iter": 4, "acc": 0.5},
        entry(epoch, 20, 1.0),
    )
    log = read_run(str(path))
    assert log.unit == "iteration"
    assert log.curves[("loss", "train")] == [(10, 2.0), (20, 1.0)]
    assert log.curves[("acc", "val")] == [(10, 0.5)]
    assert log.curves[("lr d", "train")] == [(10, 0.2)]


def test_evaluations_within_an_epoch_are_where_they_were(tmp_path: Path) -> None:
    scores = [{"mode": "val", "epoch": e, "iter": 4, "acc": a} for e, a in ((1, 1), (2, 2), (2, 3))]
    first, within, last = scores
    lines = [entry(1, 5, 3.0), first, entry(1, 10, 2.0), entry(2, 5, 1.0), within, entry(2, 10, 0)]
    log = read_run(str(write(tmp_path / "a.log.json", *lines, last)))
    assert log.curves[("acc", "val")] == [(0.5, 1.0), (1.5, 2.0), (2.0, 3.0)]


Lines = dict[str, list[list[float]]]


def drawn(monkeypatch: pytest.MonkeyPatch, *runs: Path) -> tuple[Lines, set[str], list[str]]:
    """The x of the lines by panel, the names of x axes, and the entries of the legend."""
    figures: list[Any] = []
    monkeypatch.setattr(log_picture, "save_figure", lambda figure, path: figures.append(figure))
    assert main(["plot-log", *map(str, runs)]) == 0
    panels = [each for each in figures[0].axes if each.get_visible()]
    (legend,) = figures[0].legends
    return (
        {each.get_ylabel(): [list(line.get_xdata()) for line in each.lines] for each in panels},
        {each.get_xlabel() for each in panels},
        [each.get_text() for each in legend.get_texts()],
    )


def test_runs_by_epoch_and_by_iteration_are_drawn_over_iterations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = {"mode": "val", "epoch": 1, "iter": 4, "acc": 0.5}
    by_epoch = write(tmp_path / "e.log.json", entry(1, 8, 2.0), score, entry(2, 4, 1.0))
    by_iter = write(tmp_path / "i.log.json", entry(1, 10, 2.0), entry(1, 20, 1.0), score)
    lines, units, names = drawn(monkeypatch, by_epoch, by_iter)
    assert lines["loss"] == [[8, 12], [10, 20]]
    assert lines["acc"] == [[8], [20]]
    assert units == {"iteration"}
    assert names == ["e, train", "i, train", "e, val", "i, val"]
    lines, units, names = drawn(monkeypatch, by_epoch)
    assert (lines["loss"], lines["acc"], units) == ([[1.0, 1.5]], [[1.0]], {"epoch"})
    assert names == ["train", "val"]


def test_all_panels_have_the_same_x_and_each_run_a_colour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = {"mode": "val", "epoch": 2, "iter": 4, "acc": 0.5}
    names = [f"{number}.log.json" for number in range(9)]
    runs = [write(tmp_path / each, entry(1, 2, 2.0), entry(2, 2, 1.0), score) for each in names]
    figures: list[Any] = []
    monkeypatch.setattr(log_picture, "save_figure", lambda figure, path: figures.append(figure))
    assert main(["plot-log", *map(str, runs)]) == 0
    panels = [each for each in figures[0].axes if each.get_visible()]
    assert len({each.get_xlim() for each in panels}) == 1
    assert len({tuple(line.get_color()) for line in panels[0].lines}) == len(runs)


def test_a_folder_is_one_run_whose_later_files_count(tmp_path: Path) -> None:
    write(tmp_path / "1.log.json", entry(1, 4, 4.0), entry(2, 4, 3.0), entry(3, 4, 9.0))
    write(tmp_path / "2.log.json", entry(3, 4, 2.0), entry(4, 4, 1.0))
    curve = read_run(str(tmp_path)).curves[("loss", "train")]
    assert curve == [(1.0, 4.0), (2.0, 3.0), (3.0, 2.0), (4.0, 1.0)]


def test_what_a_run_wrote_is_drawn(make_runner: Any, tmp_path: Path) -> None:
    runner = make_runner(max_epochs=2)
    runner.register_hook(OptimizerHook())
    runner.register_hook(TextLoggerHook(interval=2))
    runner.run([make_loader(4)], [("train", 1)])
    folder, picture = str(runner.work_dir), tmp_path / "log.png"
    assert main(["plot-log", folder, folder, "-o", str(picture)]) == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    curve = read_run(folder).curves[("loss", "train")]
    assert [x for x, _ in curve] == [0.5, 1.0, 1.5, 2.0]


BROKEN = ["{", "[1]", "3", '"text"', '{"mode": "train"}', '{"mode": "x", "epoch": 1, "iter": 1}',
          "\x00", "[" * 100_000, '{"mode": "train", "epoch": "1", "iter": 2}']  # fmt: skip


def test_broken_lines_are_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.log.json", entry(1, 1, 2.0), *BROKEN, entry(1, 2, 1.0))
    with path.open("ab") as file:
        file.write(b'\xff\xfe\n{"mode": "tra')
    assert main(["plot-log", str(path), "-o", str(tmp_path / "log.png")]) == 0
    said = capsys.readouterr()
    assert said.err == f"hookrun plot-log: {path}: lines skipped as broken: {len(BROKEN) + 2}\n"
    assert said.out == f"{tmp_path / 'log.png'}\n"
    assert read_run(str(path)).curves[("loss", "train")] == [(1, 2.0), (2, 1.0)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}"], "holds no logs: TextLoggerHook writes *.log.json into a run's work_dir"),
        (["{folder}/gone.log.json"], "No such file"),
        (["{folder}/sub/empty.log.json"], "has no values to draw (broken lines: 1)"),
        (["{folder}/sub/a.log.json", "--key", "los"], "no log has a value 'los'. Did you mean"),
        (["{folder}/sub/a.log.json", "-o", "{folder}/gone/a.png"], "No such file or directory"),
    ],
)
def test_what_cannot_be_drawn(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub/empty.log.json", "{")
    write(tmp_path / "sub/a.log.json", entry(1, 1, 2.0))
    given = [each.format(folder=tmp_path) for each in arguments]
    assert main(["plot-log", "-o", str(tmp_path / "log.png"), *given]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("hookrun plot-log: ")
    assert message in said[-1]
    assert not (tmp_path / "log.png").exists()


def test_names_of_runs() -> None:
    names = log_picture.unique_names
    assert names(["work/a", "work/b.log.json"]) == ["a", "b"]
    assert names(["x/a", "y/a", "y/a"]) == ["x/a", "y/a", "y/a (2)"]
