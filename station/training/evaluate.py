"""What a network is worth: labelled pictures through the engine that inspects."""

from collections.abc import Iterable, Iterator
from typing import TypedDict

from station.training.dataset import DatasetError, Sample
from station.vision.engine import Engine
from station.vision.preprocess import Pixels, rgb_from_file


class Evaluation(TypedDict):
    """Counts over all pictures seen.

    Keys:
        images: how many.
        classes: the network's classes, the order of both axes of `confusion`.
        confusion: rows are the true class, columns the most probable one.
        accuracy: share of the pictures on its diagonal.
    """

    images: int
    classes: list[str]
    confusion: list[list[int]]
    accuracy: float


def evaluate(engine: Engine, pictures: Iterable[tuple[Pixels, str, int]]) -> Evaluation:
    """Accuracy and confusion over (pixels, PFNC pixel format, label), one by one, as the line would see them.

    Raises:
        DatasetError: there is no picture.
        ValueError, EngineError: as `Engine.see`.
    """
    classes = engine.description.classes
    confusion = [[0] * len(classes) for _ in classes]
    images = 0
    for pixels, pixel_format, label in pictures:
        confusion[label][int(engine.see(pixels, pixel_format).probabilities.argmax())] += 1
        images += 1
    if not images:
        raise DatasetError("no picture to evaluate with")
    accuracy = sum(confusion[label][label] for label in range(len(classes))) / images
    return Evaluation(images=images, classes=list(classes), confusion=confusion, accuracy=accuracy)


def read_pictures(samples: Iterable[Sample]) -> Iterator[tuple[Pixels, str, int]]:
    """The samples' pixels, PFNC pixel format and label, read one at a time.

    Raises:
        ValueError: a file is not a readable picture; the message names it.
    """
    for sample in samples:
        yield rgb_from_file(sample.path), "RGB8", sample.label
