from pathlib import Path

import cv2
import numpy as np
import pytest

from station.training.dataset import Sample
from station.training.ground_truth import Truth
from station.training.localization import SIGMA, localize, report
from station.training.look import Look
from station.vision.segment import Fixed, Otsu, Threshold, covered, segment

CLASSES = ("good", "crack")
SIZE = (40, 24)  # width, height
HALF = Fixed(128)
CALLED_CRACK = np.array([0.1, 0.9], dtype=np.float32)
CALLED_GOOD = np.array([0.9, 0.1], dtype=np.float32)


def blobs(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).random((10, 10)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.2)
    return ((smooth - smooth.min()) / (smooth.max() - smooth.min()) * 255).astype(np.uint8)


def look(heat_map: np.ndarray, name: str = "a", label: int = 1, probabilities: np.ndarray = CALLED_CRACK) -> Look:
    return Look(Sample(Path(f"{name}.png"), label, "0" * 64), SIZE, probabilities, heat_map)


def window(x: int, y: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros(SIZE[::-1], dtype=np.bool_)
    mask[y : y + height, x : x + width] = True
    return mask


def one(heat_map: np.ndarray, truth: Truth, threshold: Threshold = HALF, min_area_px: int = 1) -> dict[str, float | None]:
    return dict(localize([look(heat_map)], {Path("a.png"): truth}, ("good",), CLASSES, threshold, min_area_px))


def literal_iou(found: set[tuple[int, int]], mask: np.ndarray) -> float:
    true = {(x, y) for y in range(SIZE[1]) for x in range(SIZE[0]) if mask[y, x]}
    return len(found & true) / len(found | true)


def spot(x: int, y: int) -> np.ndarray:
    """A heat map at the picture's own resolution with one hot pixel."""
    heat = np.zeros(SIZE[::-1], dtype=np.uint8)
    heat[y, x] = 255
    return heat


# --- the pixels of the regions


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [Fixed(1), Fixed(128), Fixed(255), Otsu()])
@pytest.mark.parametrize("min_area_px", [1, 30, 100_000])
def test_the_pixels_covered_are_those_of_the_regions_reported(seed: int, threshold: Threshold, min_area_px: int) -> None:
    pixels = covered(blobs(seed), SIZE, threshold, min_area_px)
    assert (pixels.shape, pixels.dtype) == (SIZE[::-1], np.bool_)
    count, labels = cv2.connectedComponents(pixels.astype(np.uint8), connectivity=8)
    found = sorted((int((labels == label).sum()), cv2.boundingRect((labels == label).astype(np.uint8))) for label in range(1, count))
    regions = segment(blobs(seed), SIZE, threshold, min_area_px)
    assert found == sorted((region.area_px, region.box) for region in regions)


# --- intersection over union


@pytest.mark.parametrize("seed", range(4))
def test_iou_with_a_mask_is_that_of_the_literal_loop(seed: int) -> None:
    heat, mask = blobs(seed), window(5, 4, 20, 12)
    grey = cv2.resize(heat, SIZE, interpolation=cv2.INTER_LINEAR)
    found = {(x, y) for y in range(SIZE[1]) for x in range(SIZE[0]) if grey[y, x] >= 150}
    document = one(heat, Truth(mask, "mask"), Fixed(150))
    assert document["mean_iou"] == document["median_iou"] == pytest.approx(literal_iou(found, mask))


@pytest.mark.parametrize("seed", range(4))
def test_iou_with_boxes_compares_the_union_of_the_regions_boxes(seed: int) -> None:
    heat, mask = blobs(seed), window(0, 0, 9, 9) | window(20, 6, 15, 15)
    found = set()
    for region in segment(heat, SIZE, Fixed(170), 4):
        x, y, width, height = region.box
        found |= {(x + dx, y + dy) for dx in range(width) for dy in range(height)}
    document = one(heat, Truth(mask, "boxes"), Fixed(170), 4)
    assert document["mean_iou"] == pytest.approx(literal_iou(found, mask))


def test_a_diagonal_defect_is_compared_by_pixels_with_a_mask_and_by_boxes_with_boxes() -> None:
    heat = spot(3, 3) | spot(4, 4) | spot(5, 5)
    assert one(heat, Truth(heat > 0, "mask"))["mean_iou"] == 1.0
    assert one(heat, Truth(heat > 0, "boxes"))["mean_iou"] == pytest.approx(3 / 9)
    assert one(heat, Truth(window(3, 3, 3, 3), "boxes"))["mean_iou"] == 1.0


def test_regions_that_the_line_would_not_report_do_not_count() -> None:
    heat = spot(1, 1)
    heat[10:14, 10:14] = 200
    truth = Truth(window(10, 10, 4, 4), "mask")
    assert one(heat, truth, min_area_px=1)["mean_iou"] == pytest.approx(16 / 17)
    assert one(heat, truth, min_area_px=2)["mean_iou"] == 1.0
    assert one(heat, truth, min_area_px=17)["mean_iou"] == 0.0


# --- the pointing game


def test_the_maximum_points_at_the_defect_or_beside_it() -> None:
    truth = Truth(window(10, 5, 2, 2), "mask")
    assert one(spot(11, 6), truth)["pointing_game"] == 1.0
    assert one(spot(12, 6), truth)["pointing_game"] == 0.0
    assert one(spot(6, 11), truth)["pointing_game"] == 0.0


