"""What runs where, and the threads it runs on."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun._native import cpu
from hookrun.ops import convert_, ema_update_, explain, grad_norm, swap_, unscale_
from tests import programs


def test_explain_tells_what_ran_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOKRUN_BACKEND")
    grad_norm([torch.ones(3)])
    assert "latest call: cpu" in explain().split("clip_grad_norm_:")[0]
    grad_norm([torch.ones(3), torch.ones(3, dtype=torch.int32)])
    assert "because tensors[1] is int32" in explain()
    grad_norm([torch.ones(4, 4)[:, ::2]])
    assert "has gaps between its elements" in explain()
    monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
    grad_norm([torch.ones(3)])
    assert "because HOOKRUN_BACKEND=reference" in explain()
    monkeypatch.setenv("HOOKRUN_BACKEND", "cpu")
    with pytest.raises(RuntimeError, match="int32"):
        grad_norm([torch.ones(3, dtype=torch.int32)])
    monkeypatch.setenv("HOOKRUN_BACKEND", "gpu")
    with pytest.raises(ValueError, match="choose one of reference, cpu"):
        explain()


_ON_META = torch.ones(3, device="meta")


@pytest.mark.parametrize(
    "op",
    [
        lambda: ema_update_([_ON_META], [_ON_META.clone()], 0.1),
        lambda: swap_([_ON_META], [_ON_META.clone()]),
        lambda: convert_([_ON_META], [_ON_META.clone()]),
        lambda: unscale_([_ON_META], 0.5, torch.zeros(1)),
        lambda: grad_norm([_ON_META]),
    ],
)
def test_kernels_of_the_cpu_are_not_asked_about_tensors_elsewhere(
    op: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        pytest.fail("the CPU kernels were asked")

    for name in ("ema_update", "swap", "convert", "unscale", "norm"):
        monkeypatch.setattr(cpu, name, fail)
    monkeypatch.delenv("HOOKRUN_BACKEND")
    with pytest.raises(ValueError, match="meta device"):
        op()


def _norm_in_a_worker(queue: Any, tensors: list[torch.Tensor]) -> None:
    queue.put(float(grad_norm(tensors)))


def test_a_forked_process_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKRUN_BACKEND", "cpu")  # torch's own threads do hang there
    torch.set_num_threads(2)
    tensors = [torch.ones(3_000_000)]
    grad_norm(tensors)  # the pool has threads now, which a fork does not copy
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_norm_in_a_worker, args=(queue, tensors))
    worker.start()
    assert queue.get(timeout=60) == pytest.approx(3_000_000**0.5)
    worker.join(timeout=60)
    assert worker.exitcode == 0


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    params = [torch.randn(1_500_000), torch.randn(7), torch.randn(700_000)]
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        ema = [torch.zeros_like(p) for p in params]
        for _ in range(3):
            ema_update_(ema, params, 0.1)
        results.append(torch.cat(ema))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_the_kernels_use_torchs_threads_and_start_none() -> None:
    code = (
        "import os, torch; from hookrun.ops import grad_norm; torch.set_num_threads(2); "
        "x = [torch.ones(3_000_000)]; torch.ones(3_000_000).mul_(2); "
        "before = len(os.listdir('/proc/self/task')); grad_norm(x); "
        "print(len(os.listdir('/proc/self/task')) - before)"
    )
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("no /proc to count threads in")
    result = programs.run("-c", code)
    assert result.stdout.split() == ["0"], result.stderr


def test_the_same_is_refused_where_torch_has_no_exchange_table() -> None:
    """The compiled kernels can read no tensor then, and the reference does everything."""
    code = (
        "import sys, pytest, torch; del torch.Tensor.__dlpack_c_exchange_api__; "
        "sys.exit(pytest.main(['-q', '-k', 'not cpu and not no_kernel_takes', *sys.argv[1:]]))"
    )
    here = Path(__file__).parent
    files = [str(here / name) for name in ("test_arguments.py", "test_fused_step_refusals.py")]
    environment = {**os.environ, "HOOKRUN_BACKEND": ""}
    result = programs.run("-c", code, *files, env=environment)
    assert result.returncode == 0, result.stdout[-3000:]
