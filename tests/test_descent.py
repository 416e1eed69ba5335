"""One run of Adam: it is the textbook's, on any memory; it stops in time and keeps the best; and it refuses to end in nonsense."""

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import Watcher
from torch import Tensor, nn

from station.training.checkpoint import Checkpoints
from station.training.descent import Descent, Phase, Run, Task, TrainingError, duration
from station.training.workers import Workers

PHASE = Phase(epochs=4, learning_rate=0.05, batch=5, at_once=5)
LABELS = torch.arange(20) % 3
FEATURES = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TRAINING, HELD_BACK = torch.arange(13) + 3, torch.tensor([0, 1, 2, 16, 17, 18, 19])
NOTHING = torch.arange(0)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def layer() -> nn.Linear:
    """Always with the same first weights."""
    made = nn.Linear(6, 3, dtype=torch.float64)
    made.load_state_dict({"weight": torch.linspace(-1, 1, 18).reshape(3, 6), "bias": torch.zeros(3)})
    return made


class Killed(BaseException):
    """In place of the process."""


class Descended:
    """The outcome of one run over the features.

    Args:
        folder: for checkpoints of its own.
        scores: in place of the module's own.
        checkpoints: of a run that was killed, in place of its own.
        killed_after: so many parts of batches.
    """

    def __init__(
        self,
        folder: Path,
        phase: Phase,
        held_back: Tensor = HELD_BACK,
        seed: int = 0,
        scores: Callable[[nn.Linear, Tensor], Tensor] = lambda module, index: module(FEATURES[index]),
        checkpoints: Checkpoints | None = None,
        killed_after: float = math.inf,
    ) -> None:
        self.module = layer()
        self.parts: list[int] = []
        self.log = Watcher()

        def noted(index: Tensor) -> Tensor:
            if len(self.parts) == killed_after:
                raise Killed
            self.parts.append(len(index))
            return scores(self.module, index)

        task = Task("a run", self.module, noted, LABELS, TRAINING, held_back)
        kept = checkpoints or Checkpoints(Path(tempfile.mkdtemp(dir=folder)), every_s=math.inf)
        self.epochs = Descent(task, phase, Run(seed, kept, self.log, Workers())).train()

    def weights(self) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.module.parameters()])


def literal(phase: Phase, seed: int = 0) -> tuple[nn.Linear, list[float]]:
    """PyTorch's tutorial, word by word; also the mean loss of each epoch."""
    module = layer()
    adam = torch.optim.Adam(module.parameters(), lr=phase.learning_rate, betas=(0.9, 0.999))
    steps, step, losses = math.ceil(len(TRAINING) / phase.batch) * phase.epochs, 0, []
    for epoch in range(phase.epochs):
        order = TRAINING[np.random.default_rng([seed, epoch]).permutation(len(TRAINING))]
        total = 0.0
        for start in range(0, len(order), phase.batch):
            if phase.cosine:
                adam.param_groups[0]["lr"] = phase.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
            batch = order[start : start + phase.batch]
            loss = nn.functional.cross_entropy(module(FEATURES[batch]), LABELS[batch])
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            total += loss.item() * len(batch)
            step += 1
        losses.append(total / len(order))
    return module, losses


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("cosine", [False, True])
def test_it_is_the_literal_loop(tmp_path: Path, seed: int, cosine: bool) -> None:
    """13 pictures in batches of 5: the last one is of 3, and its gradient is the mean of those 3."""
    phase = replace(PHASE, cosine=cosine)
    run, (expected, losses) = Descended(tmp_path, phase, seed=seed), literal(phase, seed)
    assert torch.allclose(run.module.weight, expected.weight, rtol=0, atol=1e-12)
    assert torch.allclose(run.module.bias, expected.bias, rtol=0, atol=1e-12)
    assert [epoch.loss for epoch in run.epochs] == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_batch_is_the_same_on_any_memory(tmp_path: Path, at_once: int) -> None:
    whole, parted = Descended(tmp_path, PHASE), Descended(tmp_path, replace(PHASE, at_once=at_once))
    assert max(whole.parts) == PHASE.batch
    assert max(parted.parts) == at_once
    assert torch.allclose(parted.weights(), whole.weights(), rtol=0, atol=1e-6)
    assert [epoch.loss for epoch in parted.epochs] == pytest.approx([epoch.loss for epoch in whole.epochs], rel=1e-6)


