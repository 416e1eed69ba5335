"""Cross-validation of phase 1: every picture is judged once by a network that never saw it, and head and epochs are chosen by it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypedDict, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from station.training.dataset import Dataset, folds
from station.training.descent import Epoch, Phase, Run, TrainingError
from station.training.held_trunk import HeldTrunk
from station.training.look import Look
from station.training.phases import one_trunk, phase_1
from station.vision.dvgg16 import BilinearDVGG16, Head, NetworkDescription


class CrossValidation(TypedDict):
    """What was tried, what was chosen, and what the choice came to.

    Keys:
        folds: how many; the classes are spread evenly over them.
        head, epochs: chosen, by the highest mean accuracy, then the lowest mean loss.
        accuracy, accuracy_range: of the choice, the mean over the folds, the worst and the best. It is the best of all that was tried,
            on the pictures it was chosen by: a little too good.
        tried: mean accuracy after each epoch, for every head; empty for a head whose loss left the finite numbers.
    """

    folds: int
    head: Head
    epochs: int
    accuracy: float
    accuracy_range: tuple[float, float]
    tried: dict[str, list[float]]


@dataclass(frozen=True, eq=False)
class CrossValidator:
    """The same folds and the same first weights for every candidate."""

    dataset: Dataset
    held: HeldTrunk
    trunk: dict[str, Tensor]
    description: NetworkDescription
    phase: Phase
    count: int
    run: Run

    def choose(self) -> CrossValidation:
        """Tries every head for as many epochs as the phase has.

        Raises:
            TrainingError: no head could be trained.
        """
        tried = {head: self._try(head) for head in get_args(Head)}
        best: tuple[float, float, Head, int] | None = None
        for head, (accuracies, losses) in tried.items():
            for epoch, ranked in enumerate(zip(accuracies.mean(axis=0), -losses.mean(axis=0), strict=True), start=1):
                if best is None or ranked > best[:2]:
                    best = (*ranked, head, epoch)
        if best is None:
            raise TrainingError(f"no head could be trained; lower the learning rate {self.phase.learning_rate}")
        _, _, head, epochs = best
        of_choice = tried[head][0][:, epochs - 1]
        return CrossValidation(
            folds=self.count,
            head=head,
            epochs=epochs,
            accuracy=float(of_choice.mean()),
            accuracy_range=(float(of_choice.min()), float(of_choice.max())),
            tried={name: accuracies.mean(axis=0).tolist() for name, (accuracies, _) in tried.items()},
        )

    def looks(self, chosen: CrossValidation) -> tuple[Look, ...]:
        """What the network of its fold, trained as chosen, says of each picture it never saw; in the order of the data."""
        of_picture: dict[int, Look] = {}
        phase = replace(self.phase, epochs=chosen["epochs"])
        for network, _, held_back in self._folds(chosen["head"], phase):
            of_picture |= zip(held_back.tolist(), self.held.looks(network, held_back), strict=True)
        return tuple(of_picture[index] for index in range(len(self.dataset.samples)))

    def _try(self, head: Head) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Accuracy and loss on the pictures held back, (folds, epochs) each; (folds, 0) where the loss left the finite numbers."""
        try:
            runs = [epochs for _, epochs, _ in self._folds(head, self.phase)]
        except TrainingError as error:
            self.run.log.say(f"head {head}: {error}")
            return np.empty((self.count, 0)), np.empty((self.count, 0))
        figures = np.array([[(one.held_back_accuracy, one.held_back_loss) for one in epochs] for epochs in runs])
        return figures[..., 0], figures[..., 1]

    def _folds(self, head: Head, phase: Phase) -> Iterator[tuple[BilinearDVGG16, tuple[Epoch, ...], Tensor]]:
        """Each fold's trained network, its epochs, all that there are, and the pictures it never saw."""
        phase = replace(phase, patience=0)
        for number, sides in enumerate(folds(self.dataset, self.count, self.run.seed), start=1):
            training, held_back = (torch.tensor(self.dataset.positions(samples)) for samples in sides)
            network = one_trunk(replace(self.description, head=head), self.trunk, self.run.seed, self.held.device)
            name = f"fold {number} of {self.count}, {head}, {phase.epochs} epochs"
            yield network, phase_1(network, self.held, training, held_back, phase, self.run, name), held_back
