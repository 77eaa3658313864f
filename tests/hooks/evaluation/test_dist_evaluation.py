"""DistEvalHook: the metrics of one process, and rank 0's decisions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, DistributedSampler

from hookrun import DistEvalHook, EvalHook
from hookrun.core import HOOKS
from tests.distributed.workers import run_workers
from tests.support import Points, TinyModel, make_loader

from .dist_support import BEGIN, SCORING

ONE_PROCESS_IS_REFERENCE = """
found["results"] = {
    f"{size} {name}": evaluate(size, **arguments)
    for size in sizes
    for name, arguments in {
        "files": {"metric": "bbox"},
        "group": {"gpu_collect": True},
        "metrics": {"metrics": mae},
    }.items()
}
found["left"] = sorted(os.listdir(folder / "run")) if (folder / "run").is_dir() else []
"""


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_ranks_give_the_metrics_of_one_process(tmp_path: Path, world_size: int) -> None:
    sizes = [1, 2, 5, 7, 12]
    program = BEGIN + SCORING + f"sizes = {sizes}\n" + ONE_PROCESS_IS_REFERENCE
    found = run_workers(program, tmp_path, world_size)
    for size in sizes:
        dataset, model = Points(size), TinyModel()
        distances = (model.fc(dataset.x) - dataset.y).abs().flatten().tolist()
        expected = {
            "weighted": sum(n * each for n, each in enumerate(distances)),
            "mae": sum(distances) / size,
        }
        for kind in ("files", "group", "metrics"):
            outputs = found[0]["results"][f"{size} {kind}"]
            assert len(outputs) == 2
            for output in outputs:
                samples = math.ceil(size / world_size)
                assert output.pop("eval_iter_num") == math.ceil(samples / 2)
                assert output == pytest.approx(expected, rel=1e-5), (size, kind)
    assert found[0]["arguments"] == {}
    assert found[0]["left"] == []  # nothing of .eval_hook stays


DECISIONS = """
class Unlike(Points):
    '''Whose scores differ from rank to rank: only those of rank 0 count.'''

    def evaluate(self, results, logger=None):
        found.setdefault("evaluated", []).append(len(results))
        return dict(zip(("acc", "loss"), self.scores[len(found["evaluated"]) - 1]))

scores = [(0.1, 3.0), (0.5, 2.0), (0.5, 1.0), (float("nan"), 0.0)]
own = scores if rank == 0 else scores[::-1]
runner = make_runner(max_epochs=len(scores))
hook = DistEvalHook(loader_of(Unlike(5, scores=own)), save_best=save_best)
runner.register_hook(hook)

class Follow(Hook):
    def watch_evaluation(self, loader):
        for batch in loader:
            found["batches"] = found.get("batches", 0) + 1
            yield batch

    def evaluation_ends(self, runner):
        output = runner.log_buffer.output
        found.setdefault("taken", []).append([output["acc"], output["loss"]])

runner.register_hook(Follow())
runner.run([make_loader(1)], [("train", 1)])
saved = sorted(path.name for path in (folder / "run").glob("best*"))
messages = runner.meta["hook_msgs"]
found |= {"saved": saved, "messages": messages, "key": hook.key_indicator}
if rank == 0:
    file = torch.load(folder / "run" / saved[0])
    found["states"] = sorted(file["hookrun"]["ranks"])
