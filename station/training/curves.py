"""What another limit would have meant: the ROC curve, and escapes and overkill over the recipe's minimum probability."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from station.training import bounds
from station.training.look import Look, confidence, is_defective

GRID = (*(round(percent / 100, 2) for percent in range(1, 100)), 0.995, 0.999, 0.9995, 0.9999, 0.99999)
"""Minimum probabilities: every percent, and closer where soft-max crowds."""


@dataclass(frozen=True, slots=True)
class Roc:
    """How well the probability of a defect tells defective from good pictures, whatever the limit.

    Attributes:
        points: (fpr, tpr) for every limit that makes a difference, from (0, 0) to (1, 1), neither ever falling.
        auc: the area under them: how often a defective picture scores above a good one, equal scores counting half.
    """

    points: tuple[tuple[float, float], ...]
    auc: float


@dataclass(frozen=True, slots=True)
class Limit:
    """What one minimum probability would have meant for these pictures.

    Attributes:
        escapes, overkill: defective pictures that would be passed, good ones that would not.
        fnr, fpr: their shares; None where there is no such picture.
        escape_upper, overkill_upper: the true fnr and fpr are not above them (one-sided, 95 %, for a limit chosen on other pictures).
    """

    minimum_probability: float
    escapes: int
    overkill: int
    fnr: float | None
    fpr: float | None
    escape_upper: float
    overkill_upper: float


def roc(looks: Sequence[Look], classes: Sequence[str], good: Sequence[str]) -> Roc | None:
    """The curve over P(defective) = 1 - the sum of the good classes' probabilities; None without a good or without a defective picture."""
    defective = np.array([is_defective(look, classes, good) for look in looks], dtype=bool)
    if not defective.any() or defective.all():
        return None
    is_good = np.array([name in good for name in classes])
    scores = np.array([1 - look.probabilities[is_good].sum(dtype=np.float64) for look in looks])
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.diff(scores[order]) != 0, True)
    tpr = np.append(0.0, (np.cumsum(defective[order]) / defective.sum())[last_of_equals])
    fpr = np.append(0.0, (np.cumsum(~defective[order]) / (~defective).sum())[last_of_equals])
    return Roc(tuple(zip(fpr.tolist(), tpr.tolist(), strict=True)), float(np.trapezoid(tpr, fpr)))


def threshold_curve(looks: Sequence[Look], classes: Sequence[str], good: Sequence[str], grid: Sequence[float] = GRID) -> tuple[Limit, ...]:
    """What each minimum probability of the grid would have meant, by the Gate's rule (see `look.passed`)."""
    sure: dict[bool, list[float]] = {True: [], False: []}
    count = {True: 0, False: 0}
    for look in looks:
        defective = is_defective(look, classes, good)
        count[defective] += 1
        if (value := confidence(look, classes, good)) is not None:
            sure[defective].append(value)
    return tuple(_limit(minimum, sure, count) for minimum in grid)


def _limit(minimum: float, sure: dict[bool, list[float]], count: dict[bool, int]) -> Limit:
    """Args: `sure`, the confidences of the pictures that look good, and `count`, all pictures; both by whether they are defective."""
    escapes = sum(value >= minimum for value in sure[True])
    overkill = count[False] - sum(value >= minimum for value in sure[False])
    return Limit(
        minimum_probability=minimum,
        escapes=escapes,
        overkill=overkill,
        fnr=escapes / count[True] if count[True] else None,
        fpr=overkill / count[False] if count[False] else None,
        escape_upper=bounds.upper(escapes, count[True]),
        overkill_upper=bounds.upper(overkill, count[False]),
    )