@pytest.mark.parametrize("seed", range(6))
def test_the_maximum_is_that_of_the_interpolated_heat_map_first_in_reading_order(seed: int) -> None:
    grey = cv2.resize(blobs(seed), SIZE, interpolation=cv2.INTER_LINEAR)
    best = (0, 0)
    for y in range(SIZE[1]):
        for x in range(SIZE[0]):
            if grey[y, x] > grey[best[1], best[0]]:
                best = (x, y)
    assert one(blobs(seed), Truth(window(*best, 1, 1), "mask"))["pointing_game"] == 1.0
    assert one(blobs(seed), Truth(~window(*best, 1, 1), "mask"))["pointing_game"] == 0.0


# --- what counts


def test_a_defect_that_was_called_good_is_a_miss_wherever_its_heat_map_points() -> None:
    truth = Truth(spot(3, 3) > 0, "mask")
    missed = look(spot(3, 3), probabilities=CALLED_GOOD)
    assert localize([missed], {Path("a.png"): truth}, ("good",), CLASSES, Fixed(128), 1) == {
        "images": 1,
        "pointing_game": 0.0,
        "found": 0,
        "pointing_game_found": None,
        "mean_iou": 0.0,
        "median_iou": 0.0,
    }


def test_what_the_classifier_missed_is_told_apart_from_what_the_heat_map_missed() -> None:
    truth = Truth(spot(3, 3) > 0, "mask")
    looks = [look(spot(3, 3), "a"), look(spot(9, 9), "b"), look(spot(3, 3), "c", probabilities=CALLED_GOOD), look(spot(3, 3), "d")]
    document = localize(looks, {one_look.sample.path: truth for one_look in looks}, ("good",), CLASSES, Fixed(128), 1)
    assert (document["images"], document["pointing_game"]) == (4, 0.5)
    assert (document["found"], document["pointing_game_found"]) == (3, pytest.approx(2 / 3))


def test_a_dark_heat_map_points_nowhere() -> None:
    document = one(np.zeros((10, 10), dtype=np.uint8), Truth(window(0, 0, *SIZE), "mask"), Otsu())
    assert (document["pointing_game"], document["mean_iou"]) == (0.0, 0.0)


def test_only_defective_pictures_with_a_truth_are_compared() -> None:
    truth = Truth(spot(3, 3) > 0, "mask")
    looks = [look(spot(3, 3), "a"), look(spot(9, 9), "good", label=0), look(spot(9, 9), "no truth")]
    truths = {Path("a.png"): truth, Path("good.png"): truth, Path("elsewhere.png"): truth}
    document = localize(looks, truths, ("good",), CLASSES, Fixed(128), 1)
    assert (document["images"], document["mean_iou"], document["pointing_game"]) == (1, 1.0, 1.0)


def test_mean_and_median_are_over_the_pictures() -> None:
    truth = Truth(window(0, 0, 10, 1), "mask")
    heats = [window(0, 0, width, 1).astype(np.uint8) * 255 for width in (10, 4, 3, 1)]
    looks = [look(heat, str(number)) for number, heat in enumerate(heats)]
    truths = {one_look.sample.path: truth for one_look in looks}
    document = localize(looks, truths, ("good",), CLASSES, Fixed(128), 1)
    assert (document["mean_iou"], document["median_iou"]) == (pytest.approx(0.45), pytest.approx(0.35))


@pytest.mark.parametrize("looks", [[], [look(spot(3, 3), label=0)]])
def test_without_a_defective_picture_nothing_is_said(looks: list[Look]) -> None:
    truths = {Path("a.png"): Truth(spot(3, 3) > 0, "mask")}
    nothing = {"images": 0, "pointing_game": None, "found": 0, "pointing_game_found": None, "mean_iou": None, "median_iou": None}
    assert localize(looks, truths, ("good",), CLASSES, Otsu(), 1) == nothing


def test_without_a_good_class_every_picture_is_defective_and_none_called_good() -> None:
    truths = {Path("a.png"): Truth(spot(3, 3) > 0, "mask")}
    document = localize([look(spot(3, 3), label=0, probabilities=CALLED_GOOD)], truths, (), CLASSES, Fixed(128), 1)
    assert (document["images"], document["mean_iou"]) == (1, 1.0)


@pytest.mark.parametrize(("own", "sigma"), [(Fixed(90), 90), (Otsu(), SIGMA)])
def test_both_methods_are_reported_beside_the_recipes_own(own: Threshold, sigma: int) -> None:
    looks = [look(blobs(seed), str(seed)) for seed in range(4)]
    truths = {one_look.sample.path: Truth(window(8, 4, 16, 12), "mask") for one_look in looks}

    def overlap(threshold: Threshold) -> dict[str, float | None]:
        document = localize(looks, truths, ("good",), CLASSES, threshold, 5)
        return {key: document[key] for key in ("mean_iou", "median_iou")}  # type: ignore[literal-required]

    document = report(looks, truths, ("good",), CLASSES, own, 5)
    assert document == {
        **localize(looks, truths, ("good",), CLASSES, own, 5),
        "methods": {"fixed": {"sigma": sigma, **overlap(Fixed(sigma))}, "otsu": overlap(Otsu())},
    }
    assert overlap(Fixed(sigma)) != overlap(Otsu())