"""


@pytest.mark.parametrize("save_best", ["acc", "auto"])
def test_rank_0_evaluates_and_decides_for_all(tmp_path: Path, save_best: str) -> None:
    program = BEGIN + f"save_best = {save_best!r}\n" + DECISIONS
    found = run_workers(program, tmp_path)
    assert found[0]["evaluated"] == [5] * 4
    assert "evaluated" not in found[1]
    assert found[0]["saved"] == ["best_acc_epoch_2.pth"]
    assert found[0]["states"] == [0, 1]  # the random states of all ranks are in the file
    assert found[0]["messages"] == found[1]["messages"]
    assert found[0]["messages"]["best_score"] == 0.5
    assert [each["key"] for each in found] == ["acc", "acc"]
    for each in found:
        assert each["taken"][:3] == [[0.1, 3.0], [0.5, 2.0], [0.5, 1.0]]
        assert each["batches"] == 4 * 2


THIRD_PARTY = """
class Theirs(DistEvalHook):
    '''In the form of MMCV's own: rank 0 alone evaluates and saves.'''

    def _do_evaluate(self, runner):
        if self.broadcast_bn_buffer:
            for name, module in runner.model.named_modules():
                if isinstance(module, nn.BatchNorm1d) and module.track_running_stats:
                    dist.broadcast(module.running_var, 0)
        tmpdir = self.tmpdir
        if tmpdir is None:
            tmpdir = os.path.join(runner.work_dir, ".eval_hook")
        results = self.test_fn(
            runner.model, self.dataloader, tmpdir=tmpdir, gpu_collect=self.gpu_collect)
        if runner.rank == 0:
            runner.log_buffer.output["eval_iter_num"] = len(self.dataloader)
            key_score = self.evaluate(runner, results)
            if self.save_best and key_score:
                self._save_ckpt(runner, key_score)

for save_best in ("acc", ["acc", "loss"], "auto"):
    runner = make_runner(max_epochs=2)
    scores = [{"acc": 0.1, "loss": 0.5}, {"acc": 0.2, "loss": 0.7}]
    runner.register_hook(Theirs(loader_of(Points(5, scores=scores)), save_best=save_best))
    runner.run([make_loader(1)], [("train", 1)])
    paths = (folder / "run").glob("best*")
    found[str(save_best)] = sorted(path.name for path in paths)
    dist.barrier()
"""


def test_subclasses_in_mmcvs_form_work(tmp_path: Path) -> None:
    found = run_workers(BEGIN + THIRD_PARTY, tmp_path)[0]
    assert found["acc"] == ["best_acc_epoch_2.pth"]
    assert found["['acc', 'loss']"] == ["best_acc_epoch_2.pth", "best_loss_epoch_1.pth"]
    assert "best_acc_epoch_2.pth" in found["auto"]


UNLIKE = """
class Saving(DistEvalHook):
    def _save_ckpt(self, runner, key_score):
        found.setdefault("saved", []).append(key_score)
        super()._save_ckpt(runner, key_score)

def run(kind, scores, messages=None, **arguments):
    meta = {"hook_msgs": messages or {}}
    runner = make_runner(max_epochs=len(scores), meta=meta)
    data = Points(4, scores=scores)
    loader = loader_of(data) if issubclass(kind, DistEvalHook) else DataLoader(data, 4)
    runner.register_hook(kind(loader, save_best="acc", **arguments))
    runner.run([make_loader(1)], [("train", 1)])
    return runner.meta["hook_msgs"]

good, none = [{"acc": 0.3}, {"acc": 0.4}], [{}, {"acc": 0.9}]
known = {"best_score": 0.9, "best_ckpt": "best_acc_epoch_1.pth"}
for kind in (EvalHook, DistEvalHook):
    case = kind.__name__
    found[f"{case} none"] = run(kind, good if rank == 0 else none)
    found[f"{case} known"] = run(kind, good, known if rank == 1 else None)
run(Saving, good)
"""


def test_ranks_that_know_other_scores_follow_rank_0(tmp_path: Path) -> None:
    program = BEGIN.replace("import DistEvalHook,", "import DistEvalHook, EvalHook,") + UNLIKE
    found = run_workers(program, tmp_path)
    for kind in ("EvalHook", "DistEvalHook"):
        for case in ("none", "known"):
            scores = [each[f"{kind} {case}"]["best_score"] for each in found]
            assert scores == [0.4, 0.4], (kind, case)
    assert found[0]["saved"] == [0.3, 0.4]
    assert "saved" not in found[1]  # as in MMCV, where rank 0 alone saves


SEVERAL = """
class Scored(Points):
    def evaluate(self, results, logger=None):
        self.evaluated.append(results)
        return self.scores[len(self.evaluated) - 1] | {"table": ["not", "sent"], "text": "sent"}

