"""``hookrun.compat.mmcv.install()``: which names are answered by whom."""

from __future__ import annotations

from pathlib import Path

from hookrun.checkpoint import read_checkpoint
from tests.compat.mmcv_runs import ROOT, run_python

INSTALL = "from hookrun.compat.mmcv import install\ninstall()\n"


def outcome(code: str, folder: Path) -> str:
    """What the code prints, run with MMCV beside hookrun."""
    done = run_python("-c", code, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_names_are_the_same_objects_everywhere(tmp_path: Path) -> None:
    """In ``mmcv.runner``, in its submodules, and in hookrun's registry."""
    code = (
        INSTALL + "import importlib, pkgutil, hookrun, mmcv.runner\n"
        "count = 0\n"
        "for found in pkgutil.walk_packages(mmcv.runner.__path__, 'mmcv.runner.'):\n"
        "    module = importlib.import_module(found.name)\n"
        "    for name, value in vars(module).items():\n"
        "        if isinstance(getattr(hookrun, name, None), type) and name in hookrun.HOOKS:\n"
        "            ours = hookrun.HOOKS.get(name)\n"
        "            assert issubclass(ours, getattr(hookrun, name)), name\n"
        "            assert value is ours is getattr(mmcv.runner, name, ours), (found.name, name)\n"
        "            count += 1\n"
        "assert mmcv.runner.HOOKS is mmcv.runner.hooks.hook.HOOKS\n"
        "assert mmcv.runner.HOOKS.module_dict is hookrun.HOOKS.module_dict\n"
        "print(count > 40)"
    )
    assert outcome(code, tmp_path) == "True"


def test_names_of_the_model_zoo_are_mmcvs(tmp_path: Path) -> None:
    code = (
        INSTALL + "from mmcv.runner import BaseModule, ModuleDict, ModuleList, Sequential\n"
        "from mmcv.runner import CheckpointLoader, _load_checkpoint\n"
        "from mmcv.runner.checkpoint import load_from_openmmlab, get_torchvision_models\n"
        "from mmcv.runner.hooks import PaviLoggerHook\n"
        "from hookrun import LoggerHook\n"
        "print(BaseModule.__module__, issubclass(PaviLoggerHook, LoggerHook))"
    )
    assert outcome(code, tmp_path) == "mmcv.runner.base_module True"


def test_mmcvs_build_from_cfg_takes_the_registries(tmp_path: Path) -> None:
    code = (
        INSTALL + "from mmcv.utils import Registry, build_from_cfg\n"
        "from mmcv.runner import HOOKS, RUNNERS, OPTIMIZERS\n"
        "import hookrun\n"
        "hook = build_from_cfg(dict(type='IterTimerHook'), HOOKS)\n"
        "assert type(hook) is hookrun.IterTimerHook\n"
        "assert isinstance(HOOKS, Registry) and 'SGD' in OPTIMIZERS\n"
        "@HOOKS.register_module(name=['A', 'B'])\n"
        "class Own(hookrun.Hook): ...\n"
        "assert hookrun.HOOKS.get('A') is hookrun.HOOKS.get('B') is Own\n"
        "OWN = Registry('own hooks', parent=HOOKS, scope='own')\n"
        "assert type(OWN.build(dict(type='mmcv.CheckpointHook'))) is HOOKS.get('CheckpointHook')\n"
        "print(HOOKS.build(dict(type='Own', name='x')) if 'Own' in HOOKS else 'no Own')"
    )
    assert outcome(code, tmp_path) == "no Own"


def test_files_of_model_zoos_are_loaded(tmp_path: Path) -> None:
    """MMCV's loader gets them, under schemes of MMCV's and of the code base; hookrun loads them."""
    code = (
        INSTALL + "import torch\n"
        "from mmcv.cnn import initialize\n"
        "from mmcv.runner import BaseModule, CheckpointLoader, load_checkpoint\n"
        "@CheckpointLoader.register_scheme(prefixes='shelf://')\n"
        "def load_from_shelf(filename, map_location=None):\n"
        "    return dict(state_dict={'module.weight': torch.full((1, 2), 3.0), filename: 0})\n"
        "model = torch.nn.Linear(2, 1, bias=False)\n"
        "content = load_checkpoint(model, 'shelf://best', map_location='cpu')\n"
        "print(model.weight.tolist(), *content['state_dict'])\n"
        "initialize(other := torch.nn.Linear(2, 1, bias=False),\n"
        "    dict(type='Pretrained', checkpoint='shelf://best'))\n"
        "print(other.weight.tolist())\n"
        "torch.save(dict(weight=torch.ones(1, 2)), 'file.pth')\n"
        "load_checkpoint(model, 'file.pth')\n"
        "print(model.weight.tolist())"
    )
    assert [line for line in outcome(code, tmp_path).splitlines() if "shelf path" not in line] == [
        "[[3.0, 3.0]] module.weight shelf://best",
        "[[3.0, 3.0]]",
        "[[1.0, 1.0]]",
    ]


def test_a_name_is_taken_twice(tmp_path: Path) -> None:
    """A code base may use a name of hookrun's that MMCV does not have; not one that MMCV has."""
    code = (
        INSTALL + "from mmcv.runner import HOOKS, Hook\n"
        "@HOOKS.register_module()\n"
        "class ProgressBarHook(Hook): ...\n"
        "assert HOOKS.get('ProgressBarHook') is ProgressBarHook\n"
        "for again in ('ProgressBarHook', 'CheckpointHook'):\n"
        "    try:\n"
        "        HOOKS.register_module(name=again)(type(again, (Hook,), {}))\n"
        "    except KeyError as error:\n"
        "        print(error.args[0])"
    )
    assert outcome(code, tmp_path).splitlines() == [
        "'ProgressBarHook' is already in the hook registry; force=True replaces it",
        "'CheckpointHook' is already in the hook registry; force=True replaces it",
    ]


def test_too_late(tmp_path: Path) -> None:
    code = "import mmcv.runner\n" + INSTALL
    done = run_python("-c", code, cwd=tmp_path)
    assert "mmcv.runner was imported before install()" in done.stderr


def test_twice(tmp_path: Path) -> None:
    count = "import sys\nprint(len(sys.meta_path))\n"
    assert outcome(f"{INSTALL}{count}", tmp_path) == outcome(f"{INSTALL}{INSTALL}{count}", tmp_path)


def test_configs_in_checkpoints_are_read_as_dicts(tmp_path: Path) -> None:
    """MMCV's files have in ``meta`` what the config gave a hook; no code of MMCV's is run."""
    code = (
        "import torch\n"
        "from mmcv.utils import ConfigDict\n"
        "meta = dict(empty=ConfigDict(), note=ConfigDict(a=1, deep=[dict(b=(2, dict(c=3)))]))\n"
        "torch.save(dict(meta=meta, state_dict={}), 'file.pth')"
    )
    outcome(code, tmp_path)
    meta = read_checkpoint(tmp_path / "file.pth")["meta"]
    assert meta == {"empty": {}, "note": {"a": 1, "deep": [{"b": (2, {"c": 3})}]}}
    assert type(meta["note"]) is type(meta["note"]["deep"][0]["b"][1]) is dict


def test_hooks_of_the_code_base_find_the_checkpoint_of_this_epoch(tmp_path: Path) -> None:
    """Which is written in the background only where nobody but hookrun looks at it."""
    code = (
        INSTALL + f"import logging, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from mmcv.runner import EpochBasedRunner, Hook\n"
        "from tests.support import TinyModel, make_loader\n"
        "class Upload(Hook):\n"
        "    def after_train_epoch(self, runner):\n"
        "        assert Path('epoch_1.pth').is_file()\n"
        "found = []\n"
        "for hooks in ([], [Upload()]):\n"
        "    optimizer = torch.optim.SGD((model := TinyModel()).parameters(), lr=0.1)\n"
        "    given = dict(optimizer=optimizer, work_dir='.', max_epochs=1)\n"
        "    runner = EpochBasedRunner(model, logger=logging.getLogger('x'), **given)\n"
        "    runner.register_training_hooks(dict(policy='fixed'), {}, dict(interval=1))\n"
        "    for hook in hooks:\n"
        "        runner.register_hook(hook)\n"
        "    [saving] = [hook for hook in runner.hooks if 'Checkpoint' in type(hook).__name__]\n"
        "    runner.run([make_loader(2)], [('train', 1)])\n"
        "    found.append(saving.background)\n"
        "    Path('epoch_1.pth').unlink()\n"
        "print(found)"
    )
    assert outcome(code, tmp_path) == "[True, False]"


def test_wrappers_of_a_code_base_are_known(tmp_path: Path) -> None:
    """Registered in ``mmcv.parallel`` or with hookrun; files have no parts of names of theirs."""
    code = (
        INSTALL + "import hookrun, torch\n"
        "from mmcv.parallel import MODULE_WRAPPERS, MMDistributedDataParallel, is_module_wrapper\n"
        "from mmcv.runner.checkpoint import get_state_dict\n"
        "@MODULE_WRAPPERS.register_module()\n"
        "class Own(torch.nn.Module):\n"
        "    def __init__(self, module):\n"
        "        super().__init__()\n"
        "        self.module = module\n"
        "net = Own(torch.nn.Linear(1, 1))\n"
        "print(hookrun.is_module_wrapper(net), is_module_wrapper(net), *get_state_dict(net))\n"
        "print(issubclass(MMDistributedDataParallel, torch.nn.parallel.DistributedDataParallel))\n"
        "@hookrun.MODULE_WRAPPERS.register_module()\n"
        "class Other(Own): ...\n"
        "print('Other' in MODULE_WRAPPERS, 'DistributedTrainStep' in hookrun.MODULE_WRAPPERS)"
    )
    assert outcome(code, tmp_path).splitlines() == ["True True weight bias", "True", "True True"]