def test_every_epoch_is_judged_on_the_pictures_held_back(tmp_path: Path) -> None:
    run = Descended(tmp_path, PHASE)
    assert len(run.epochs) == PHASE.epochs
    assert run.log.epochs == list(run.epochs)
    with torch.no_grad():
        logits = run.module(FEATURES[HELD_BACK])
    assert run.epochs[-1].held_back_loss == pytest.approx(nn.functional.cross_entropy(logits, LABELS[HELD_BACK]).item(), rel=1e-6)
    right = (logits.argmax(dim=1) == LABELS[HELD_BACK]).sum().item()
    assert run.epochs[-1].held_back_accuracy == pytest.approx(right / len(HELD_BACK), abs=1e-7)


# --- the early stop

LONG = replace(PHASE, epochs=60, patience=3)


def test_it_stops_after_its_patience_and_keeps_the_best_epochs_weights(tmp_path: Path) -> None:
    """The labels are noise: sooner or later learning them makes the others worse."""
    everything = Descended(tmp_path, replace(LONG, patience=0))
    losses = [epoch.held_back_loss or 0.0 for epoch in everything.epochs]
    best = next(epoch for epoch in range(1, 61) if losses[epoch - 1] < min(losses[epoch : epoch + 3]))
    assert best < 50
    stopped = Descended(tmp_path, LONG)
    assert len(stopped.log.epochs) == best + 3
    assert stopped.epochs == everything.epochs[:best]
    assert torch.equal(stopped.weights(), Descended(tmp_path, replace(PHASE, epochs=best)).weights())
    assert not torch.equal(stopped.weights(), Descended(tmp_path, replace(PHASE, epochs=best + 3)).weights())


def test_a_run_that_ends_while_it_is_patient_keeps_the_best_too(tmp_path: Path) -> None:
    best = len(Descended(tmp_path, LONG).epochs)
    run = Descended(tmp_path, replace(LONG, epochs=best + 1))
    assert len(run.log.epochs) == best + 1
    assert len(run.epochs) == best
    assert torch.equal(run.weights(), Descended(tmp_path, LONG).weights())


@pytest.mark.parametrize(("every_s", "parts"), [(0, 2), (0, 3), (0, 5), (math.inf, 7), (math.inf, 11)])
def test_a_run_that_is_killed_again_and_again_stops_at_the_same_epoch_with_the_same_weights(
    tmp_path: Path, every_s: float, parts: int
) -> None:
    """An epoch has three parts to learn from and two to be judged by; what was not kept is lost."""
    whole, kills = Descended(tmp_path, LONG), 0
    while True:
        try:
            resumed = Descended(tmp_path, LONG, checkpoints=Checkpoints(tmp_path / "kept", every_s), killed_after=parts)
            break
        except Killed:
            kills += 1
            assert kills < len(whole.parts)
    assert kills >= len(whole.parts) // parts - 1
    assert resumed.log.lines[0].startswith("a run: goes on after epoch")
    assert resumed.epochs == whole.epochs
    assert torch.equal(resumed.weights(), whole.weights())


def test_without_patience_the_last_epoch_is_kept(tmp_path: Path) -> None:
    run = Descended(tmp_path, replace(LONG, patience=0))
    assert len(run.epochs) == LONG.epochs
    assert torch.allclose(run.module.weight, literal(replace(LONG, patience=0))[0].weight, rtol=0, atol=1e-12)


def test_where_no_picture_is_held_back_nothing_stops_it(tmp_path: Path) -> None:
    run = Descended(tmp_path, LONG, held_back=NOTHING)
    assert len(run.epochs) == LONG.epochs
    assert {(epoch.held_back_loss, epoch.held_back_accuracy) for epoch in run.epochs} == {(None, None)}
    assert torch.equal(run.weights(), Descended(tmp_path, replace(LONG, patience=0)).weights())


# --- what is said and refused


def test_every_epoch_is_told_with_the_time_that_is_left(tmp_path: Path) -> None:
    lines = Descended(tmp_path, PHASE).log.lines
    assert len(lines) == PHASE.epochs
    assert all(f"a run: epoch {number} of 4, loss " in line for number, line in enumerate(lines, start=1))
    assert all(line.endswith("0:00 min left at most") for line in lines[:-1])
    assert lines[-1].endswith("; done")


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0:00 min"), (90, "1:30 min"), (3599.4, "59:59 min"), (3700, "1:01 h")])
def test_durations_are_told_in_minutes_and_hours(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_loss_that_leaves_the_finite_numbers_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"a run: epoch 1: the loss is not finite; lower the learning rate 0\.05"):
        Descended(tmp_path, PHASE, scores=lambda module, index: module(FEATURES[index]) * math.inf)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch": 0}, {"at_once": 0}, {"learning_rate": 0.0}])
def test_a_phase_that_leads_nowhere_is_refused(wrong: dict[str, Any]) -> None:
    (key,) = wrong
    with pytest.raises(TrainingError, match=key):
        replace(PHASE, **wrong)
