"""`station evaluate --baselines`: the paper's baselines and ours, on a recipe's own pictures, through the same folds."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from station.config import Home
from station.recipe import Recipe
from station.training.baselines import Bcnn, GcForest, GlcmMlp
from station.training.checkpoint import Checkpoints
from station.training.compare import Comparison, Integers, compare
from station.training.dataset import Dataset, DatasetError, read_folder, read_pictures
from station.training.descent import Phase, Run
from station.training.held_trunk import HeldTrunk
from station.training.paper_tables import OURS
from station.training.phases import one_trunk, phase_1
from station.training.pretrained import trunk_sha256
from station.training.train import PHASE_1
from station.training.training_log import training_log
from station.training.trunk_cache import TrunkCache
from station.training.workers import Workers
from station.vision import weights
from station.vision.dvgg16 import NetworkDescription
from station.vision.engine import choose_device

FOLDS = 5
"""Of the comparison; the choice does not depend on it."""
_SEED = 0


class DVGG16:
    """Ours after phase 1, trained anew for each fold: the recipe's trunk, head and number of epochs."""

    name = OURS

    def __init__(self, held: HeldTrunk, trunk: Mapping[str, torch.Tensor], description: NetworkDescription, phase: Phase, run: Run) -> None:
        self._held, self._trunk, self._description, self._phase, self._run = held, dict(trunk), description, phase, run

    def fit_predict(self, training: Integers, labels: Integers, held_back: Integers) -> Integers:  # noqa: ARG002 - the held trunk has them
        """See `Method`."""
        network = one_trunk(self._description, self._trunk, self._run.seed, self._held.device)
        phase_1(network, self._held, torch.from_numpy(training), torch.arange(0), self._phase, self._run, f"{self.name}, {held_back[0]}")
        looks = self._held.looks(network, torch.from_numpy(held_back))
        return np.array([look.probabilities.argmax() for look in looks])


def compare_recipe(home: Home, device: str, recipe: Recipe, data: Path, progress: Callable[[str], None]) -> Comparison:
    """Every method through a cross-validation on `data`, ours with the trunk of the recipe's network.

    Raises:
        DatasetError: the pictures cannot be split, or the trunk was itself trained on some of them: it would know those held back.
        WeightsError: the network cannot be read.
    """
    loaded = weights.load(home.weights / recipe.document.network.weights)
    dataset = read_folder(data, loaded.description.classes)
    trunk = loaded.network.trunks[0].state_dict()
    _refuse_known_pictures(dataset, loaded.card, trunk_sha256(trunk))
    folder = home.folder / "data" / "training"
    folder.mkdir(parents=True, exist_ok=True)
    with training_log(folder / "comparison", progress, leads=True) as log:
        run = Run(_SEED, Checkpoints(folder / "comparison", writes=False), log, Workers())
        chosen = choose_device(device)
        cache = TrunkCache(folder / "trunk.cache", loaded.network.trunks[0].to(chosen), loaded.description, chosen)
        held = HeldTrunk(cache, dataset.samples, run)
        phase = replace(PHASE_1, epochs=len(_epochs(loaded.card)) or PHASE_1.epochs, patience=0)
        methods = (
            GlcmMlp((pixels for pixels, _, _ in read_pictures(dataset.samples)), _SEED),
            GcForest((pixels for pixels, _, _ in read_pictures(dataset.samples)), _SEED),
            Bcnn(held.moments(lambda outputs: outputs)),
            DVGG16(held, trunk, loaded.description, phase, run),
        )
        return compare(dataset, methods, recipe.document.good, FOLDS, _SEED, progress)


def _refuse_known_pictures(dataset: Dataset, card: Mapping[str, Any], trunk: str) -> None:
    split = card.get("split", {})
    known = {*split.get("training", ()), *split.get("held_back", ())}
    seen = sum(sample.sha256[:16] in known for sample in dataset.samples) if known else len(dataset.samples)
    if seen and card.get("pretrained_sha256") != trunk:
        raise DatasetError(
            f"baselines: the recipe's trunk was itself trained, maybe on {seen} of these pictures, and would know those held back; "
            "compare on pictures that it has not seen, or train with a pretrained trunk and --trunks 1"
        )


def _epochs(card: Mapping[str, Any]) -> list[Any]:
    epochs = card.get("epochs", {})
    return list(epochs.get("phase 1", ())) if isinstance(epochs, Mapping) else []
