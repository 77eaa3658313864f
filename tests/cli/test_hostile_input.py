"""``hookrun verify`` and ``plot-lr`` on what is odd, and escape codes that reach no terminal."""

from __future__ import annotations

import json
import logging
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import EvalHook, TextLoggerHook
from hookrun.cli import main
from hookrun.core.printable import printable
from tests.support import Points, TinyModel, make_loader

RED = "\x1b[31mred\x07\r\n"


def save(folder: Path, name: str, **parts: Any) -> None:
    tree = {"meta": {"epoch": 1, "iter": 2}, "state_dict": {"a": torch.ones(1)}, **parts}
    torch.save(tree, folder / name)


ODD: dict[str, Any] = {
    "a named pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "an endless link": lambda path: path.symlink_to(path),
    "nothing": lambda path: path.symlink_to("gone.pth"),
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    "an empty file": Path.touch,
    "text": lambda path: path.write_text("text"),
    "a huge file": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 1 << 40),
    "a huge archive": lambda path: path.write_bytes(b"PK\x03\x04") and os.truncate(path, 1 << 40),
    "a name with codes": lambda path: save(path.parent, f"{RED}.pth"),
    "a name of other bytes": lambda path: (path.parent / "a\udcff.pth").touch(),
    "hooks with codes": lambda path: save(
        path.parent, "b.pth", hookrun={"format": 1, "inner_iter": 0, "hooks": {RED: {}}}
    ),
    "weights with codes": lambda path: save(
        path.parent, "b.pth", state_dict={RED: torch.tensor(torch.nan)}
    ),
    "a part with codes": lambda path: save(path.parent, "b.pth", hookrun={"format": 1, RED: 2}),
    "values with codes": lambda path: save(
        path.parent, "b.pth", hookrun={"format": 1, "inner_iter": RED}
    ),
    "numbers for names": lambda path: save(path.parent, "b.pth", state_dict={1: torch.ones(1)}),
    "numbers for names, and no run": lambda path: torch.save({"state_dict": {1: 2}}, path),
}


@pytest.mark.parametrize("name", ODD)
def test_verify_goes_on_behind_what_is_odd(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path, "good.pth")
    os.utime("good.pth", (1, 1))
    ODD[name](Path("odd.pth") if name == "a socket" else tmp_path / "odd.pth")
    assert main(["verify", str(tmp_path)]) in (0, 1)
    printed = capsys.readouterr().out
    assert "good.pth: no digest; epoch 1, iter 2" in printed
    assert all(line.isprintable() for line in printed.split("\n"))
    printed.encode()
    if name in ("a named pipe", "a folder", "a socket"):
        assert f"odd.pth: skipped, because it is {name}" in printed


def test_log_lines_hold_no_escape_codes(make_runner: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Model(TinyModel):
        def train_step(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            outputs = super().train_step(*args, **kwargs)
            return {**outputs, "log_vars": {f"loss{RED}": outputs["loss"]}}

    model = Model()
    optimizers = {f"a{RED}": torch.optim.SGD(model.parameters(), lr=0.1)}
    runner = make_runner(
        model=model, optimizer=optimizers, max_epochs=1, meta={"exp_name": f"exp{RED}"}
    )
    runner.register_hook(TextLoggerHook(interval=1, interval_exp_name=1), "VERY_LOW")
    scores = [{f"acc{RED}": 0.5, "text": f"hidden{RED}"}]
    loader = make_loader(2)
    loader.dataset.scores = scores  # type: ignore[attr-defined]
    assert isinstance(loader.dataset, Points)
    runner.register_hook(EvalHook(loader, save_best=f"acc{RED}", rule="greater"))
    with caplog.at_level(logging.INFO):
        runner.run([make_loader(2)], [("train", 1)])
    lines = "\n".join(record.getMessage() for record in caplog.records)
    for word in ("exp", "loss", "acc", "hidden", "lr_a"):
        assert word in lines
    assert "\x1b" not in lines
    assert "\x07" not in lines
    assert "\r" not in lines


def test_names_out_of_a_file_that_are_logged_hold_none(
    make_runner: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner()
    runner.save_checkpoint(tmp_path, filename_tmpl="a.pth")
    tree = torch.load(tmp_path / "a.pth")
    tree["state_dict"][f"more{RED}"] = torch.ones(1)
    torch.save(tree, tmp_path / "a.pth")
    make_runner().resume(tmp_path / "a.pth")
    assert "1 not in the model: more\\x1b[31mred" in caplog.text
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äé 漢字", "plain äé 漢字"),
        (RED, "\\x1b[31mred\\x07\\r\\n"),
        ("\udcff", "\\udcff"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eleft", "\\u202eleft"),
        ("a\tb", "a\\tb"),
        ("", ""),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


CONFIGS: dict[str, str] = {
    "syntax": "lr_config = (",
    "name": "lr_config = gone",
    "division": "lr_config = 1 / 0",
    "own error": "class E(Exception): pass\nraise E('hidden\\x1b[31m\\nmore')",
    "no words": "raise RuntimeError",
    "recursion": "def f(): f()\nf()",
    "assertion": "assert False, 'hidden'",
    "import": "import gone_for_good",
    "no dict": "lr_config = 3",
    "list": "lr_config = [1]",
    "policy": "lr_config = dict(policy=3)",
    "two kinds": "lr_config = dict(policy='step', step=[1], type='EMAHook')",
    "optimizer": "lr_config = dict(policy='fixed')\noptimizer = [1]",
    "runner": "lr_config = dict(policy='fixed')\nrunner = 'x'",
    "epochs": "lr_config = dict(policy='fixed')\nrunner = dict(max_epochs='many')",
    "rate": "lr_config = dict(policy='fixed')\noptimizer = dict(lr='high')",
    "rates": "lr_config = dict(policy='fixed')\noptimizer = dict(lr=[])",
    "huge": "lr_config = dict(policy='fixed')\noptimizer = dict(lr=10**400)",
    "null bytes": "\0",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_plot_lr_says_what_is_wrong_in_one_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.py"
    config.write_text(CONFIGS[name])
    check_told(["plot-lr", str(config), "-o", str(tmp_path / "lr.png")], capsys)


@pytest.mark.parametrize("ending", ["py", "json"])
@pytest.mark.parametrize("name", ["a named pipe", "a folder", "a device", "an endless link"])
def test_plot_lr_takes_files_only(
    tmp_path: Path, name: str, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ODD[name](tmp_path / f"config.{ending}")
    check_told(["plot-lr", str(tmp_path / f"config.{ending}")], capsys)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "\udcff", "{}", "3", '{"policy": [[]]}', '{"lr_config": {"policy": "\x1b"}}'],
    ids=range(6),
)
def test_plot_lr_of_odd_json(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    check_told(["plot-lr", str(path)], capsys)
    if text.startswith("{"):
        check_told(["plot-lr", json.dumps(json.loads(text, strict=False))], capsys)


def test_plot_lr_into_a_folder_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.dumps({"policy": "fixed"})
    check_told(["plot-lr", config, "-o", str(tmp_path / "no" / "lr.png")], capsys)
    check_told(["plot-lr", config, "-o", str(tmp_path / "lr.\x1b")], capsys)


def check_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The command fails, and says why in one line."""
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hookrun plot-lr: ")
    assert captured.err.removesuffix("\n").isprintable()
    assert len(captured.err) > len("hookrun plot-lr: \n")
