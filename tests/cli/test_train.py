"""``hookrun train``: the run that a config describes, and what is said of wrong ones."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import Preempted
from hookrun.cli import main
from hookrun.cli.run_config import KEYS, apply_settings
from tests import programs
from tests.distributed.workers import free_port

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits_config.py"
CONFIG = """
from tests.support import TinyModel, make_loader
_UNUSED = limit = None
del limit
def loader(batches): return make_loader(batches)
model = TinyModel
data = dict(train=dict(type=loader, batches=4), val=dict(type=loader, batches=2))
optimizer = dict(type="SGD", lr=0.1)
runner = dict(max_epochs=2)
seed = 3
"""


def write(tmp_path: Path, more: str = "", without: str = "") -> str:
    """A config in the folder, with more lines, and without those of a key."""
    text = re.sub(rf"^{without} = .*\n", "", CONFIG, flags=re.M) if without else CONFIG
    path = tmp_path / "config.py"
    path.write_text(f"{text}work_dir = {str(tmp_path / 'work')!r}\n{more}\n")
    return str(path)


def weights(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_the_digits_end_with_the_weights_of_the_script(tmp_path: Path) -> None:
    script = programs.run(
        *(ROOT / "examples/digits.py", "--epochs", "1", "--device", "cpu"),
        *("--work-dir", tmp_path / "script"),
        timeout=120,
    )
    assert script.returncode == 0, script.stderr
    settings = ["runner.max_epochs=1", "device=cpu", f"work_dir={tmp_path / 'config'}"]
    chosen = [each for setting in settings for each in ("--set", setting)]
    done = programs.run("-m", "hookrun.cli", "train", DIGITS, *chosen, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "23 iterations" in done.stdout
    of_script, of_config = (
        weights(tmp_path / each / "epoch_1.pth") for each in ("script", "config")
    )
    assert of_script.keys() == of_config.keys()
    assert any(name.startswith("ema_") for name in of_script)
    assert all(torch.equal(of_script[name], of_config[name]) for name in of_script)


def test_a_run_and_its_resumption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path)
    assert main(["train", config]) == 0
    assert capsys.readouterr().out.startswith("8 iterations, ")
    whole = weights(tmp_path / "work/epoch_2.pth")
    (tmp_path / "work/epoch_2.pth").unlink()
    assert main(["train", config, "--resume", "auto"]) == 0
    assert capsys.readouterr().out.startswith("4 iterations after the first 4, ")
    resumed = weights(tmp_path / "work/epoch_2.pth")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert list((tmp_path / "work").glob("*.log.json"))
    again = ["train", config, "--resume", "auto", "--set", "runner.max_epochs=3"]
    assert main(again) == 0
    assert (tmp_path / "work/epoch_3.pth").exists()


def test_a_run_that_a_signal_ends_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping = (
        "def _stop(runner):\n"
        "    if runner.iter == 4: signal.raise_signal(signal.SIGTERM)\n"
        "import signal\n"
        "custom_hooks = [dict(type='ClosureHook', fn_name='after_train_iter', fn=_stop)]"
    )
    with pytest.raises(Preempted):
        main(["train", write(tmp_path, stopping)])
    assert "to go on: the same command with --resume auto" in capsys.readouterr().err
    main(["train", write(tmp_path), "--resume", "auto"])
    assert "iterations after the first 5" in capsys.readouterr().out


def test_all_keys(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "weights.pth")
    config = write(
        tmp_path,
        "runner = dict(type='IterBasedRunner', max_iters=6)\n"
        "lr_config = dict(policy='step', step=2)\n"
        "momentum_config = None\n"
        "optimizer_config = dict(grad_clip=dict(max_norm=1.0))\n"
        "checkpoint_config = dict(interval=3)\n"
        "log_config = dict(interval=2, hooks=[dict(type='TextLoggerHook')])\n"
        "timer_config = dict(type='IterTimerHook')\n"
        "evaluation = dict(interval=2, save_best='acc')\n"
        "custom_hooks = [dict(type='EMAHook', priority=45)]\n"
        "workflow = [('train', 2), ('val', 1)]\n"
        "exp_name, device = 'mine', 'cpu'",
    )
    assert main(["train", config]) == 0
    assert (tmp_path / "work/iter_3.pth").exists()
    assert (tmp_path / "work/best_acc_iter_2.pth").exists()
    log = next((tmp_path / "work").glob("*.log.json")).read_text()
    assert '"exp_name": "mine"' in log
    assert log.count('"mode": "train"') == 3


def test_data_from_one_function_and_json(tmp_path: Path) -> None:
    (tmp_path / "my_factories.py").write_text(
        "from tests.support import TinyModel, make_loader\n"
        "def data(): return dict(train=make_loader(2))\n"
        "def model(seed=0): return TinyModel(seed)\n"
        "def loader(batches): return make_loader(batches)\n"
    )
    config = {
        "model": "my_factories.model",
        "data": {"train": {"type": "my_factories.loader", "batches": 2}},
        "optimizer": {"type": "SGD", "lr": 0.1},
        "runner": {"max_epochs": 1},
        "work_dir": str(tmp_path / "json"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["train", str(tmp_path / "config.json")]) == 0
    (tmp_path / "config.py").write_text(
        "from my_factories import data, model\n"
        "optimizer, runner = dict(type='SGD', lr=0.1), dict(max_epochs=1)\n"
        f"work_dir = {str(tmp_path / 'python')!r}\n"
    )
    assert main(["train", str(tmp_path / "config.py")]) == 0
    one, other = (weights(tmp_path / each / "epoch_1.pth") for each in ("json", "python"))
    assert all(torch.equal(one[name], other[name]) for name in one)


WRONG = {
    "misspelt": (
        "optimzer_config = {}",
        "no key 'optimzer_config'. Did you mean 'optimizer_config'",
    ),
    "own name": ("epochs = 3", "A name of your own begins with an underscore"),
    "model object": ("model = TinyModel()", "model is a factory: a function"),
    "no module": ("model = dict", "the factory 'model' makes a torch.nn.Module, not {}"),
    "no factory there": ("model = 'tests.support.TinyModle'", "Did you mean 'TinyModel'?"),
    "factory without type": ("model = dict(tpye='x')", "needs the key 'type' (instead of 'tpye'?)"),
    "factory's argument": ("model = dict(type=TinyModel, sed=1)", "Did you mean 'seed'?"),
    "data": ("data = 3", "data is dict(train=FACTORY, val=FACTORY)"),
    "data's key": ("data = dict(trian=loader)", "Did you mean 'train'?"),
    "no train": ("data = dict(val=loader)", "data needs the key 'train'"),
    "data's function": ("data = lambda: 3", "the function 'data' returns a dict of loaders"),
    "optimizer": ("optimizer = dict(type='SDG', lr=0.1)", "Did you mean 'SGD'"),
    "runner": ("runner = 3", "runner is a dict such as"),
    "no length": ("runner = dict(max_epoch=1)", "'max_epochs' (instead of 'max_epoch'?)"),
    "policy": ("lr_config = dict(policy='stpe')", "lr_config: no policy is called 'stpe'"),
    "no hook": ("custom_hooks = [dict(type='SGD')]", "'SGD' is not in the hook registry"),
    "class that is no hook": ("custom_hooks = [dict(type=dict)]", "must build a hook"),
    "evaluation": ("evaluation = True", "evaluation is a dict of EvalHook's arguments"),
    "evaluation without data": ("data = dict(train=data['train'])\nevaluation = {}", "key 'val'"),
    "workflow": ("workflow = [('train',)]", "workflow is a list such as [('train', 1)]"),
    "phase": ("workflow = [('trian', 1)]", "no data for 'trian'. Did you mean 'train'?"),
    "monitor": ("evaluation = dict(save_best='acuracy')", "acuracy"),
    "code": ("1 / 0", "config.py, line 12: ZeroDivisionError: division by zero"),
    "syntax": ("x = (", "config.py, line 12: SyntaxError: "),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_configs_are_said_in_one_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line, message = WRONG[name]
    check_told(["train", write(tmp_path, line)], message, capsys)


PLACES = {
    "custom_hooks = [dict(type='TextLoggerHook'), dict(type='EMAHook', momentum=7)]": (
        "(in custom_hooks[1], EMAHook)"
    ),
    "custom_hooks = [dict(type='IterTimerHook'), None]": ": custom_hooks[1] is a config dict or",
    "custom_hooks = dict(type='EMAHook', priority='LOW')": "(in custom_hooks, EMAHook)",
    "custom_hooks = 'EMAHook'": ": custom_hooks is a hook, a config dict or a list",
    "lr_config = dict(policy='step', step=[1], gama=0.1)": "(in lr_config)",
    "lr_config = 'step'": "not 'step': dict(policy='step') is a config",
    "log_config = dict(hooks=[dict(type='CsvLoggerHook', interval=0)])": (
        "(in log_config['hooks'][0], CsvLoggerHook)"
    ),
    "evaluation = dict(interval=0)": "(in evaluation)",
    "evaluation = dict(priority='LO')": "(in evaluation)",
    "workflow = [('train', -1)]": ": workflow: the count of phase",
    "optimizer = dict(type='SGD', lrr=0.1)": "(in optimizer)",
    "runner = dict(max_epochs=1, work_dr='x')": "(in runner)",
    "runner = dict(type=dict, max_epochs=1)": "runner must build a runner",
    "data = lambda: 1 / 0": "(in data)",
    "model = lambda: 1 / 0": "(in model)",
    "device = 'gpu'": "(in device)",
    "seed = -1": "(in seed)",
    "load_from = 'absent.pth'": "(in load_from)",
    "resume_from = 'absent.pth'": "(in resume_from)",
    "load_from = 3": "named by a path or a URI, not by 3",
    "resume_from = 3": "named by a path or a URI, not by 3",
    "work_dir = 3": "work_dir must be a path or None, not int",
}


@pytest.mark.parametrize("line", PLACES)
def test_errors_name_the_key_as_the_config_has_it(
    tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    check_told(["train", write(tmp_path, line)], PLACES[line], capsys)


@pytest.mark.parametrize("key", ["model", "data", "optimizer", "runner"])
def test_missing_keys(tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_told(["train", write(tmp_path, without=key)], f"the config needs the key {key!r}", capsys)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.lrr=1", "--set optimizer.lrr: optimizer has no key 'lrr'. Did you mean 'lr'?"),
        ("optimiser.lr=1", "the config has no key 'optimiser'. Did you mean 'optimizer'?"),
        ("optimizer_config.grad_clip=None", "the config has no key 'optimizer_config'"),
        ("sed=1", "Did you mean 'seed'?"),
        ("seed", "--set takes key=value, not 'seed'"),
        ("=1", "--set takes key=value"),
        ("seed.a=1", "seed is neither a dict nor a list, but 3"),
        ("seed=many", "a seed is an int, not 'many'"),
    ],
)
def test_wrong_settings(
    tmp_path: Path, setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    check_told(["train", write(tmp_path), "--set", setting], message, capsys)


def test_settings_change_copies() -> None:
    config = {"log_config": {"hooks": [{"type": "A"}, {"type": "B"}]}, "workflow": [("train", 1)]}
    before = json.dumps(config)
    settings = ["log_config.hooks.1.type=C", "workflow=[('train', 2)]", "seed=null", "device=cpu"]
    changed = apply_settings(config, settings)
    assert changed == {
        "log_config": {"hooks": [{"type": "A"}, {"type": "C"}]},
        "workflow": [("train", 2)],
        "seed": None,
        "device": "cpu",
    }
    assert json.dumps(config) == before
    with pytest.raises(ValueError, match=r"log_config.hooks is a list of 2"):
        apply_settings(config, ["log_config.hooks.2.type=C"])


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").write_text("a file")
    check_told(["train", write(tmp_path)], "work", capsys)


SHARED = """
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from hookrun import ResumableDistributedSampler, TrainStep

