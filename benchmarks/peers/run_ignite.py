"""The work on Ignite: handlers on the engine's events, the nearest thing to hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, CosineAnnealingScheduler, DiskSaver, EMAHandler, Timer
from ignite.metrics import RunningAverage
from torch.nn.functional import cross_entropy

from timing import Statement
from training import EMA_MOMENTUM, MAX_NORM, TimedBatches, Training
from training import LEARNING_RATE as TRAINING_RATE
from training import Work as WholeWork
from work import HOOKS, LEARNING_RATE, NEVER, Loader, Model, make_optimizer


def handler(engine: Engine) -> None:
    pass


# Ignite knows handlers only: what does not listen is not there.
SCENARIOS: dict[str, Any] = {
    "silent": None,
    "not_due": Events.ITERATION_COMPLETED(every=NEVER),
    "listening": Events.ITERATION_COMPLETED,
}


def event(scenario: str) -> Statement:
    """One event with ten handlers, or with none where none would listen."""
    engine = Engine(lambda engine, batch: None)
    engine.state.iteration = 1  # every=N fires at 0
    if SCENARIOS[scenario] is not None:
        for _ in range(HOOKS):
            engine.add_event_handler(SCENARIOS[scenario], handler)
    names = {"engine": engine, "completed": Events.ITERATION_COMPLETED}
    return "engine.fire_event(completed)", names


def training_run(iterations: int, schedule: bool, work_dir: str) -> Callable[[], object]:
    """One epoch: cosine by iteration, running averages, timer, checkpoint and text log not due."""
    model = Model()
    optimizer = make_optimizer(model)
    engine = Engine(lambda engine, batch: model.train_step(batch, optimizer))
    if schedule:
        cosine = CosineAnnealingScheduler(optimizer, "lr", LEARNING_RATE, 0.0, 2 * iterations)
        engine.add_event_handler(Events.ITERATION_STARTED, cosine)
    for name in model.log_vars:
        average = RunningAverage(output_transform=lambda out, name=name: out["log_vars"][name])
        average.attach(engine, name)
    Timer(average=True).attach(
        engine,
        start=Events.EPOCH_STARTED,
        resume=Events.ITERATION_STARTED,
        pause=Events.ITERATION_COMPLETED,
        step=Events.ITERATION_COMPLETED,
    )
    not_due = Events.ITERATION_COMPLETED(every=NEVER)
    engine.add_event_handler(not_due, Checkpoint({"model": model}, DiskSaver(work_dir)))
    engine.add_event_handler(not_due, lambda engine: print(engine.state.metrics))
    return lambda: engine.run(Loader(iterations), max_epochs=1)


def whole_training(work: WholeWork, loader: TimedBatches, work_dir: str) -> Training:
    """One epoch: an update function of one's own, Ignite's scheduler, averages and loss."""
    model = work.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=TRAINING_RATE, fused=True)

    def update(engine: Engine, batch: Any) -> float:
        model.train()
        optimizer.zero_grad()
        inputs, labels = batch
        loss = cross_entropy(model(inputs), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        return loss.item()

    engine = Engine(update)
    cosine = CosineAnnealingScheduler(optimizer, "lr", TRAINING_RATE, 0.0, len(loader))
    engine.add_event_handler(Events.ITERATION_STARTED, cosine)
    RunningAverage(output_transform=lambda loss: loss).attach(engine, "loss")
    averages = EMAHandler(model, momentum=EMA_MOMENTUM)
    averages.attach(engine)
    due = Events.ITERATION_COMPLETED(every=work.log_interval)
    engine.add_event_handler(
        due, lambda engine: print(engine.state.iteration, engine.state.metrics)
    )
    return Training(
        run=lambda: engine.run(loader, max_epochs=1),
        weights=lambda: list(model.parameters()),
        averages=lambda: list(averages.ema_model.parameters()),
    )
