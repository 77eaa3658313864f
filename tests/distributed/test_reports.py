"""Which errors are those of a lost rank: what torch raises then, and nothing that a user says."""

from __future__ import annotations

from pathlib import Path

import pytest

from hookrun import RankError
from hookrun.distributed import is_lost

from .workers import run_workers

PROGRAM = """
import os, time
from datetime import timedelta
from torch.nn.parallel import DistributedDataParallel
from hookrun.distributed import is_lost

patience = timedelta(seconds=1)
groups = [dist.new_group(backend="gloo", timeout=patience) for _ in range(2)]
for group in (*groups, None):
    dist.all_reduce(torch.ones(2), group=group)  # connects the ranks
model = DistributedDataParallel(torch.nn.Linear(2, 2))
done = folder / "done"

def provoke(name, call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except Exception as error:
        found[name] = [is_lost(error), str(error)]

if rank == 1:
    while not done.exists():
        time.sleep(0.01)
    (folder / "1.json").write_text("{}")
    os._exit(0)

provoke("timeout", dist.all_reduce, torch.ones(2), group=groups[0])
provoke("after a timeout", dist.all_reduce, torch.ones(2), group=groups[0])
provoke("barrier", dist.monitored_barrier, group=groups[1], timeout=patience)
provoke("store", dist.group.WORLD.get_group_store().wait, ["absent"], patience)
done.touch()
time.sleep(0.5)
provoke("gone", dist.all_reduce, torch.ones(2))
provoke("async", lambda: dist.all_reduce(torch.ones(2), async_op=True).wait())
provoke("objects", dist.all_gather_object, [None, None], "text")
provoke("backward", lambda: model(torch.ones(1, 2)).sum().backward())
provoke("point to point", dist.recv, torch.ones(2), 1)
(folder / "0.json").write_text(json.dumps(found))
os._exit(0)
"""


def test_errors_of_torch_about_other_ranks(tmp_path: Path) -> None:
    found, _ = run_workers(PROGRAM, tmp_path)
    assert found.keys() == {
        *("timeout", "after a timeout", "barrier", "store"),
        *("gone", "async", "objects", "backward", "point to point"),
    }
    assert [name for name, (lost, _) in found.items() if not lost] == [], found


@pytest.mark.parametrize(
    "text",
    [
        "gloo",
        "this model needs NCCL, not gloo",
        "gloo/data.csv:3] cannot be read",
        "the file [/data/gloo] is missing",
        "Connection closed by peer",
        "database: connection reset",
        "ProcessGroupGloo::allreduce: unsupported device",
        "the loader ended: Wait timeout",
        "Wait timeout of the loader",
        "pair closure",
        "Socket closed",
        "",
    ],
)
def test_errors_of_this_rank(text: str) -> None:
    for kind in (RuntimeError, ValueError, OSError):
        assert not is_lost(kind(text))


def test_an_error_of_a_subclass_is_not_one_of_torch() -> None:
    class Own(RuntimeError): ...

    text = "[/src/gloo/transport/tcp/pair.cc:553] Connection closed by peer"
    assert is_lost(RuntimeError(text))
    assert not is_lost(Own(text))


def test_what_was_raised_from_a_lost_rank_counts() -> None:
    error = ValueError("no result")
    error.__cause__ = RankError("rank 1 has died")
    assert is_lost(error)
    error.__cause__ = None
    error.__context__ = RankError("rank 1 has died")
    assert not is_lost(error)
    assert not is_lost(None)
