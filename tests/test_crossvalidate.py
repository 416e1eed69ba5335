"""Cross-validation: who judges a picture never saw it, and head and epochs are chosen by nothing but what was measured."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from small_training import PHASE_1, Watcher, narrow_channels, small, trained, write_pictures, write_trunk
from torch import Tensor

from station.training import crossvalidate
from station.training.checkpoint import Checkpoints
from station.training.crossvalidate import CrossValidation, CrossValidator
from station.training.dataset import Dataset, Sample, read_folder, read_pictures
from station.training.descent import Epoch, Phase, Run, TrainingError
from station.training.look import Look
from station.training.workers import Workers
from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
from station.vision.parity import reference


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def narrow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetworkDescription, "channels", narrow_channels)
        yield


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_trunk(tmp_path_factory.mktemp("trunk") / "trunk.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data"), 8, noise=60)


class Trials:
    """In place of phase 1: says of each fold what somebody wrote down, and notes the sides."""

    def __init__(self, accuracies: dict[str, list[list[float]]], losses: dict[str, list[list[float]]]) -> None:
        self.accuracies, self.losses = accuracies, losses
        self.sides: list[tuple[list[int], list[int]]] = []
        self.phases: list[Phase] = []

    def __call__(self, network: Any, _held: object, training: Tensor, held_back: Tensor, phase: Phase, *_: object) -> tuple[Epoch, ...]:
        head = network.description.head
        self.sides.append((training.tolist(), held_back.tolist()))
        self.phases.append(phase)
        fold = (len(self.sides) - 1) % 2
        if fold >= len(self.accuracies[head]):
            raise TrainingError("the loss is not finite")
        figures = zip(self.accuracies[head][fold], self.losses[head][fold], strict=True)
        return tuple(Epoch(1.0, loss, accuracy) for accuracy, loss in figures)


def validator(folder: Path, dataset: Dataset, phase: Phase = PHASE_1) -> tuple[CrossValidator, Watcher]:
    log = Watcher()
    held: Any = type("Held", (), {"device": torch.device("cpu")})()
    run = Run(0, Checkpoints(folder), log, Workers())
    description = NetworkDescription(dataset.classes, input_size=32, trunks=1)
    trunk = BilinearDVGG16(description).trunks[0].state_dict()
    return CrossValidator(dataset, held, trunk, description, phase, 2, run), log


def dataset_of(count: int) -> Dataset:
    samples = (
        Sample(Path(name, str(number)), label, f"{name}{number}") for label, name in enumerate(("a", "b")) for number in range(count)
    )
    return Dataset(("a", "b"), tuple(samples))


def choose(monkeypatch: pytest.MonkeyPatch, folder: Path, trials: Trials) -> tuple[CrossValidation, Watcher]:
    monkeypatch.setattr(crossvalidate, "phase_1", trials)
    chooser, log = validator(folder, dataset_of(4))
    return chooser.choose(), log


EVEN = {"none": [[1.0] * 3] * 2, "signed_sqrt_l2": [[1.0] * 3] * 2}


# --- the choice


def test_the_highest_mean_accuracy_is_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not the highest of one fold, and whatever its loss."""
    accuracies = {"none": [[1.0, 0.75, 0.5], [0.25, 1.0, 0.5]], "signed_sqrt_l2": [[0.75, 0.75, 0.75], [0.75, 0.75, 0.75]]}
    losses = {"none": [[9.0] * 3] * 2, "signed_sqrt_l2": [[0.1] * 3] * 2}
    chosen, _ = choose(monkeypatch, tmp_path, Trials(accuracies, losses))
    assert chosen == {
        "folds": 2,
        "head": "none",
        "epochs": 2,
        "accuracy": 0.875,
        "accuracy_range": (0.75, 1.0),
        "tried": {"none": [0.625, 0.875, 0.5], "signed_sqrt_l2": [0.75, 0.75, 0.75]},
    }


def test_of_equal_accuracies_the_lowest_mean_loss_is_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    losses = {"none": [[3.0, 2.0, 1.5], [1.0, 1.0, 2.5]], "signed_sqrt_l2": [[2.0, 1.4, 0.1], [2.0, 1.4, 3.0]]}
    chosen, _ = choose(monkeypatch, tmp_path, Trials(EVEN, losses))
    assert (chosen["head"], chosen["epochs"]) == ("signed_sqrt_l2", 2)


def test_where_nothing_tells_them_apart_the_fewest_epochs_are_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen, _ = choose(monkeypatch, tmp_path, Trials(EVEN, EVEN))
    assert (chosen["head"], chosen["epochs"]) == ("none", 1)


@pytest.mark.parametrize("folds_done", [0, 1])
def test_a_head_that_goes_astray_in_any_fold_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folds_done: int) -> None:
    astray = {"none": EVEN["none"][:folds_done], "signed_sqrt_l2": [[0.5] * 3] * 2}
    chosen, log = choose(monkeypatch, tmp_path, Trials(astray, EVEN))
    assert chosen["head"] == "signed_sqrt_l2"
    assert chosen["tried"]["none"] == []
    assert any("head none" in line and "not finite" in line for line in log.lines)


