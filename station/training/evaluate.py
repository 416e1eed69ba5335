"""What a network is worth: labelled pictures through the very inspector that runs on the line, and what can honestly be said of it.

Positive = defective, always: an escape is a false negative, overkill a false positive. Departure from Table 5: its column FPR equals 1 - PR
in every row, so it is not Eq. 9; `fpr` here is Eq. 9, and the table's quantity is called `fdr`, the false discovery rate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from drivers.camera import Frame
from station import inspector
from station.config import Home
from station.inspector import Inspector
from station.recipe import Recipe, find
from station.training import bounds, localization
from station.training.dataset import DatasetError, Sample, read_folder
from station.training.ground_truth import GroundTruth, Truth, read_boxes, read_masks
from station.training.localization import LocalizationReport
from station.training.look import Look, is_defective, passed
from station.vision.dvgg16 import NetworkDescription
from station.vision.preprocess import rgb_from_file

__all__ = ["Evaluated", "Evaluation", "Look", "evaluate_recipe", "evaluation"]

_CARD_DIGITS = 16  # of a picture's sha256 that the weights' card keeps


class Evaluation(TypedDict):
    """Counts and rates over all pictures looked at; a rate over no picture at all is None.

    Keys:
        images: how many.
        classes: the network's classes, the order of both axes of `confusion`.
        good: the classes that may pass.
        minimum_probability: a picture is passed where a good class is the most probable one, at this probability or above.
        confusion: rows are the true class, columns the most probable one.
        accuracy: share of the pictures on its diagonal; the paper calls it average precision.
        accuracy_low: the true accuracy is not below it (one-sided, 95 %).
        defective: pictures of a defect; the others are good.
        escapes, overkill: defective pictures that are passed, good ones that are not.
        precision, tpr, fpr, fnr: Eq. 7-10 with positive = defective = not passed.
        fdr: 1 - precision.
        f1: Eq. 11.
        escape_upper, overkill_upper: the true fnr and fpr are not above them (one-sided, 95 %); 1.0 where there is no picture.
        copies: pictures left out because the same picture was there before; all numbers are without them.
        trained_on: of how many pictures it is known that the network was trained on them, or that they chose when to stop.
        warnings: what keeps these numbers from meaning what they seem to.
        localization: where ground truth was given.
        unseen: where some were trained on, the same over the pictures that were not; None where there is none.
    """

    images: int
    classes: list[str]
    good: list[str]
    minimum_probability: float
    confusion: list[list[int]]
    accuracy: float
    accuracy_low: float
    defective: int
    escapes: int
    overkill: int
    precision: float | None
    tpr: float | None
    fpr: float | None
    fnr: float | None
    fdr: float | None
    f1: float | None
    escape_upper: float
    overkill_upper: float
    copies: int
    trained_on: int
    warnings: list[str]
    localization: NotRequired[LocalizationReport]
    unseen: NotRequired["Evaluation | None"]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A recipe's evaluation with all that it was counted from.

    Attributes:
        description: of the recipe's network.
        looks: one a picture, in the order of the folder.
        knows_its_training: the weights say which pictures had a part in their training.
        truths: where the defects are, by the path of their picture; empty where no ground truth was given.
    """

    recipe: Recipe
    description: NetworkDescription
    looks: tuple[Look, ...]
    truths: Mapping[Path, Truth]
    evaluation: Evaluation
    knows_its_training: bool = True

    @property
    def classes(self) -> tuple[str, ...]:
        """The network's, in its order."""
        return self.description.classes


def evaluation(looks: Sequence[Look], classes: Sequence[str], good: Sequence[str], minimum_probability: float) -> Evaluation:
    """All numbers but the localization's.

    Raises:
        DatasetError: there is no look.
    """
    if not looks:
        raise DatasetError("no picture to evaluate with")
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    decided = np.zeros((2, 2), dtype=np.int64)  # rows: good, defective; columns: passed, not passed
    for look in looks:
        confusion[look.sample.label, look.probabilities.argmax()] += 1
        decided[int(is_defective(look, classes, good)), int(not passed(look, classes, good, minimum_probability))] += 1
    (tn, fp), (fn, tp) = decided.tolist()
    correct, trained_on = int(confusion.trace()), sum(look.trained_on for look in looks)
    words = f"{trained_on} of {len(looks)} pictures were trained on: these numbers say nothing about new parts"
    return Evaluation(
        images=len(looks),
        classes=list(classes),
        good=list(good),
        minimum_probability=minimum_probability,
        confusion=confusion.tolist(),
        accuracy=correct / len(looks),
        accuracy_low=bounds.lower(correct, len(looks)),
        defective=tp + fn,
        escapes=fn,
        overkill=fp,
        precision=_share(tp, tp + fp),  # Eq. 7
        tpr=_share(tp, tp + fn),  # Eq. 8
        fpr=_share(fp, fp + tn),  # Eq. 9
        fnr=_share(fn, tp + fn),  # Eq. 10
        fdr=_share(fp, tp + fp),
        f1=_share(2 * tp, 2 * tp + fp + fn),  # Eq. 11, its fractions cleared: defined where one of them is not
        escape_upper=bounds.upper(fn, tp + fn),
        overkill_upper=bounds.upper(fp, fp + tn),
        copies=0,
        trained_on=trained_on,
        warnings=[words] if trained_on else [],
    )


