"""SIGTERM, SIGUSR1 and Ctrl-C: a checkpoint after the current step, then exit code 75 or 130."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from hookrun import ClosureHook, EpochBasedRunner, Hook, IterBasedRunner, OptimizerHook, Preempted
from tests.programs import Program
from tests.support import Points, Recorder, TinyModel, make_loader

from .variants import LOOPS, limits

SIGNALS = [signal.SIGTERM, signal.SIGUSR1]


@pytest.fixture(autouse=True)
def default_handlers() -> Any:
    before = {each: signal.signal(each, signal.SIG_DFL) for each in SIGNALS}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


class Kill(Hook):
    """Sends this process a signal at an event, once."""

    def __init__(self, event: str, at: int, signum: int = signal.SIGTERM) -> None:
        self.at, self.signum = at, signum
        setattr(self, event, self.kill)

    def kill(self, runner: Any) -> None:
        if runner.iter == self.at:
            self.at = -1
            os.kill(os.getpid(), self.signum)


def make(make_runner: Any, kind: type, *hooks: Hook, **arguments: Any) -> Any:
    runner = make_runner(kind, model=TinyModel(), **limits(kind), **arguments)
    runner.register_hook(OptimizerHook(), priority=40)
    for hook in hooks:
        runner.register_hook(hook)
    return runner


def weights(runner: Any) -> Any:
    state = runner.optimizer.state_dict()["state"]
    momenta = [each["momentum_buffer"].tolist() for each in state.values()]
    return [p.tolist() for p in runner.model.parameters()], momenta


def train(runner: Any) -> Any:
    runner.run([make_loader(3)], [("train", 1)])
    return runner


@pytest.mark.parametrize("variant", LOOPS)
@pytest.mark.parametrize(
    ("event", "at", "expected"),
    [
        ("before_epoch", 0, 1),
        ("before_train_iter", 0, 1),
        ("after_train_iter", 1, 2),
        ("before_train_iter", 4, 5),
        ("after_train_iter", 5, 6),
    ],
)
def test_a_signal_ends_the_run_after_the_step_at_work_and_it_goes_on_from_there(
    make_runner: Any,
    variant: Any,
    event: str,
    at: int,
    expected: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kind = variant[0]
    whole = weights(train(make(make_runner, kind)))
    runner = make(make_runner, kind, Kill(event, at))
    with pytest.raises(Preempted) as caught:
        train(runner)
    path = Path(runner.work_dir) / "preempted.pth"
    assert caught.value.code == 75
    assert caught.value.signum == signal.SIGTERM
    assert caught.value.checkpoint == str(path)
    assert "ended by SIGTERM (saved to" in str(caught.value)
    assert f"SIGTERM, saved to {path}; runner.resume('auto') goes on from there" in caplog.text
    assert torch.load(path)["meta"]["iter"] == expected
    again = make(make_runner, kind)
    again.resume("auto")
    assert again.iter == expected
    assert weights(train(again)) == whole
    assert os.readlink(path.with_name("latest.pth")) == "preempted.pth"


@pytest.mark.parametrize("variant", LOOPS)
def test_the_first_ctrl_c_ends_the_run_after_the_step_at_work(
    make_runner: Any, variant: Any, caplog: pytest.LogCaptureFixture
) -> None:
    kind = variant[0]
    whole = weights(train(make(make_runner, kind)))
    runner = make(make_runner, kind, Kill("before_train_iter", 3, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as caught:
        train(runner)
    path = Path(runner.work_dir) / "preempted.pth"
    assert caught.type is KeyboardInterrupt  # the exit status depends on it
    assert len(caught.traceback) <= 5  # of them two are this test's
    (line,) = [each for each in caplog.messages if "Ctrl-C" in each]
    assert line == (
        f"after iteration 4: Ctrl-C, saved to {path}; runner.resume('auto') goes on from there"
    )
    assert torch.load(path)["meta"]["iter"] == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = make(make_runner, kind)
    again.resume("auto")
    assert weights(train(again)) == whole


@pytest.mark.parametrize("variant", LOOPS)
def test_the_second_ctrl_c_ends_the_run_at_once(make_runner: Any, variant: Any) -> None:
    first, second = (Kill("before_train_iter", 1, signal.SIGINT) for _ in range(2))
    recorder = Recorder()
    runner = make(make_runner, variant[0], recorder, first, second)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(runner)
    assert recorder.names[-1] == "before_train_iter"
    assert runner.iter == 1
    assert not Path(runner.work_dir, "preempted.pth").exists()
    assert any(each.name == "kill" for each in caught.traceback)


def test_signals_of_the_end_come_before_a_request_to_stop(make_runner: Any) -> None:
    stop = ClosureHook("after_train_iter", lambda runner: runner.stop())
    runner = make(make_runner, EpochBasedRunner, Kill("before_train_iter", 0), stop)
    with pytest.raises(Preempted):
        train(runner)
    assert runner.iter == 1


@pytest.mark.parametrize("signum", [*SIGNALS, signal.SIGINT])
def test_handlers_are_there_during_the_run_only(make_runner: Any, signum: int) -> None:
    seen = []
    runner = make(
        make_runner,
        EpochBasedRunner,
        ClosureHook("before_train_iter", lambda r: seen.append(signal.getsignal(signum))),
    )
    train(runner)
    default = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
    assert callable(seen[0])
    assert seen[0] is not default
    assert signal.getsignal(signum) is default
    runner = make(make_runner, EpochBasedRunner, Kill("before_train_iter", 2, signum))
    with pytest.raises((Preempted, KeyboardInterrupt)):
        train(runner)
    assert signal.getsignal(signum) is default


def test_hooks_are_closed_with_what_ended_the_run(make_runner: Any) -> None:
    closed = []

    class Closing(Hook):
        def close(self, runner: Any, error: Any) -> None:
            closed.append(error)

    runner = make(make_runner, IterBasedRunner, Kill("before_train_iter", 2), Closing())
    with pytest.raises(Preempted) as caught:
        train(runner)
    assert closed == [caught.value]


@pytest.mark.parametrize("how", ["own handler", "ignored", "opt-out", "thread"])
def test_signals_that_are_left_alone(make_runner: Any, how: str) -> None:
    taken: list[int] = []
    handler: Any = lambda signum, frame: taken.append(signum)  # noqa: E731
    signal.signal(signal.SIGTERM, signal.SIG_IGN if how == "ignored" else handler)
    arguments = {"handle_signals": False} if how == "opt-out" else {}
    runner = make(make_runner, EpochBasedRunner, Kill("before_train_iter", 1), **arguments)
    if how == "thread":
        thread = threading.Thread(target=train, args=(runner,))
        thread.start()
        thread.join()
    else:
        train(runner)
    assert runner.iter == 6
    assert taken == ([] if how == "ignored" else [signal.SIGTERM])


def test_without_a_work_dir_nothing_is_saved(make_runner: Any) -> None:
    runner = make(make_runner, EpochBasedRunner, Kill("before_train_iter", 1), work_dir=None)
    with pytest.raises(Preempted, match="nothing saved: no work_dir") as caught:
        train(runner)
    assert caught.value.checkpoint is None


@pytest.mark.parametrize("variant", LOOPS)
def test_validation_is_interrupted_too_and_begun_again(make_runner: Any, variant: Any) -> None:
    def seen(runner: Any) -> list[tuple[str, int]]:
        events: list[tuple[str, int]] = []
        for mode in ("train", "val"):
            note = lambda r: events.append((r.mode, r.iter))  # noqa: E731
            runner.register_hook(ClosureHook(f"before_{mode}_iter", note))
        return events

    def run(runner: Any) -> Any:
        runner.run([make_loader(3), make_loader(2)], [("train", counts[0]), ("val", counts[1])])

    kind = variant[0]
    by_epoch = issubclass(kind, EpochBasedRunner)
    counts = (1, 1) if by_epoch else (3, 2)
    runner = make(make_runner, kind)
    whole = seen(runner)
    run(runner)
    steps = [("train" if i % 5 < 3 else "val", i // 5 * 3 + min(i % 5, 3)) for i in range(10)]
    assert whole == steps
    for at in (3, 6):  # the last validation is finished, though all has been trained
        runner = make(make_runner, kind, Kill("before_val_iter", at))
        first = seen(runner)
        with pytest.raises(Preempted):
            run(runner)
        assert first[-1] == ("val", at)
        again = make(make_runner, kind)
        rest = seen(again)
        again.resume("auto")
        run(again)
        if by_epoch:  # an epoch of validation is one whole
            assert first[:-1] + rest == whole
        else:
            assert first + rest == whole


PROGRAM = """
import os, signal, sys, time
import torch
from hookrun import EpochBasedRunner, Hook
from tests.support import TinyModel

