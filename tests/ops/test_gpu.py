"""What only a GPU shows: no host syncs, graphs, streams. `benchmarks/gpu.sh` runs these."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from hookrun.ops import (
    FusedStep,
    LossScale,
    clip_grad_norm_,
    convert_,
    ema_update_,
    explain,
    grad_norm,
    pack_,
    swap_,
    unpack_,
    unscale_,
)

from .support import assert_same_bits

pytestmark = pytest.mark.gpu

SHAPES = [(64, 3, 7, 7), (64,), (1000, 257), (17,), (), (70_000,)]


@pytest.fixture(autouse=True)
def _free_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOKRUN_BACKEND", raising=False)


@pytest.fixture
def nobody_waits() -> Iterator[Callable[[], None]]:
    """Call it, and from then on a wait for the device is an error."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


class Recipe:
    """Parameters with static gradients, as a captured graph needs them, and a fused step.

    Args:
        kind: the optimizer's class.
        low: dtype of the model's parameters, of which the optimizer has fp32 masters; None for an
            fp32 model.
    """

    def __init__(self, kind: type, low: torch.dtype | None, **options: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        values = [torch.randn(s, generator=generator).cuda() for s in SHAPES]
        self.params = [Parameter(value) for value in values]
        self.model = self.params
        if low is not None:
            self.model = [Parameter(value.to(low)) for value in values]
            self.model[1] = self.params[1]  # kept in fp32, as norm layers are
        self.ema = [value.clone() for value in values]
        self.optimizer = kind(self.params, lr=0.01, **options)
        self.scaler = LossScale(8.0, growth_interval=3) if low is not None else None
        self.step = FusedStep(
            self.optimizer,
            grad_clip={"max_norm": 1.0},
            loss_scaler=self.scaler,
            ema=self.ema,
            ema_momentum=0.1,
            model_params=None if low is None else self.model,
            skip_nonfinite=True,
        )
        for model in self.model:
            model.grad = torch.zeros_like(model)

    def fill_grads(self, number: int, bad: bool = False) -> None:
        generator = torch.Generator().manual_seed(number)
        for model in self.model:
            assert model.grad is not None
            model.grad.copy_(torch.randn(model.shape, generator=generator))
        if bad:
            assert self.model[2].grad is not None
            self.model[2].grad[-1, -1] = math.inf

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def tensors(self) -> list[Tensor]:
        state = [
            value
            for param in self.params
            for value in self.optimizer.state[param].values()
            if isinstance(value, Tensor)
        ]
        return [*(p.detach() for p in [*self.params, *self.model]), *self.ema, *state]


RECIPES: dict[str, Callable[[], Recipe]] = {
    "fp16, adamw": lambda: Recipe(torch.optim.AdamW, torch.float16),
    "bf16, sgd": lambda: Recipe(torch.optim.SGD, torch.bfloat16, momentum=0.9, dampening=0.1),
    "fp32, sgd": lambda: Recipe(torch.optim.SGD, None, momentum=0.9, nesterov=True),
    "fp32, adamw": lambda: Recipe(torch.optim.AdamW, None),
}
BAD = (False, False, True, False, False, False, True, True, False, False)


@pytest.mark.parametrize("name", RECIPES)
def test_nobody_waits(name: str, nobody_waits: Callable[[], None]) -> None:
    recipe = RECIPES[name]()
    recipe.fill_grads(0)
    recipe.step.step()  # initializes the state and compiles the kernels
    nobody_waits()
    for number in range(5):
        recipe.set_rate(0.01 / (number + 1))
        for model in recipe.model:  # at new addresses
            assert model.grad is not None
            model.grad = model.grad.clone()
        recipe.step.step()
        loss = torch.ones((), device="cuda")
        if recipe.scaler is not None:
            loss = loss * recipe.scaler.scale
    assert "latest call: triton" in explain().split("FusedStep:")[1]


def test_no_operation_waits(nobody_waits: Callable[[], None]) -> None:
    a, b = ([torch.randn(s, device="cuda") for s in SHAPES] for _ in range(2))
    params = [Parameter(t.clone()) for t in a]
    for param, grad in zip(params, b, strict=True):
        param.grad = grad.clone()
    flat = torch.empty(sum(t.numel() for t in a), device="cuda")
    flag = torch.zeros((), device="cuda")

    def run() -> None:
        ema_update_(a, b, 0.1)
        swap_(a, b)
        convert_(a, b)
        pack_(flat, a)
        unpack_(b, flat)
        grad_norm(a)
        unscale_(a, 0.5, flag)
        unscale_(a, flag + 1, flag)
        clip_grad_norm_(params, 1.0)

    run()
    nobody_waits()
    run()


@pytest.mark.parametrize("name", RECIPES)
def test_a_captured_step_follows_rate_scale_and_overflow(name: str) -> None:
    eager, graphed = RECIPES[name](), RECIPES[name]()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for recipe in (eager, graphed):
            recipe.fill_grads(100)
            recipe.step.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        graphed.step.step()
    assert_same_bits(graphed.tensors(), eager.tensors())  # capturing does nothing
    for number, bad in enumerate(BAD):
        for recipe in (eager, graphed):
            recipe.fill_grads(number, bad)
            recipe.set_rate(0.01 * (number + 1))
        eager.step.step()
        graphed.step.refresh()
        graph.replay()
        assert_same_bits(graphed.tensors(), eager.tensors())
        assert graphed.step.grad_norm is not None
        assert eager.step.grad_norm is not None
        assert_same_bits([graphed.step.grad_norm], [eager.step.grad_norm])
        if eager.scaler is not None and graphed.scaler is not None:
            assert float(graphed.scaler.scale) == float(eager.scaler.scale)
    assert int(graphed.step.skipped_steps) == int(eager.step.skipped_steps) == sum(BAD)
    for recipe in (eager, graphed):  # and on without the graph
        recipe.fill_grads(50)
        recipe.step.step()
    assert_same_bits(graphed.tensors(), eager.tensors())


def test_capturing_without_a_step_before_is_refused() -> None:
    recipe = RECIPES["fp32, adamw"]()
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="warm-up"), torch.cuda.graph(graph):
        recipe.step.step()


