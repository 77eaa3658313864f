"""Misspelt methods of hooks are refused when the hook is registered."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hookrun
from hookrun import ClosureHook, Hook
from hookrun.core import EVENTS
from hookrun.core.spelling import check_spelling

MISSPELT = {
    "after_trian_iter": "after_train_iter",
    "after_train_itr": "after_train_iter",
    "after_train_iters": "after_train_iter",
    "afterTrainIter": "after_train_iter",
    "after_traniter": "after_train_iter",
    "after_iter_train": "after_train_iter",
    "after_training_iteration": "after_train_iter",
    "befor_run": "before_run",
    "beforeRun": "before_run",
    "before_validation_epoch": "before_val_epoch",
    "bfore_epcoh": "before_epoch",
    "after_rnu": "after_run",
    "colse": "close",
    "state_dcit": "state_dict",
    "load_stat_dict": "load_state_dict",
    "check_before_save": "check_before_saving",
    "after_train_epohc": "after_train_epoch",
    "aftertrain_epoch": "after_train_epoch",
    "before_trainning_epoch": "before_train_epoch",
    "before_valid_iter": "before_val_iter",
    "before_vla_iter": "before_val_iter",
    "after_validaton_epoch": "after_val_epoch",
    "before_epochs": "before_epoch",
    "afetr_iter": "after_iter",
    "before__run": "before_run",
    "AfterRun": "after_run",
    "clsoe": "close",
    "load_sate_dict": "load_state_dict",
}
OWN = """
    after_step before_step after_item before_test_iter after_test_epoch before_train after_val
    on_train_end after_my_thing before_save clone stats_dict run_after after_eval_iter closed
    set_state_dict save_state_dict trigger is_last_step log before_backward _after_trian_iter
    after_load_checkpoint before_save_checkpoint before_test_epoch after_optimizer_step
    before_train_step after_val_step after_train_batch before_fit after_pretrain_epoch
    before_finetune_iter after_trailing_iter after_interaction before_first_iter after_last_epoch
    after_each_epoch on_epoch_end on_train_begin get_state_dict state_dicts load_state_dicts
    gather_states lose get_iters is_last_iteration end_of_iter after_forward
    before_all_iter after_eval_epoch
""".split()  # noqa: SIM905


def do_nothing(*arguments: Any) -> None: ...


def hook_with(name: str, on_instance: bool) -> Hook:
    if not on_instance:
        return type("Mine", (Hook,), {name: do_nothing})()  # type: ignore[no-any-return]
    hook = type("Mine", (Hook,), {})()
    setattr(hook, name, do_nothing)
    return hook  # type: ignore[no-any-return]


@pytest.mark.parametrize("on_instance", [True, False])
@pytest.mark.parametrize(("name", "meant"), MISSPELT.items())
def test_misspelt(
    make_runner: Callable[..., Any], name: str, meant: str, on_instance: bool
) -> None:
    runner = make_runner()
    with pytest.raises(ValueError, match=rf"Mine\.{name} would never be called.*mean '{meant}'\?"):
        runner.register_hook(hook_with(name, on_instance))
    assert runner.hooks == []
    with pytest.raises(ValueError, match=name):
        runner._hooks.append(hook_with(name, on_instance))
    assert runner.hooks == []


@pytest.mark.parametrize("on_instance", [True, False])
@pytest.mark.parametrize("name", OWN)
def test_names_of_ones_own(make_runner: Callable[..., Any], name: str, on_instance: bool) -> None:
    runner = make_runner()
    runner.register_hook(hook_with(name, on_instance))
    runner.call_hook(name)


def test_attributes_are_no_methods(make_runner: Callable[..., Any]) -> None:
    class Counting(Hook):
        before_iters = 3

        @property
        def after_epochs(self) -> int:
            return 1

    make_runner().register_hook(Counting())


def test_a_method_that_is_set_later_is_found_when_hooks_are_refreshed(
    make_runner: Callable[..., Any],
) -> None:
    runner = make_runner()
    runner.register_hook(hook := Hook())
    hook.after_trian_iter = do_nothing  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="after_trian_iter"):
        runner.refresh_hooks()


def test_a_base_class_counts(make_runner: Callable[..., Any]) -> None:
    class Base(Hook):
        def after_train_itre(self, runner: Any) -> None: ...

    class Mine(Base):
        def after_train_iter(self, runner: Any) -> None: ...

    with pytest.raises(ValueError, match=r"Mine\.after_train_itre"):
        make_runner().register_hook(Mine())


@pytest.mark.parametrize("name", ["after_trian_iter", "befor_run", "after_epochs"])
def test_closures(name: str) -> None:
    with pytest.raises(ValueError, match=r"Did you mean"):
        ClosureHook(name, do_nothing)


@settings(max_examples=100)
@given(st.sampled_from(EVENTS), st.data())
def test_two_letters_in_the_wrong_order(event: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(event) - 2))
    slip = event[:at] + event[at + 1] + event[at] + event[at + 2 :]
    if slip != event and "_" not in event[at : at + 2]:
        with pytest.raises(ValueError, match="would never be called"):
            check_spelling(hook_with(slip, False))


def test_no_shipped_hook_is_refused() -> None:
    found = [getattr(hookrun, name) for name in hookrun.__all__]
    hooks = [each for each in found if inspect.isclass(each) and issubclass(each, Hook)]
    assert len(hooks) > 20
    for cls in hooks:
        check_spelling(cls.__new__(cls))


def test_classes_that_were_looked_at_are_not_kept() -> None:
    hook = hook_with("mine", False)
    check_spelling(hook)
    cls = weakref.ref(type(hook))
    del hook
    gc.collect()
    assert cls() is None
