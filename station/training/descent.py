"""One run of Adam over labelled pictures: any batch on any memory, early stop, checkpoints, log. What is trained is the caller's."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from station.training.checkpoint import Checkpoints
from station.training.workers import Workers


class TrainingError(Exception):
    """The settings contradict each other, or the training went astray; the message says which and what to change."""


@dataclass(frozen=True)
class Phase:
    """How a run descends.

    Attributes:
        epochs: passes over all training pictures; the most there can be where `patience` is set.
        learning_rate, batch: Adam's, with betas 0.9 and 0.999, and the pictures of one step.
        at_once: pictures whose gradients are computed together; a batch is summed up from them, so memory limits this and not the batch.
        patience: stop after so many epochs without a lower loss on the pictures held back, and keep the best; 0 runs all, keeps the last.
        cosine: the learning rate decays to 0 over all epochs.
    """

    epochs: int
    learning_rate: float
    batch: int
    at_once: int
    patience: int = 0
    cosine: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "batch", "at_once"):
            if getattr(self, name) <= 0:
                raise TrainingError(f"{name}: {getattr(self, name)} must be above 0")


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to: mean cross-entropies and accuracy; the last two are None where no picture is held back."""

    loss: float
    held_back_loss: float | None = None
    held_back_accuracy: float | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """What is descended on.

    Attributes:
        name: of the run, in words; its checkpoint and its curves go by it.
        module: holds exactly what is trained.
        scores: logits (n, K) of pictures by their indices (n,).
        labels: int64 (all,), on the device.
        training, held_back: int64, indices of pictures, on the CPU.
    """

    name: str
    module: nn.Module
    scores: Callable[[Tensor], Tensor]
    labels: Tensor
    training: Tensor
    held_back: Tensor


class Log(Protocol):
    """Whoever watches a training."""

    def say(self, line: str) -> None:
        """One line of text."""

    def epoch(self, name: str, number: int, epoch: Epoch) -> None:
        """The figures of one epoch of the run `name`, numbered from 1."""


@dataclass(frozen=True, eq=False)
class Run:
    """What all descents of one training share."""

    seed: int
    checkpoints: Checkpoints
    log: Log
    workers: Workers


