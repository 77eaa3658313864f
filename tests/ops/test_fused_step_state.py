"""FusedStep beside torch.optim where gradients, parameters and state change under way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from hookrun.ops import FusedStep, LossScale, explain

from .support import assert_same_bits

KINDS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.3, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, backend: str) -> Callable[[Any], Any]:
    quick = backend != "triton" or request.param in ("nesterov", "adamw")
    if not quick and not request.config.getoption("--long"):
        pytest.skip("Triton's interpreter is slow; --long runs it")
    return KINDS[request.param]


def make_params(dtype: torch.dtype = torch.float32) -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(33,), (4, 3, 5, 5), (2, 3, 2, 4, 4), (), (0,)]
    values = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    values[1] = values[1].to(memory_format=torch.channels_last)
    values[2] = values[2].to(memory_format=torch.channels_last_3d)
    return [Parameter(v) for v in values]


def set_grads(params: list[Parameter], number: int, scale: float = 1.0) -> None:
    """Row-major gradients, the same for each list of parameters."""
    generator = torch.Generator().manual_seed(number)
    for param in params:
        grad = torch.randn(param.shape, generator=generator)
        param.grad = (grad * scale).to(param.dtype) if param.requires_grad else None


class Trio:
    """One training three times: ours, torch's, and torch's in fp64 as the truth."""

    def __init__(self, kind: Callable[[Any], Any], **arguments: Any) -> None:
        self.sides = [make_params(), make_params(), make_params(torch.float64)]
        self.optimizers = [kind(params) for params in self.sides]
        self.step = FusedStep(self.optimizers[0], **arguments)

    def run(self, numbers: range, change: Callable[..., None] = lambda *_: None) -> None:
        for number in numbers:
            for params, optimizer in zip(self.sides, self.optimizers, strict=True):
                set_grads(params, number)
                change(params, optimizer, number)
                if optimizer is not self.optimizers[0]:
                    optimizer.step()
            self.step.step()

    def check(self) -> None:
        """Ours is as near to the truth as torch's."""
        for mine, other, truth in zip(*self.sides, strict=True):
            if truth.numel() > 0:
                error, torchs = (float((p - truth).abs().max().detach()) for p in (mine, other))
                assert error <= max(2 * torchs, 5e-6), (error, torchs)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("tens", [2, pytest.param(6, marks=pytest.mark.long)])
def test_gradients_that_come_and_go_and_parameters_that_freeze(kind: Any, tens: int) -> None:
    def change(params: list[Parameter], optimizer: Any, number: int) -> None:
        for i, param in enumerate(params):
            if (number + i) % 5 == 0 or (i == 0 and number < 7):
                param.grad = None  # the first one's arrives late
        params[1].requires_grad_(not 10 * tens <= 3 * number < 20 * tens)  # frozen, then not
        if number == 5 * tens:
            params.append(Parameter(torch.ones(9, dtype=params[0].dtype)))
            optimizer.add_param_group({"params": [params[-1]], "lr": 0.003})

    trio = Trio(kind)
    trio.run(range(10 * tens), change)
    trio.check()


