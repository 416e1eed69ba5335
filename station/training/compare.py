"""Several methods on the same pictures, through the same folds: what Tables 1-5 of the paper do, with the counts beside the rates.

The paper splits once and prints one number a method. Here every picture is held back exactly once, so that a small data set is used whole,
and the spread over the folds is shown too.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypedDict

import numpy as np
import numpy.typing as npt

from station.training import bounds
from station.training.dataset import Dataset, DatasetError
from station.training.dataset import folds as stratified_folds

Integers = npt.NDArray[np.int64]


class Method(Protocol):
    """A way to classify one data set's pictures, which it was given when it was made, in the order of `Dataset.samples`."""

    @property
    def name(self) -> str:
        """As it is called in tables."""

    def fit_predict(self, training: Integers, labels: Integers, held_back: Integers) -> Integers:
        """Learns anew from some pictures and classifies others; the same arguments give the same answer, whatever was asked before.

        Args:
            training: (n,) indices of the pictures to learn from, ascending.
            labels: (n,) their classes; the others' labels are not told.
            held_back: (m,) indices of the pictures to classify.

        Returns:
            (m,) classes, each one of `labels`.
        """


class Rates(TypedDict):
    """Of pictures that are good or not, passed where a class that is good is predicted; positive = defective, always.

    Each is None where it is 0/0, and all are where not both good and defective classes exist: such an answer is no achievement.

    Keys:
        precision, tpr, fpr, fnr, f1: Eq. 7-11.
        fdr: 1 - precision, which Table 5 prints as "FPR".
        escape_upper, overkill_upper: the true fnr and fpr are not above them (one-sided, 95 %, Clopper-Pearson).
    """

    precision: float | None
    tpr: float | None
    fpr: float | None
    fnr: float | None
    fdr: float | None
    f1: float | None
    escape_upper: float | None
    overkill_upper: float | None


class MethodResult(Rates):
    """What a method said of every picture while it was held back, all folds together.

    Keys:
        method: its name.
        confusion: rows are the true class, columns the predicted one.
        accuracy: share of the pictures on its diagonal.
        accuracy_low: the true accuracy is not below it (one-sided, 95 %, Clopper-Pearson); nearly so, as the folds share training pictures.
        fold_accuracy: of each fold; accuracy_mean, accuracy_min and accuracy_max are over these.
        seconds: learning and predicting in all folds, without what the method computed of the pictures when it was made.
    """

    method: str
    confusion: list[list[int]]
    accuracy: float
    accuracy_low: float
    fold_accuracy: list[float]
    accuracy_mean: float
    accuracy_min: float
    accuracy_max: float
    seconds: float


class Comparison(TypedDict):
    """All methods; `classes` is the order of both axes of each `confusion`, `data_sha256` the data set's identity."""

    images: int
    classes: list[str]
    good: list[str]
    folds: int
    seed: int
    data_sha256: str
    methods: list[MethodResult]


def compare(
    dataset: Dataset,
    methods: Sequence[Method],
    good: tuple[str, ...],
    folds: int,
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Every method learns and answers in each of the same folds; see `dataset.folds`.

    Args:
        good: the classes that pass; may be empty, where every class is a kind of defect.
        progress: is told one line of text a method and fold.

    Raises:
        DatasetError: `good` names a class that the data set has not, only one class has pictures, or the folds cannot be made.
        ValueError: a method did not answer one of the classes for each picture it was asked for.
    """
    unknown = [name for name in good if name not in dataset.classes]
    if unknown:
        raise DatasetError(f"good: {', '.join(unknown)} is no class of these pictures; they are {', '.join(dataset.classes)}")
    if sum(count > 0 for count in dataset.counts().values()) < 2:
        raise DatasetError("there are pictures of one class only; comparing needs two classes or more, a folder each")
    indices = _indices(dataset, folds, seed)
    return Comparison(
        images=len(dataset.samples),
        classes=list(dataset.classes),
        good=list(good),
        folds=folds,
        seed=seed,
        data_sha256=dataset.sha256,
        methods=[_through_folds(dataset, method, indices, good, progress) for method in methods],
    )


def _indices(dataset: Dataset, folds: int, seed: int) -> list[tuple[Integers, Integers]]:
    """The folds as ascending indices into the samples: (training, held back) each."""
    index = {sample.path: number for number, sample in enumerate(dataset.samples)}
    return [
        (np.array(sorted(index[sample.path] for sample in training)), np.array(sorted(index[sample.path] for sample in held_back)))
        for training, held_back in stratified_folds(dataset, folds, seed)
    ]


def _through_folds(
    dataset: Dataset, method: Method, indices: list[tuple[Integers, Integers]], good: tuple[str, ...], progress: Callable[[str], None]
) -> MethodResult:
    labels = np.array([sample.label for sample in dataset.samples])
    confusion = np.zeros((len(dataset.classes),) * 2, dtype=np.int64)
    accuracies = []
    started = time.perf_counter()
    for number, (training, held_back) in enumerate(indices, 1):
        answers = method.fit_predict(training, labels[training], held_back)
        if answers.shape != held_back.shape or not np.isin(answers, labels[training]).all():
            raise ValueError(f"{method.name}: must answer one of the classes it learned for each of {len(held_back)} pictures")
        np.add.at(confusion, (labels[held_back], answers), 1)
        accuracies.append(float((answers == labels[held_back]).mean()))
        progress(f"{method.name}: fold {number} of {len(indices)}, accuracy {accuracies[-1]:.4f}")
    seconds = time.perf_counter() - started
    correct, images = int(confusion.trace()), int(confusion.sum())
    return {
        "method": method.name,
        "confusion": confusion.tolist(),
        "accuracy": correct / images,
        "accuracy_low": bounds.lower(correct, images),
        "fold_accuracy": accuracies,
        "accuracy_mean": float(np.mean(accuracies)),
        "accuracy_min": min(accuracies),
        "accuracy_max": max(accuracies),
        "seconds": seconds,
        **_rates(confusion, np.array([name in good for name in dataset.classes])),
    }


def _rates(confusion: Integers, good: npt.NDArray[np.bool_]) -> Rates:
    """The rates of a confusion (K, K) when the classes `good` (K,) pass."""
    tp, fp = int(confusion[~good][:, ~good].sum()), int(confusion[good][:, ~good].sum())
    fn, tn = int(confusion[~good][:, good].sum()), int(confusion[good][:, good].sum())
    decides = bool(good.any() and not good.all())

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole and decides else None

    return Rates(
        precision=share(tp, tp + fp),  # Eq. 7
        tpr=share(tp, tp + fn),  # Eq. 8
        fpr=share(fp, fp + tn),  # Eq. 9
        fnr=share(fn, fn + tp),  # Eq. 10
        fdr=share(fp, tp + fp),
        f1=share(2 * tp, 2 * tp + fp + fn),  # Eq. 11, its fractions cleared: defined where one of them is not
        escape_upper=bounds.upper(fn, tp + fn) if decides else None,
        overkill_upper=bounds.upper(fp, fp + tn) if decides else None,
    )