@dataclass
class _State:
    """Where a run stands: with the tensors, all that a checkpoint holds."""

    epoch: int = 0
    step: int = 0
    total: float = 0.0
    history: list[dict[str, float | None]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    done: bool = False


class Descent:
    """A run that can be killed at any moment and goes on from its last checkpoint, on a CPU to the same numbers.

    That is so because the order of the pictures follows from seed and epoch alone, and the checkpoint holds everything else.
    """

    def __init__(self, task: Task, phase: Phase, run: Run) -> None:
        self._task, self._phase, self._run = task, phase, run
        self._patience = phase.patience if len(task.held_back) else 0
        self._steps = -(-len(task.training) // phase.batch)
        self._optimiser = torch.optim.Adam(task.module.parameters(), lr=phase.learning_rate, betas=(0.9, 0.999))
        self._scaler = torch.amp.GradScaler(enabled=task.labels.is_cuda)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimiser, phase.epochs * self._steps) if phase.cosine else None
        self._decay = decay
        self._parts: dict[str, Any] = {"module": task.module, "optimiser": self._optimiser, "scaler": self._scaler}
        self._parts |= {"decay": decay} if decay else {}
        self._state = _State()

    def train(self) -> tuple[Epoch, ...]:
        """Trains the task's module in place; returns what each epoch came to, the kept one last.

        Raises:
            TrainingError: the loss left the finite numbers.
            OSError: a checkpoint cannot be written.
        """
        self._resume()
        state, first, began_s = self._state, self._state.epoch, time.monotonic()
        while not state.done:
            self._epoch()
            state.done = state.epoch == self._phase.epochs or self._is_patience_over()
            left_s = (time.monotonic() - began_s) / (state.epoch - first) * (self._phase.epochs - state.epoch)
            self._report(left_s)
            self._save()
        if state.best:
            self._task.module.load_state_dict(state.best)
        kept = state.history[: state.best_epoch] if state.best else state.history
        return tuple(Epoch(**epoch) for epoch in kept)  # type: ignore[arg-type]

    def _epoch(self) -> None:
        task, state = self._task, self._state
        order = np.random.default_rng([self._run.seed, state.epoch]).permutation(len(task.training))
        batches = torch.split(task.training[torch.from_numpy(order)], self._phase.batch)
        task.module.train()
        for batch in batches[state.step :]:
            state.total += self._step(batch)
            state.step += 1
            if self._run.checkpoints.due():
                self._save()
                self._run.log.say(f"{task.name}: epoch {state.epoch + 1} of {self._phase.epochs}, step {state.step} of {self._steps}")
        if not np.isfinite(state.total):
            raise TrainingError(
                f"{task.name}: epoch {state.epoch + 1}: the loss is not finite; lower the learning rate {self._phase.learning_rate}"
            )
        epoch = Epoch(state.total / len(task.training), *self._judge_held_back())
        state.history.append(asdict(epoch))
        state.epoch, state.step, state.total = state.epoch + 1, 0, 0.0
        if self._patience and epoch.held_back_loss == min(one["held_back_loss"] or 0.0 for one in state.history):
            state.best = {name: tensor.detach().cpu().clone() for name, tensor in task.module.state_dict().items()}
            state.best_epoch = state.epoch

    def _step(self, batch: Tensor) -> float:
        """One step of Adam down the gradient of the whole batch; returns the sum of its losses."""
        self._optimiser.zero_grad()
        total = torch.zeros((), device=self._task.labels.device)
        for part in torch.split(self._run.workers.share(batch), self._phase.at_once):
            loss = nn.functional.cross_entropy(self._task.scores(part), self._task.labels[part], reduction="sum")
            self._scaler.scale(loss / len(batch)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self._run.workers.sum_gradients(self._task.module.parameters())
        self._scaler.step(self._optimiser)
        self._scaler.update()
        if self._decay:
            self._decay.step()
        return float(self._run.workers.sum(total))

    def _judge_held_back(self) -> tuple[float | None, float | None]:
        """Mean cross-entropy and accuracy over the pictures held back."""
        task = self._task
        if not len(task.held_back):
            return None, None
        task.module.eval()
        loss, right = torch.zeros((), device=task.labels.device), torch.zeros((), device=task.labels.device)
        with torch.no_grad():
            for part in torch.split(self._run.workers.share(task.held_back), self._phase.at_once):
                logits = task.scores(part)
                loss += nn.functional.cross_entropy(logits, task.labels[part], reduction="sum")
                right += (logits.argmax(dim=1) == task.labels[part]).sum()
        count = len(task.held_back)
        return float(self._run.workers.sum(loss)) / count, float(self._run.workers.sum(right)) / count

    def _is_patience_over(self) -> bool:
        return bool(self._patience) and self._state.epoch - self._state.best_epoch >= self._patience

    def _report(self, left_s: float) -> None:
        number, epoch = self._state.epoch, Epoch(**self._state.history[-1])  # type: ignore[arg-type]
        self._run.log.epoch(self._task.name, number, epoch)
        held_back = (
            "" if epoch.held_back_loss is None else f", held back: loss {epoch.held_back_loss:.5f}, accuracy {epoch.held_back_accuracy:.4f}"
        )
        end = f"{duration(left_s)} left at most" if not self._state.done else "done"
        self._run.log.say(f"{self._task.name}: epoch {number} of {self._phase.epochs}, loss {epoch.loss:.5f}{held_back}; {end}")

    def _save(self) -> None:
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        self._run.checkpoints.save(self._task.name, {"state": vars(self._state), **parts})

    def _resume(self) -> None:
        saved = self._run.checkpoints.load(self._task.name)
        if saved is None:
            return
        self._state = _State(**saved["state"])
        for name, part in self._parts.items():
            part.load_state_dict(saved[name])
        self._run.log.say(f"{self._task.name}: goes on after epoch {self._state.epoch}, step {self._state.step}")


def duration(seconds: float) -> str:
    """90 -> "1:30 min"; 3,700 -> "1:01 h"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"