def test_a_parameter_that_its_group_names_twice_is_stepped_once(kind: Any) -> None:
    ours, theirs = make_params(), make_params()
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = kind([*ours, ours[0]])
    other = kind(theirs)
    averages = [p.detach().clone() for p in [*ours, ours[0]]]
    step = FusedStep(optimizer, ema=averages, ema_momentum=1.0, grad_clip={"max_norm": 1e3})
    for number in range(3):
        set_grads(ours, number)
        set_grads(theirs, number)
        step.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert_same_bits(averages[:-1], [p.detach() for p in ours])
    norm = torch.cat([p.grad.reshape(-1) for p in ours if p.grad is not None]).norm()
    torch.testing.assert_close(step.grad_norm, norm)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_momentum_is_as_precise_as_gradients_that_are_more_precise_than_parameters(
    backend: str, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    if backend == "cpu":  # whose kernels take one dtype: the rest is plain torch's
        monkeypatch.delenv("HOOKRUN_BACKEND")

    def train(fused: bool) -> tuple[Tensor, Tensor]:
        param = Parameter(torch.linspace(-1, 1, 40).to(dtype))
        param.grad_dtype = torch.float32
        optimizer = torch.optim.SGD([param], lr=0.01, momentum=0.99)
        step = FusedStep(optimizer) if fused else optimizer
        for number in range(12):
            generator = torch.Generator().manual_seed(number)
            param.grad = torch.randn(40, generator=generator) / 64
            step.step()
        return param.detach(), optimizer.state[param]["momentum_buffer"]

    (ours, buffer), (theirs, expected) = train(True), train(False)
    assert buffer.dtype == torch.float32
    torch.testing.assert_close(buffer, expected)
    torch.testing.assert_close(ours, theirs)


def test_parameters_that_are_one_module_twice() -> None:
    """Modules that share a parameter: it is listed once, and its gradient is the sum."""
    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    second.weight = first.weight
    model = torch.nn.Sequential(first, second)
    other = copy.deepcopy(model)
    ours = torch.optim.AdamW(model.parameters(), lr=0.1)
    theirs = torch.optim.AdamW(other.parameters(), lr=0.1)
    step = FusedStep(ours)
    for _ in range(3):
        for each, do in ((model, step.step), (other, theirs.step)):
            each.zero_grad()
            each(torch.ones(2, 3)).square().sum().backward()
            do()
    torch.testing.assert_close([*model.parameters()], [*other.parameters()])


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_saved_state_goes_on_in_torchs_step_and_the_other_way_round(
    kind: Any, ours_first: bool
) -> None:
    trio = Trio(kind)
    plain = trio.optimizers[0].step

    def run(numbers: range, fused: bool) -> None:
        for number in numbers:
            for params, optimizer in zip(trio.sides, trio.optimizers, strict=True):
                set_grads(params, number)
                if optimizer is not trio.optimizers[0]:
                    optimizer.step()
            trio.step.step() if fused else plain()

    run(range(10), ours_first)
    saved = copy.deepcopy(trio.optimizers[0].state_dict())
    trio.optimizers[0] = kind(trio.sides[0])
    trio.optimizers[0].load_state_dict(saved)
    plain, trio.step = trio.optimizers[0].step, FusedStep(trio.optimizers[0])
    run(range(10, 20), not ours_first)
    trio.check()
    theirs = trio.optimizers[1].state_dict()
    assert trio.optimizers[0].state_dict()["state"].keys() == theirs["state"].keys()
    for key, state in theirs["state"].items():
        for name, value in state.items():
            mine = trio.optimizers[0].state_dict()["state"][key][name]
            assert (mine.dtype, mine.shape) == (value.dtype, value.shape)
            torch.testing.assert_close(mine, value, rtol=1e-4, atol=1e-5)


def test_a_state_in_another_order_is_laid_out_anew_once(backend: str) -> None:
    params = make_params()
    optimizer = KINDS["sgd"](params)
    set_grads(params, 0)
    optimizer.step()  # torch lays the buffer out as its row-major gradient
    assert optimizer.state[params[1]]["momentum_buffer"].is_contiguous()
    step = FusedStep(optimizer)
    step.step()
    buffer = optimizer.state[params[1]]["momentum_buffer"]
    assert f"latest call: {backend}" in explain().split("FusedStep: ")[1]
    if backend != "reference":
        assert buffer.stride() == params[1].stride()
    step.step()
    assert optimizer.state[params[1]]["momentum_buffer"] is buffer


def overflow(params: list[Parameter]) -> None:
    assert params[0].grad is not None
    params[0].grad[-1] = torch.inf


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("bad", "scales"),
    [
        ({0}, [4, 4, 4, 8, 8]),  # the first step, where dampening has no buffer yet
        ({0, 1}, [4, 2, 2, 2, 4]),  # twice in a row
        ({2}, [8, 8, 4, 4, 4]),  # where the scale was about to grow
        ({0, 1, 2, 3, 4}, [4, 2, 1, 1, 1]),  # down to the floor
        (set(), [8, 8, 8, 16, 16]),  # up to the ceiling
    ],
)
def test_overflow(kind: Any, bad: set[int], scales: list[float]) -> None:
    ours, theirs = make_params(), make_params()
    mine, other = kind(ours), kind(theirs)
    growth = 3
    scaler = LossScale(8.0, growth_interval=growth, min_scale=1.0, max_scale=16.0)
    step = FusedStep(mine, loss_scaler=scaler, grad_clip={"max_norm": 2.0})
    seen = []
    for number in range(5):
        set_grads(ours, number, scaler.scale)
        set_grads(theirs, number)
        if number in bad:
            overflow(ours)
            before = copy.deepcopy(mine.state_dict())
        has_state = bool(mine.state)
        step.step()
        if number in bad:
            # On a device the state is initialized all the same: the host does not know of the skip.
            if has_state or not isinstance(scaler.scale, Tensor):
                assert str(mine.state_dict()) == str(before)
        else:
            torch.nn.utils.clip_grad_norm_([p for p in theirs if p.numel()], 2.0)
            other.step()
        seen.append(float(scaler.scale))
    expected = LossScale(8.0, growth_interval=growth, min_scale=1.0, max_scale=16.0)
    for number, scale in enumerate(seen):
        expected.update(number not in bad)
        assert scale == expected.scale
    assert step.skipped_steps == len(bad)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_two_optimizers_share_a_scale() -> None:
    scaler = LossScale(8.0)
    sides = [make_params(), make_params()]
    plain = [make_params(), make_params()]
    optimizers = [KINDS["sgd"](sides[0]), KINDS["adamw"](sides[1])]
    others = [KINDS["sgd"](plain[0]), KINDS["adamw"](plain[1])]
    steps = [FusedStep(o, loss_scaler=scaler, update_scale=False) for o in optimizers]
    for number in range(6):
        for i in (0, 1):
            set_grads(sides[i], 10 * number + i, scaler.scale)
            set_grads(plain[i], 10 * number + i)
        if number in (1, 3):
            overflow(sides[0 if number == 1 else 1])
        for i in (0, 1):
            steps[i].step()
            if (number, i) not in ((1, 0), (3, 1)):
                others[i].step()
        scaler.update()
        assert scaler.scale == {0: 8, 1: 4, 2: 4}.get(number, 2)
    assert [step.skipped_steps for step in steps] == [1, 1]
    for ours, theirs in zip(sides, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_scale_that_two_steps_would_update_is_refused() -> None:
    scaler = LossScale(8.0)
    first, second = make_params(), make_params()
    one = FusedStep(KINDS["sgd"](first), loss_scaler=scaler)
    two = FusedStep(KINDS["sgd"](second), loss_scaler=scaler)
    set_grads(first, 0)
    set_grads(second, 0)
    one.step()
    before = [p.detach().clone() for p in second]
    with pytest.raises(ValueError, match="update_scale=False"):
        two.step()
    assert_same_bits(second, before)
    del one  # a step that is gone is no other
    two.step()
    assert scaler.finite_steps == 2


@pytest.mark.parametrize("coalesced", [True, False])
def test_sparse_gradients_take_torchs_own_step(
    coalesced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOOKRUN_BACKEND")

    def run(fused: bool) -> tuple[Tensor, Tensor | None]:
        table = Parameter(torch.ones(6, 2))
        dense = Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([table, dense], lr=0.1, momentum=0.9)
        step = FusedStep(optimizer, grad_clip={"max_norm": 0.5}, loss_scaler=LossScale(4.0))
        for _ in range(3):
            values = torch.tensor([[3.0, 1.0], [2.0, 2.0], [1.0, -4.0]])
            rows = torch.tensor([[1, 4, 1]])  # the first row comes twice
            scale = 4.0 if fused else 1.0
            grad = torch.sparse_coo_tensor(rows, values * scale, (6, 2), check_invariants=True)
            table.grad = grad.coalesce() if coalesced else grad
            dense.grad = torch.full((3,), 0.1 * scale)
            if fused:
                step.step()
                continue
            whole = torch.cat([table.grad.to_dense().reshape(-1), dense.grad])
            factor = 0.5 / (whole.norm() + 1e-6)
            table.grad, dense.grad = table.grad * factor, dense.grad * factor
            optimizer.step()
        return torch.cat([table.detach().reshape(-1), dense.detach()]), step.grad_norm

    ours, norm = run(True)
    torch.testing.assert_close(ours, run(False)[0], rtol=1e-5, atol=1e-6)
    expected = torch.tensor([4.0, -3.0, 2.0, 2.0, 0.1, 0.1, 0.1]).norm()
    torch.testing.assert_close(norm, expected)
    assert "because grads[0] is sparse" in explain()
    assert len(explain().splitlines()) < 30


def test_the_same_address_with_a_new_shape(kind: Any) -> None:
    store = torch.ones(24)
    results = []
    for fused in (True, False):
        param = Parameter(store[:12].clone())
        grads = store.clone()
        optimizer = kind([param])
        step = FusedStep(optimizer, ema=[torch.zeros(12)], ema_momentum=0.5)
        for shape in ((12,), (3, 4), (2, 6), (4, 3)):
            param.data = param.data.view(shape)
            param.grad = grads[:12].view(shape)
            for state in optimizer.state.get(param, {}).values():
                if isinstance(state, Tensor) and state.dim() > 0:
                    state.set_(state.view(shape))
            assert step.ema is not None
            step.ema = [step.ema[0].view(shape)]
            step.step() if fused else optimizer.step()
        results.append(param.detach().clone())
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_an_own_step_unscales_in_the_masters_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOKRUN_BACKEND")
    master = Parameter(torch.zeros(2))
    half = Parameter(torch.zeros(2, dtype=torch.float16))
    optimizer = torch.optim.Rprop([master], lr=1.0)  # looks at signs alone
    step = FusedStep(optimizer, loss_scaler=LossScale(2.0**16), model_params=[half])
    half.grad = torch.tensor([2.0**-20, -(2.0**-20)], dtype=torch.float16)  # unscaled: 0 in fp16
    step.step()
    assert half.tolist() == [-1.0, 1.0]
    assert half.grad.tolist() == [2.0**-20, -(2.0**-20)]