scores = [{"acc": 0.1, "loss": 0.5}, {"acc": 0.2, "loss": 0.7}, {"acc": 0.1, "loss": 0.1}]
runner = make_runner(max_epochs=len(scores))
for name in ("one", None):
    loader = loader_of(Scored(5, scores=scores))
    runner.register_hook(DistEvalHook(loader, save_best=["acc", "loss"], name=name))
runner.run([make_loader(1)], [("train", 1)])
found = {"messages": runner.meta["hook_msgs"], "scores": [h.scores for h in runner.hooks]}
if rank == 0:
    found["states"] = {
        path.name: sorted(torch.load(path)["hookrun"]["ranks"])
        for path in (folder / "run").glob("best*")
    }
"""


def test_several_scores_and_hooks(tmp_path: Path) -> None:
    found = run_workers(BEGIN + SEVERAL, tmp_path)
    assert found[0]["messages"] == found[1]["messages"]
    best = {label: each["score"] for label, each in found[0]["messages"]["best"].items()}
    assert best == {"one/acc": 0.2, "one/loss": 0.1, "acc": 0.2, "loss": 0.1}
    assert found[0]["states"] == {
        f"best_{front}{name}.pth": [0, 1]
        for front in ("one_", "")
        for name in ("acc_epoch_2", "loss_epoch_3")
    }
    named, plain = found[1]["scores"]
    assert plain == {"acc": 0.1, "loss": 0.1, "text": "sent"}
    assert named == {f"one/{key}": value for key, value in plain.items()}


STATISTICS = """
import torch.distributed as dist

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.BatchNorm1d(2, dtype=torch.float64)
        self.norms = nn.ModuleList([nn.BatchNorm1d(2), nn.InstanceNorm1d(2, affine=True)])
        self.tracked = nn.InstanceNorm1d(2, track_running_stats=True)
        self.free = nn.BatchNorm1d(2, track_running_stats=False)
        self.other = nn.Linear(2, 1)
        for each in (self.wide, self.norms[0], self.tracked):
            each.running_mean.fill_(rank)
            each.running_var.fill_(rank + 1)

    def train(self, mode=True):
        super().train(mode)
        self.free.eval()
        return self

    def train_step(self, batch, optimizer, **kwargs):
        return {"loss": self.other(batch["x"]).sum()}

    def predict_step(self, batch):
        found["seen"] = [m.tolist() for n, m in self.named_buffers() if "running" in n]
        found["modes"] = [m.training for m in self.modules()]
        return list(self.other(batch["x"]))

counts, original = [], dist.broadcast
dist.broadcast = lambda tensor, *rest, **more: (
    counts.append([str(tensor.dtype), tensor.numel()]), original(tensor, *rest, **more))[1]
for broadcast in (True, False):
    model = Normed()
    runner = make_runner(model, max_epochs=1)
    runner.register_hook(
        DistEvalHook(loader_of(Points(4)), broadcast_bn_buffer=broadcast, gpu_collect=True))
    counts.clear()
    runner.run([make_loader(1)], [("train", 1)])
    floats = [each for each in counts if "float" in each[0]]
    found[str(broadcast)] = [found.pop("seen"), floats]
    found["after"] = [m.training for m in model.modules()]
"""


def test_running_statistics_are_rank_0s_by_one_broadcast_per_dtype(tmp_path: Path) -> None:
    found = run_workers(BEGIN + STATISTICS, tmp_path)
    for rank, each in enumerate(found):
        seen, broadcasts = each["True"]
        assert seen == [[0.0, 0.0], [1.0, 1.0]] * 3
        assert sorted(broadcasts) == [["torch.float32", 8], ["torch.float64", 4]]
        assert each["False"] == [[[float(rank)] * 2, [rank + 1.0] * 2] * 3, []]
        assert not any(each["modes"])
        assert each["after"] == [True] * 6 + [False, True]


UNEVEN = """
from torch.nn.parallel import DistributedDataParallel

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(2), nn.Linear(2, 1)

    def forward(self, x, y=None, return_loss=True):
        return self.fc(self.norm(x))

