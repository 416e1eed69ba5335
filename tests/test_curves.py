from pathlib import Path

import numpy as np
import pytest

from station.training.curves import GRID, roc, threshold_curve
from station.training.dataset import Sample
from station.training.evaluate import Look, evaluation

CLASSES = ("good", "worn", "crack")
GOOD = ("good", "worn")


def look(label: int, probabilities: list[float]) -> Look:
    return Look(Sample(Path("a.png"), label, "0" * 64), (8, 8), np.array(probabilities, dtype=np.float32), np.zeros((4, 4), np.uint8))


def many_looks(seed: int, steps: int = 16) -> list[Look]:
    """Labels and probabilities that have something to do with each other; in sixteenths, so that many scores are equal."""
    rng = np.random.default_rng(seed)
    looks = []
    for label in rng.integers(0, 3, 120).tolist():
        alpha = [0.5, 0.5, 0.5]
        alpha[label] += 1
        shares = rng.multinomial(steps, rng.dirichlet(alpha)) / steps
        looks.append(look(label, shares.tolist()))
    return looks


@pytest.mark.parametrize("seed", range(3))
def test_the_roc_is_that_of_the_literal_loop(seed: int) -> None:
    looks = many_looks(seed)
    scores = [1 - float(one.probabilities[0]) - float(one.probabilities[1]) for one in looks]
    defective = [s for s, one in zip(scores, looks, strict=True) if one.sample.label == 2]
    good = [s for s, one in zip(scores, looks, strict=True) if one.sample.label != 2]
    limits = [2.0, *sorted(set(scores), reverse=True)]
    points = tuple((sum(s >= t for s in good) / len(good), sum(s >= t for s in defective) / len(defective)) for t in limits)
    auc = sum((d > g) + (d == g) / 2 for d in defective for g in good) / (len(good) * len(defective))
    curve = roc(looks, CLASSES, GOOD)
    assert curve is not None
    assert curve.points == points
    assert curve.auc == pytest.approx(auc)
    assert 0.6 < auc < 1
    assert len(points) == 18


@pytest.mark.parametrize(("defect", "auc"), [(0.9, 1.0), (0.1, 0.5), (0.05, 0.0)])
def test_a_single_pair_is_told_apart_or_not(defect: float, auc: float) -> None:
    curve = roc([look(2, [1 - defect, 0, defect]), look(0, [0.9, 0, 0.1])], CLASSES, GOOD)
    assert curve is not None
    assert (curve.auc, curve.points[0], curve.points[-1]) == (auc, (0.0, 0.0), (1.0, 1.0))


@pytest.mark.parametrize(
    ("looks", "good"),
    [([], GOOD), ([look(0, [1, 0, 0])], GOOD), ([look(2, [0, 0, 1])], GOOD), ([look(0, [1, 0, 0]), look(2, [0, 0, 1])], ())],
)
def test_without_both_kinds_of_picture_there_is_no_roc(looks: list[Look], good: tuple[str, ...]) -> None:
    assert roc(looks, CLASSES, good) is None


def test_each_limit_is_what_an_evaluation_with_it_would_say() -> None:
    looks = many_looks(5)
    keys = ("escapes", "overkill", "fnr", "fpr", "escape_upper", "overkill_upper", "minimum_probability")
    curve = threshold_curve(looks, CLASSES, GOOD, (0.05, 0.5, 0.75, 1.0))
    for limit in curve:
        document = evaluation(looks, CLASSES, GOOD, limit.minimum_probability)
        assert {key: getattr(limit, key) for key in keys} == {key: document[key] for key in keys}  # type: ignore[literal-required]
    assert len({limit.escapes for limit in curve}) == 4
    assert curve[0].escapes > curve[-1].escapes
    assert curve[0].overkill < curve[-1].overkill


def test_a_higher_limit_never_lets_more_through() -> None:
    curve = threshold_curve(many_looks(6, steps=100_000), CLASSES, GOOD)
    assert [limit.minimum_probability for limit in curve] == list(GRID) == sorted(GRID)
    assert all(0 < minimum <= 1 for minimum in GRID)
    escapes, overkill = [limit.escapes for limit in curve], [limit.overkill for limit in curve]
    assert escapes == sorted(escapes, reverse=True)
    assert overkill == sorted(overkill)
    assert escapes[0] > escapes[-1]


def test_without_a_good_class_nothing_is_ever_passed() -> None:
    (limit,) = threshold_curve([look(0, [1, 0, 0])], CLASSES, (), (0.5,))
    assert (limit.escapes, limit.fnr, limit.fpr, limit.overkill, limit.overkill_upper) == (0, 0.0, None, 0, 1.0)


def test_without_a_defective_picture_escapes_are_unknown() -> None:
    (limit,) = threshold_curve([look(0, [1, 0, 0])], CLASSES, GOOD, (0.5,))
    assert (limit.fnr, limit.escape_upper, limit.fpr) == (None, 1.0, 0.0)
