"""What the network said about one labelled picture, and what the station would have said to the PLC: the raw material of every number."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from station.training.dataset import Sample


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What was said about one labelled picture.

    Attributes:
        size: (width, height) of the picture, px.
        probabilities: float32 (K,), in the order of the network's classes.
        heat_map: uint8 (h, w), grey 0-255 at the network's resolution (Eq. 5), for the most probable class.
        trained_on: the network was trained on this very picture.
    """

    sample: Sample
    size: tuple[int, int]
    probabilities: npt.NDArray[np.float32]
    heat_map: npt.NDArray[np.uint8]
    trained_on: bool = False


def is_defective(look: Look, classes: Sequence[str], good: Sequence[str]) -> bool:
    """Whether the picture's label is a defect, whatever was said about it. Positive = defective, always."""
    return classes[look.sample.label] not in good


def said(look: Look, classes: Sequence[str]) -> str:
    """The most probable class."""
    return classes[int(look.probabilities.argmax())]


def confidence(look: Look, classes: Sequence[str], good: Sequence[str]) -> float | None:
    """How sure the network is that the part may pass: the probability of the class it names; None where that is no good class."""
    probability = float(look.probabilities.max())
    return probability if said(look, classes) in good and probability <= 1 else None


def passed(look: Look, classes: Sequence[str], good: Sequence[str], minimum_probability: float) -> bool:
    """Whether the Gate lets such a part go: a good class is the most probable one, at `minimum_probability` or above."""
    sure = confidence(look, classes, good)
    return sure is not None and sure >= minimum_probability