class Wrapped(DistributedDataParallel):
    def train_step(self, batch, optimizer, **kwargs):
        return {"loss": self(batch["x"]).square().sum()}

class Own:
    '''A sampler that does not pad: rank 1 of a set of one has no sample.'''

    def __iter__(self):
        return iter(range(rank, 1, world_size))

    def __len__(self):
        return len(range(rank, 1, world_size))

def train(evaluate):
    torch.manual_seed(0)
    model = Wrapped(Normed())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    runner = make_runner(model, optimizer=optimizer, max_epochs=2)
    runner.register_optimizer_hook({})
    dataset = Points(1)
    if evaluate:
        runner.register_hook(DistEvalHook(DataLoader(dataset, sampler=Own())))
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(rank))
    batches = [{"x": part} for part in x.split(2)]
    runner.run([batches], [("train", 1)])
    found["lengths"] = [len(each) for each in dataset.evaluated]
    return [p.tolist() for p in model.parameters()]

found["same"] = train(False) == train(True)
"""


def test_ranks_without_a_batch_and_training_in_ddp_goes_on_as_without(tmp_path: Path) -> None:
    found = run_workers(BEGIN + UNEVEN, tmp_path)
    assert [each["same"] for each in found] == [True, True]
    assert [each["lengths"] for each in found] == [[1, 1], []]


def test_without_a_process_group_it_says_what_to_do(make_runner: Callable[..., Any]) -> None:
    runner = make_runner()
    runner.register_hook(DistEvalHook(make_loader()))
    with pytest.raises(RuntimeError, match=r"needs a process group.*init_process_group.*EvalHook"):
        runner.run([make_loader(1)], [("train", 1)])


@pytest.mark.parametrize(
    ("loader", "arguments", "error", "message"),
    [
        ([1], {"metrics": max}, TypeError, "dataset has a length, not list"),
        (3, {}, TypeError, "must be a loader of batches, not int"),
        (make_loader(), {"gpu_collect": 1}, TypeError, "gpu_collect must be a bool"),
        (make_loader(), {"broadcast_bn_buffer": "yes"}, TypeError, "broadcast_bn_buffer must be"),
        (make_loader(), {"interval": 0}, ValueError, "interval must be a positive int"),
        (
            DataLoader(Points(), sampler=DistributedSampler(Points(), 2, 0, shuffle=True)),
            {},
            ValueError,
            r"sampler that shuffles.*DistributedSampler\(dataset, shuffle=False\)",
        ),
    ],
)
def test_bad_arguments(
    loader: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        DistEvalHook(loader, **arguments)


def test_misspelt_arguments_are_found_among_its_own() -> None:
    loader = make_loader()
    loader.dataset.evaluate = lambda results, logger=None: {}  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"'gpu_colect'.*Did you mean 'gpu_collect'"):
        DistEvalHook(loader, gpu_colect=True)


@pytest.mark.parametrize("distributed", [False, True])
def test_the_config_of_a_training_script(
    make_runner: Callable[..., Any], tmp_path: Path, distributed: bool
) -> None:
    config = {"interval": 2, "metric": "bbox", "save_best": "acc"}
    runner, loader = make_runner(max_epochs=2), make_loader()
    runner.register_hook((DistEvalHook if distributed else EvalHook)(loader, **config), "LOW")
    kind = type(runner.hooks[0]).__name__
    assert HOOKS.get(kind) is type(runner.hooks[0])
    runner.register_hook({"type": kind, "dataloader": loader, **config}, priority="LOW")
    assert [(hook.interval, hook.eval_kwargs) for hook in runner.hooks] == [
        (2, {"metric": "bbox"})
    ] * 2
