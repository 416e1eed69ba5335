import numpy as np
import pytest

from station.vision.engine import Seen
from station.vision.parity import HEAT_MAP_CORRELATION, PROBABILITY_TOLERANCE, Pair, compare, pair

AGREE = Pair((0.95, 0.05), (0.945, 0.055), 0.995)
RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8)


def passes(probabilities) -> bool:
    return probabilities[0] >= 0.9


def seen(heat_map, probabilities=(0.7, 0.3)) -> Seen:
    return Seen(np.array(probabilities, dtype=np.float32), heat_map)


def test_an_engine_that_agrees_passes():
    parity = compare([AGREE, AGREE], passes)
    assert parity.holds
    assert (parity.pictures, parity.verdicts) == (2, 2)
    assert parity.probability == pytest.approx(0.005)
    assert parity.heat_map == 0.995


@pytest.mark.parametrize(
    "bad",
    [
        Pair((0.99, 0.01), (0.99 - 1.01 * PROBABILITY_TOLERANCE, 0.01 + 1.01 * PROBABILITY_TOLERANCE), 1.0),
        Pair((0.99, 0.01), (0.99, 0.01), HEAT_MAP_CORRELATION - 1e-6),
        Pair((0.501, 0.499), (0.499, 0.501), 1.0),
        Pair((0.901, 0.099), (0.899, 0.101), 1.0),
    ],
    ids=["probability", "heat map", "class", "verdict"],
)
def test_one_picture_that_differs_is_enough_to_refuse(bad):
    assert not compare([AGREE, bad, AGREE], passes).holds
    assert compare([AGREE], passes).holds


def test_nothing_compared_is_nothing_shown():
    assert not compare([], passes).holds


def test_the_worst_of_all_pictures_counts():
    parity = compare([AGREE, Pair((0.2, 0.8), (0.209, 0.791), 0.991)], passes)
    assert parity.probability == pytest.approx(0.009)
    assert parity.heat_map == 0.991


def test_heat_maps_are_compared_by_their_correlation():
    other = np.random.default_rng(0).integers(0, 256, RAMP.shape, dtype=np.uint8)
    expected = np.corrcoef(RAMP.ravel(), other.ravel())[0, 1]
    assert pair(seen(RAMP), seen(other)).heat_map == pytest.approx(expected)
    assert pair(seen(RAMP), seen(RAMP * 4)).heat_map == pytest.approx(1)


def test_a_flat_heat_map_agrees_only_with_its_equal():
    dark = np.zeros((8, 8), dtype=np.uint8)
    assert pair(seen(dark), seen(dark)).heat_map == 1
    assert pair(seen(dark), seen(RAMP)).heat_map == 0
    assert pair(seen(RAMP), seen(dark)).heat_map == 0


def test_a_pair_holds_what_both_said():
    both = pair(seen(RAMP, (0.75, 0.25)), seen(RAMP, (0.5, 0.5)))
    assert both.fp32 == (0.75, 0.25)
    assert both.engine == (0.5, 0.5)