class Endless:
    def __iter__(self):
        while True:
            yield {"x": torch.zeros(1, 2), "y": torch.zeros(1, 1)}

class Watch(Hook):
    def after_train_iter(self, runner):
        if runner.iter == 0:
            print("running", flush=True)
        if mode == "twice":
            while runner.check_at != 0:
                time.sleep(0.001)
            print("noted", flush=True)
            while True:  # the current step never ends
                time.sleep(0.01)

mode, folder = sys.argv[1:]
# A parent in the background may have had Ctrl-C ignored, which children inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
runner = EpochBasedRunner(TinyModel(), max_epochs=1, work_dir=folder)
runner.register_hook(Watch())
runner.run([Endless()], [("train", 1)])
"""


@pytest.mark.parametrize(
    ("mode", "signum", "code"),
    [
        ("once", signal.SIGTERM, 75),
        ("once", signal.SIGUSR1, 75),
        ("once", signal.SIGINT, -signal.SIGINT),
        ("twice", signal.SIGTERM, -signal.SIGTERM),
        ("twice", signal.SIGINT, -signal.SIGINT),
    ],
)
def test_a_real_process(mode: str, signum: int, code: int, tmp_path: Path) -> None:
    with Program("-c", PROGRAM, mode, tmp_path) as process:
        assert process.stdout.readline() == "running\n"
        process.send_signal(signum)
        if mode == "twice":
            assert process.stdout.readline() == "noted\n"
            process.send_signal(signum)
        _, err = process.communicate()
    assert process.returncode == code
    assert (tmp_path / "preempted.pth").exists() == (mode == "once")
    if signum != signal.SIGINT:
        assert "Traceback" not in err
    elif mode == "once":
        assert "runner.resume('auto') goes on from there" in err
        assert err.count("/hookrun/runners/") == 2


class Interrupting(Points):
    """Sends Ctrl-C to the run and to the worker, as a terminal does."""

    def __getitem__(self, index: int) -> Any:
        if index == 4:
            os.kill(os.getppid(), signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return super().__getitem__(index)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_a_worker_that_gets_ctrl_c_too_still_fetches(
    make_runner: Any, kind: type, method: str
) -> None:
    runner = make(make_runner, kind)
    options = {"num_workers": 1, "prefetch_factor": 1, "multiprocessing_context": method}
    with pytest.raises(KeyboardInterrupt):
        runner.run([DataLoader(Interrupting(8), batch_size=2, **options)], [("train", 1)])
    assert runner.iter > 0
    assert Path(runner.work_dir, "preempted.pth").exists()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.SIGINT not in before


def test_a_child_forked_during_the_run_dies_of_the_signal(make_runner: Any) -> None:
    children = []

    def fork(runner: Any) -> None:
        if runner.iter == 0:
            begun, ready = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(ready, b".")  # just after the fork, Python drops signals
                for _ in range(2000):
                    time.sleep(0.01)
                os._exit(0)
            children.append(child)
            os.read(begun, 1)
            os.kill(child, signal.SIGTERM)

    runner = make(make_runner, EpochBasedRunner, ClosureHook("before_train_iter", fork))
    train(runner)
    _, status = os.waitpid(children[0], 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert runner.iter == 6