def evaluate_recipe(
    home: Home, device: str, name: str, data: Path, masks: Path | None, boxes: Path | None, progress: Callable[[str], None]
) -> Evaluated:
    """Inspects every picture of `data` (see `dataset.read_folder`) as the line would and counts what comes of it.

    Args:
        name: the recipe's name or number.
        masks, boxes: where the defects are, see `ground_truth`; one of them at most.
        progress: is told one line of text a step.

    Raises:
        RecipeError: as `recipe.find` and `inspector.prepare`.
        DatasetError: the folder holds no such classes or pictures, or the ground truth does not fit them.
        ValueError: a picture cannot be read.
        EngineError: the device is not there, or the network gave no usable answer.
    """
    prepared = inspector.prepare(find(home.recipes, name), home.weights, home.engines, device)
    classes, good = prepared.description.classes, prepared.recipe.document.good
    dataset = read_folder(data, classes)
    found = _ground_truth(masks, boxes, [sample for sample in dataset.samples if classes[sample.label] not in good])
    truths = found.truths if found else None
    with_truth_last = sorted(dataset.samples, key=lambda sample: sample.path in (truths or {}))
    distinct = {*{(sample.label, sample.sha256): sample.path for sample in with_truth_last}.values()}
    looks = _look_at(prepared, [sample for sample in dataset.samples if sample.path in distinct], progress)
    document = _document(prepared, looks, truths)
    if document["trained_on"]:
        unseen = [look for look in looks if not look.trained_on]
        document["unseen"] = _document(prepared, unseen, truths) if unseen else None
    document["copies"] = len(dataset.samples) - len(looks)
    known = _training_pictures(prepared.card) is not None
    if not known:
        document["warnings"].append("the weights do not say which pictures they were trained on; these may be among them")
    if refused := sum(not look.probabilities.any() for look in looks):
        document["warnings"].append(
            f"{refused} pictures were refused as under- or over-exposed: not passed, and counted as said {classes[0]}"
        )
    document["warnings"] += [*(found.warnings if found else ()), *dataset.warnings]
    return Evaluated(prepared.recipe, prepared.description, looks, truths or {}, document, known)


def _ground_truth(masks: Path | None, boxes: Path | None, defective: Sequence[Sample]) -> GroundTruth | None:
    """Read before anything is inspected, so that what is wrong with it is said at once."""
    if masks and boxes:
        raise DatasetError(f"masks {masks}, boxes {boxes}: give one of them; each is compared in its own way")
    if masks:
        return read_masks(masks, defective)
    return read_boxes(boxes, defective) if boxes else None


def _look_at(prepared: Inspector, samples: Sequence[Sample], progress: Callable[[str], None]) -> tuple[Look, ...]:
    """Every picture through the inspector, one by one, as on the line; of the pictures themselves nothing is kept."""
    trained_on = _training_pictures(prepared.card) or frozenset()
    classes = prepared.description.classes
    looks = []
    for number, sample in enumerate(samples, 1):
        pixels = rgb_from_file(sample.path)
        try:
            seen = prepared.inspect(Frame(pixels, "RGB8", 0, 0, 0))
            scores, heat_map = seen.scores, seen.heat_map
        except ValueError as error:  # on the line it fails, whatever is in it
            progress(f"{sample.path}: {error}")
            scores, heat_map = dict.fromkeys(classes, 0.0), np.zeros((1, 1), np.uint8)
        probabilities = np.array([scores[name] for name in classes], dtype=np.float32)
        size = (pixels.shape[1], pixels.shape[0])
        looks.append(Look(sample, size, probabilities, heat_map, sample.sha256[:_CARD_DIGITS] in trained_on))
        if number % 20 == 0 or number == len(samples):
            progress(f"picture {number} of {len(samples)}")
    return tuple(looks)


def _document(prepared: Inspector, looks: Sequence[Look], truths: Mapping[Path, Truth] | None) -> Evaluation:
    recipe, classes = prepared.recipe.document, prepared.description.classes
    document = evaluation(looks, classes, recipe.good, recipe.minimum_probability)
    if truths is not None:
        min_area_px = recipe.localization.min_area_px
        document["localization"] = localization.report(looks, truths, recipe.good, classes, prepared.threshold, min_area_px)
    return document


def _training_pictures(card: Mapping[str, object]) -> frozenset[str] | None:
    """First digits of the hashes of all pictures with a part in the training, as the weights' card keeps them; None where it does not."""
    split = card.get("split")
    if not isinstance(split, Mapping) or not isinstance(split.get("training"), list):
        return None
    return frozenset([*split["training"], *split.get("held_back", ())])


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