DATA = TensorDataset(torch.arange(64.0).reshape(16, 4) / 64, torch.arange(16) % 2)
def model(): return TrainStep(torch.nn.Linear(4, 2), cross_entropy)
def share(): return ResumableDistributedSampler(DATA, shuffle=False)
def train(): return DataLoader(DATA, {batch_size}, sampler=share())
def val(): return DataLoader(DATA, 4, sampler=share())
def all_samples(): return DataLoader(DATA, 4)
def metrics(outputs, targets): return dict(acc=(outputs.argmax(1) == targets).float().mean())
data = dict(train={train}, val=val)
optimizer = dict(type="SGD", lr=0.1)
optimizer_config = dict(grad_clip=dict(max_norm=0.1))
evaluation = dict(save_best="acc", metrics=metrics)
runner = dict(max_epochs=2)
seed = 3
work_dir = {work_dir!r}
"""


def start(tmp_path: Path, world_size: int, train: str = "train") -> list[programs.Program]:
    """`hookrun train` in so many processes, as torchrun starts them."""
    folder = tmp_path / str(world_size)
    folder.mkdir()
    config = folder / "config.py"
    config.write_text(
        SHARED.format(batch_size=8 // world_size, train=train, work_dir=str(folder / "work"))
    )
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    shared |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return [
        programs.Program(
            *("-m", "hookrun.cli", "train", config),
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            interactive=False,
        )
        for rank in range(world_size)
    ]


def test_two_processes_end_with_the_weights_of_one(tmp_path: Path) -> None:
    ended = []
    for world_size in (1, 2):
        running = start(tmp_path, world_size)
        outputs = [program.communicate(timeout=120) for program in running]
        assert [program.returncode for program in running] == [0] * world_size, outputs
        assert "iterations, " in outputs[0][0]
        assert [out for out, _ in outputs[1:]] == [""] * (world_size - 1)
        work_dir = tmp_path / str(world_size) / "work"
        ended.append(weights(work_dir / "epoch_2.pth"))
        assert list(work_dir.glob("best_acc_*.pth"))
    alone, together = ended
    assert alone.keys() == together.keys()
    for name, weight in alone.items():
        torch.testing.assert_close(weight, together[name], rtol=0, atol=1e-6)


def test_a_loader_that_gives_all_ranks_the_same_is_warned_about(tmp_path: Path) -> None:
    running = start(tmp_path, 2, train="all_samples")
    told = [program.communicate(timeout=120)[1] for program in running]
    assert ["gives every rank all samples" in each for each in told] == [True, False]


def test_the_hooks_are_shown_in_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_told(["hooks", write(tmp_path)], "this command runs in one process", capsys)


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path, "model = lambda: 1 / 0")
    check_told(["train", config], "division by zero (in model) (--debug shows", capsys)
    for arguments in (["train", config, "--debug"], ["--debug", "train", config]):
        assert main(arguments) == 1
        assert "Traceback" in capsys.readouterr().err


def test_the_page_has_all_keys_and_no_others() -> None:
    page = (ROOT / "docs" / "config.md").read_text()
    assert tuple(re.findall(r"^\| `(\w+)` \|", page, re.M)) == (
        "model", "data", "optimizer", "runner", *KEYS[4:],
    )  # fmt: skip


def check_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command fails, and says why in one line; the log's lines may come before."""
    assert main(arguments) == 1
    captured = capsys.readouterr()
    last = captured.err.removesuffix("\n").rpartition("\n")[2]
    assert last.startswith(f"hookrun {arguments[0]}: ")
    assert message in last
    assert "Traceback" not in captured.err
    assert os.getcwd() not in last
