"""What all ranks must call, called on one: it says so there, after the timeout, and none hangs."""

from __future__ import annotations

from pathlib import Path

from .workers import run_workers

PROGRAM = """
import os, time
from datetime import timedelta
from hookrun import ClosureHook, EpochBasedRunner, RankError
from tests.distributed.faulty_ranks import Model, wrap
from tests.support import make_loader

def new_group(name):
    if dist.is_initialized():
        dist.destroy_process_group()
    store = f"file://{folder}/{name}"
    timeout = timedelta(seconds=2)
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=world_size, timeout=timeout
    )

def make(wrapper):
    model = wrap(Model(), wrapper)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    work_dir = folder / "run"
    return EpochBasedRunner(model, optimizer=optimizer, work_dir=work_dir, max_epochs=1)

def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.01)

def save(runner):
    runner.save_checkpoint(folder, "{}.sharded", sharded=True, create_symlink=False)

def gather(runner):
    runner.gather_state()

def attempt(name, call, *arguments):
    try:
        call(*arguments)
        found[name] = ""
    except RankError as error:
        found[name] = str(error)

for name, call in {"save": save, "gather": gather}.items():
    new_group("outside " + name)
    runner = make("fsdp")
    attempt(name + " together", call, runner)
    if rank == 0:
        attempt(name, call, runner)
        (folder / (name + ".done")).touch()
    wait_for(name + ".done")
    for where in ("before_train_iter", "after_run"):
        new_group(f"{where} {name}")
        runner = make("fsdp")
        if rank == 0:
            runner.register_hook(ClosureHook(where, call))
        runner.register_hook(ClosureHook("before_run", call))
        attempt(f"{name} {where}", runner.run, [make_loader(3)], [("train", 1)])
        (folder / f"{name}.{where}.{rank}").touch()
        wait_for(f"{name}.{where}.{1 - rank}")
new_group("end")
"""
CALLS = {"save": "save_checkpoint(sharded=True)", "gather": "gather_state()"}


def test_it_says_that_all_ranks_must_call_it(tmp_path: Path) -> None:
    first, second = run_workers(PROGRAM, tmp_path)
    for name, call in CALLS.items():
        assert first[f"{name} together"] == second[f"{name} together"] == ""
        must = f"{call} must be called on all ranks: waited "
        assert first[name].startswith(f"{must}2 s in vain for rank 1: it had called {call}, which")
        within = f"{name} before_train_iter"
        assert first[within].startswith(must)
        assert "rank 0: it had called" in second[within]
        assert f"{call}, which all ranks must call" in second[within]
        after = f"{name} after_run"
        assert first[after].startswith(must)
        assert "rank 1: it had ended its run after iteration 3" in first[after]
        assert second[after] == ""
