"""Synthetic parts: deterministic, the right size, and every label is true and visible."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from drivers.simulated.parts import CLASSES, make_part, write_folder

KINDS = [(product, class_name) for product, classes in CLASSES.items() for class_name in classes]
DEFECTS = [(product, class_name) for product, class_name in KINDS if class_name != "good"]
SIZES = {"bulb": (601, 661), "iron": (1324, 468)}
SEEDS = range(5)


@pytest.mark.parametrize(("product", "class_name"), KINDS)
def test_the_same_three_words_make_the_same_part(product: str, class_name: str) -> None:
    one, again, other = make_part(product, class_name, 3), make_part(product, class_name, 3), make_part(product, class_name, 4)
    assert np.array_equal(one.picture, again.picture)
    assert np.array_equal(one.mask, again.mask)
    assert not np.array_equal(one.picture, other.picture)


@pytest.mark.parametrize(("product", "class_name"), KINDS)
def test_a_part_is_rgb_of_the_paper_s_size_and_cannot_be_written_to(product: str, class_name: str) -> None:
    part = make_part(product, class_name, 1)
    assert part.picture.shape == (*SIZES[product], 3)
    assert part.picture.dtype == np.uint8
    assert part.mask.shape == SIZES[product]
    assert not part.picture.flags.writeable
    assert not part.mask.flags.writeable


@pytest.mark.parametrize("product", CLASSES)
def test_a_good_part_has_an_empty_mask(product: str) -> None:
    assert not any(make_part(product, "good", seed).mask.any() for seed in SEEDS)


@pytest.mark.parametrize(("product", "class_name"), DEFECTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_defect_is_visible_where_its_mask_is_and_nowhere_else(product: str, class_name: str, seed: int) -> None:
    """The same seed is the same part underneath: what differs from the good one is the defect, and nothing of it is far from its mask."""
    part, good = make_part(product, class_name, seed), make_part(product, "good", seed)
    difference = np.abs(part.picture.astype(int) - good.picture).max(axis=2)
    assert part.mask.sum() > 500
    inside = difference[part.mask].mean()
    assert inside > 20, f"mean difference {inside:.1f} in the mask: nobody could see it"
    assert difference[~_widened(part.mask, 61)].max() <= 12
    assert (difference[~_widened(part.mask, 15)] > 40).sum() == 0, "what a person sees of the defect lies beside its mask"


@pytest.mark.parametrize(("product", "class_name"), DEFECTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_defect_is_still_visible_as_the_network_sees_it(product: str, class_name: str, seed: int) -> None:
    """Squeezed to 224 x 224, a dozen pixels still differ by 40 grey levels from the same part without the defect."""
    part, good = (
        cv2.resize(make_part(product, name, seed).picture, (224, 224), interpolation=cv2.INTER_AREA).astype(int)
        for name in (class_name, "good")
    )
    assert np.sort(np.abs(part - good).max(axis=2), axis=None)[-12] > 40


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crack_is_as_long_and_as_thin_as_the_paper_says(seed: int) -> None:
    """Section 3.2.4: 7-90 mm long, 0.3-1.0 mm wide; light spreads by 0.2 mm to either side, and a tilted crack is cut wider."""
    count, _, boxes, _ = cv2.connectedComponentsWithStats(make_part("iron", "crack", seed).mask.astype(np.uint8))
    heights_mm, areas_mm2 = boxes[1:, cv2.CC_STAT_HEIGHT] / 10.4, boxes[1:, cv2.CC_STAT_AREA] / 10.4**2
    assert count >= 2
    assert 7 <= heights_mm.max() <= 92
    assert (areas_mm2 / heights_mm).max() < 1.6


def _widened(mask: NDArray[np.bool_], size_px: int) -> NDArray[np.bool_]:
    return cv2.dilate(mask.astype(np.uint8), np.ones((size_px, size_px), np.uint8)) > 0


def test_an_unknown_product_or_class_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="bulb, iron"):
        make_part("bottle", "good", 1)
    with pytest.raises(ValueError, match="good, crack"):
        make_part("iron", "stain", 1)


def test_a_folder_of_parts_holds_what_was_made(tmp_path: Path) -> None:
    write_folder(tmp_path / "iron", "iron", 2, seed=9)
    part = make_part("iron", "crack", 10)
    picture = cv2.imread(str(tmp_path / "iron/images/crack/0001.png"), cv2.IMREAD_COLOR_RGB)
    mask = cv2.imread(str(tmp_path / "iron/masks/crack/0001.png"), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    assert mask is not None
    assert np.array_equal(picture, part.picture)
    assert np.array_equal(mask > 0, part.mask)
    assert len(list((tmp_path / "iron").rglob("*.png"))) == 8


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        write_folder(tmp_path, "bulb", 1, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
