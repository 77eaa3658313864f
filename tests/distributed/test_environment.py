"""Who this process is, in one process."""

from __future__ import annotations

import torch
from torch import nn

from hookrun import allreduce_params, get_dist_info, master_only
from hookrun.distributed import is_module_wrapper, unwrap_model


def test_one_process_is_the_master() -> None:
    assert get_dist_info() == (0, 1)


def test_master_only_runs_here_and_keeps_the_functions_name() -> None:
    @master_only
    def add(a: int, b: int = 1) -> int:
        """Adds."""
        return a + b

    assert add(2, b=3) == 5
    assert (add.__name__, add.__doc__) == ("add", "Adds.")


def test_nothing_is_averaged_in_one_process() -> None:
    values = [torch.tensor([1.0, 2.0]), torch.tensor(3)]
    allreduce_params(values)
    assert [value.tolist() for value in values] == [[1.0, 2.0], 3]


def test_a_parallel_wrapper_is_taken_off() -> None:
    model = nn.Linear(1, 1)
    wrapper = nn.DataParallel(model)
    assert is_module_wrapper(wrapper)
    assert not is_module_wrapper(model)
    assert unwrap_model(wrapper) is model
    assert unwrap_model(model) is model
    model.module = nn.Linear(1, 1)  # a part that happens to have the name
    assert unwrap_model(model) is model


def test_wrappers_of_wrappers_and_compiled_models_are_taken_off() -> None:
    model = nn.Linear(1, 1)
    compiled = torch.compile(model, backend="eager")
    assert unwrap_model(compiled) is model
    assert unwrap_model(nn.DataParallel(compiled)) is model
