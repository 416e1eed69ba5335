"""Synthetic parts: deterministic, the right size, and every label is true and visible."""

from pathlib import Path

import cv2
import numpy as np
import pytest

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
    """The same seed is the same part underneath: what differs from the good one is the defect."""
    part, good = make_part(product, class_name, seed), make_part(product, "good", seed)
    difference = np.abs(part.picture.astype(int) - good.picture.astype(int)).max(axis=2)
    assert part.mask.sum() > 100
    inside = difference[part.mask].mean()
    near = cv2.dilate(part.mask.astype(np.uint8), np.ones((61, 61), np.uint8)) > 0
    noise = np.abs(make_part(product, "good", seed).picture.astype(int) - good.picture.astype(int)).mean()
    assert inside > 20, f"mean difference {inside:.1f} in the mask: nobody could see it"
    assert difference[~near].mean() < 8 + noise


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