def test_where_every_head_goes_astray_the_learning_rate_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no head could be trained; lower the learning rate 0\.001"):
        choose(monkeypatch, tmp_path, Trials({"none": [], "signed_sqrt_l2": []}, EVEN))


def test_every_candidate_sees_the_same_folds_and_runs_to_its_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Early stopping would choose epochs by itself, other ones in each fold."""
    trials = Trials(EVEN, EVEN)
    monkeypatch.setattr(crossvalidate, "phase_1", trials)
    chooser, _ = validator(tmp_path, dataset_of(4), replace(PHASE_1, patience=1))
    chooser.choose()
    assert trials.sides[:2] == trials.sides[2:]
    assert trials.phases == [PHASE_1] * 4
    for training, held_back in trials.sides:
        assert sorted(training + held_back) == list(range(8))
        assert [len([index for index in held_back if index // 4 == label]) for label in (0, 1)] == [2, 2]
    assert sorted(trials.sides[0][1] + trials.sides[1][1]) == list(range(8))


# --- the whole of it


def test_every_picture_is_judged_once_by_a_network_that_never_saw_it(tmp_path: Path, trunk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns with labels drawn by lot: who has seen a picture knows its label, who has not can only guess."""
    rng = np.random.default_rng(0)
    for name in ("good", "stain"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            pattern = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "data" / name / f"{number:02}.png"), pattern.repeat(8, axis=0).repeat(8, axis=1))
    judged: list[tuple[Sample, ...]] = []
    looks = CrossValidator.looks

    def noted(validator: CrossValidator, chosen: CrossValidation) -> tuple[Look, ...]:
        found = looks(validator, chosen)
        judged.append(tuple(look.sample for look in found))
        return found

    monkeypatch.setattr(CrossValidator, "looks", noted)
    phase = Phase(epochs=20, learning_rate=1e-2, batch=6, at_once=6)
    report = trained(tmp_path / "data", tmp_path / "plate.safetensors", small(trunk, folds=3, phase_1=phase))
    dataset, loaded = read_folder(tmp_path / "data"), weights.load(tmp_path / "plate.safetensors")
    assert judged == [dataset.samples]
    assert report["validation"]["images"] == 24
    assert report["validation"]["accuracy"] == pytest.approx(report["cross_validation"]["accuracy"])
    assert report["validation"]["accuracy"] < 0.8
    engine = reference(loaded, "cpu")
    right = [engine.see(pixels, form).probabilities.argmax() == label for pixels, form, label in read_pictures(dataset.samples)]
    assert np.mean(right) > 0.95


def test_the_looks_are_those_of_the_choice(tmp_path: Path, trunk: str, data: Path) -> None:
    report = trained(data, tmp_path / "plate.safetensors", small(trunk, folds=2))
    chosen, card = report["cross_validation"], weights.load(tmp_path / "plate.safetensors").card
    assert chosen["folds"] == 2
    assert set(chosen["tried"]) == {"none", "signed_sqrt_l2"}
    assert {len(accuracies) for accuracies in chosen["tried"].values()} == {PHASE_1.epochs}
    assert chosen["accuracy"] == chosen["tried"][chosen["head"]][chosen["epochs"] - 1]
    assert report["validation"]["accuracy"] == pytest.approx(chosen["accuracy"])
    assert chosen["accuracy_range"][0] <= chosen["accuracy"] <= chosen["accuracy_range"][1]
    assert card["cross_validation"] == {**chosen, "accuracy_range": list(chosen["accuracy_range"])}
    assert report["epochs"] == chosen["epochs"]


def test_the_looks_and_the_last_network_are_trained_as_was_chosen(
    tmp_path: Path, trunk: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose, lines = CrossValidator.choose, list[str]()

    def chosen(validator: CrossValidator) -> CrossValidation:
        return {**choose(validator), "head": "none", "epochs": 2}

    monkeypatch.setattr(CrossValidator, "choose", chosen)
    report = trained(data, tmp_path / "plate.safetensors", small(trunk, folds=2), lines)
    assert report["epochs"] == 2
    assert weights.load(tmp_path / "plate.safetensors").description.head == "none"
    told = [line.partition(":")[0] for line in lines if "epoch 2 of 2" in line]
    assert told == ["fold 1 of 2, none, 2 epochs", "fold 2 of 2, none, 2 epochs", "phase 1"]


def test_in_the_end_all_pictures_are_trained_on(tmp_path: Path, trunk: str, data: Path) -> None:
    trained(data, tmp_path / "plate.safetensors", small(trunk, folds=2))
    split: Any = weights.load(tmp_path / "plate.safetensors").card["split"]
    assert split["training"] == sorted(sample.sha256[:16] for sample in read_folder(data).samples)
    assert split["held_back"] == []