@pytest.mark.parametrize("name", RECIPES)
def test_a_side_stream_and_a_repetition_give_the_same_bits(name: str) -> None:
    results = []
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()):
        recipe = RECIPES[name]()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for number, bad in enumerate(BAD):
                recipe.fill_grads(number, bad)
                recipe.step.step()
        torch.cuda.current_stream().wait_stream(stream)
        results.append(recipe.tensors())
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


@pytest.mark.parametrize("name", RECIPES)
def test_steps_on_changing_streams_give_the_same_bits(name: str) -> None:
    results = []
    for streams in ([torch.cuda.current_stream()] * 2, [torch.cuda.Stream(), torch.cuda.Stream()]):
        recipe = RECIPES[name]()
        torch.cuda.synchronize()
        for number, bad in enumerate(BAD):
            stream, other = streams[number % 2], streams[1 - number % 2]
            stream.wait_stream(other)  # for the parameters; the tables are FusedStep's own
            with torch.cuda.stream(stream):
                recipe.fill_grads(number, bad)
                recipe.step.step()
        torch.cuda.synchronize()
        results.append(recipe.tensors())
    assert_same_bits(*results)


@pytest.mark.parametrize("name", RECIPES)
def test_four_launches_at_most(name: str) -> None:
    recipe = RECIPES[name]()
    recipe.fill_grads(0)
    for _ in range(2):
        recipe.step.step()
    torch.cuda.synchronize()
    recipe.set_rate(0.5)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        recipe.step.step()
        torch.cuda.synchronize()
    launched = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    assert 0 < len(launched) <= 4, [e.name for e in launched]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("how", [{"fused": True}, {"capturable": True}, {}])
def test_torchs_own_step_goes_on_from_ours(kind: type, how: dict[str, bool]) -> None:
    ours = [Parameter(torch.ones(33, device="cuda"))]
    theirs = [Parameter(torch.ones(33, device="cuda"))]
    mine, other = kind(ours, lr=0.1, **how), kind(theirs, lr=0.1, **how)
    step = FusedStep(mine)
    for number in range(6):
        for params in (ours, theirs):
            params[0].grad = torch.full((33,), 1.0 + number, device="cuda")
        step.step() if number % 2 else mine.step()
        other.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.long
def test_offsets_past_32_bits() -> None:
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free device memory")
    size = 2**32 + 40
    a = torch.zeros(size, dtype=torch.float16, device="cuda")
    b = torch.zeros(size, dtype=torch.float16, device="cuda")
    b[-1], b[2**31 + 3] = 2.0, 3.0
    swap_([a], [b])
    assert (float(a[-1]), float(a[2**31 + 3]), float(b[-1])) == (2.0, 3.0, 0.0)
    assert float(grad_norm([a])) == pytest.approx(13**0.5)
