from pathlib import Path

import cv2
import numpy as np
import pytest

from station.training.dataset import DatasetError, Sample
from station.training.ground_truth import Truth, read_boxes, read_masks

SIZE = (12, 9)  # width, height


@pytest.fixture
def defective(tmp_path: Path) -> list[Sample]:
    """Pictures of two classes of defect, black, 12 x 9."""
    samples = []
    for label, name in ((1, "crack"), (2, "stain")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            path = tmp_path / "data" / name / f"{name[0]}{number}.png"
            cv2.imwrite(str(path), np.zeros((9, 12), dtype=np.uint8))
            samples.append(Sample(path, label, "0" * 64))
    return samples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "truth" / "crack").mkdir(parents=True)
    return tmp_path / "truth"


def mask(*pixels: tuple[int, int], dtype: type = np.uint8, value: int = 255) -> np.ndarray:
    made = np.zeros((9, 12), dtype=dtype)
    for x, y in pixels:
        made[y, x] = value
    return made


def write(path: Path, picture: np.ndarray) -> None:
    assert cv2.imwrite(str(path), picture)


def marked(truth: Truth) -> set[tuple[int, int]]:
    return {(x, y) for y in range(9) for x in range(12) if truth.mask[y, x]}


def voc(path: Path, *boxes: tuple[object, object, object, object], size: tuple[int, int] | None = SIZE) -> None:
    keys = ("xmin", "ymin", "xmax", "ymax")
    said = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>1</depth></size>"
    objects = "".join(
        f"<object><name>crack</name><bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in zip(keys, box, strict=True))}</bndbox></object>"
        for box in boxes
    )
    path.write_text(f"<annotation>{said}{objects}</annotation>")


# --- masks


def test_masks_are_found_under_their_class_or_beside_each_other(folder: Path, defective: list[Sample]) -> None:
    write(folder / "crack" / "c0.png", mask((3, 2), (11, 8)))
    write(folder / "c0.png", mask((0, 0)))  # the class's own folder comes first
    for name in ("c1", "s0", "s1"):
        write(folder / f"{name}.png", mask((5, 5)))
    found = read_masks(folder, defective)
    assert list(found.truths) == [sample.path for sample in defective]
    assert found.warnings == ()
    first = found.truths[defective[0].path]
    assert (first.kind, first.mask.shape, first.mask.dtype) == ("mask", (9, 12), np.bool_)
    assert marked(first) == {(3, 2), (11, 8)}
    assert marked(found.truths[defective[3].path]) == {(5, 5)}


def colour(*pixels: tuple[int, int]) -> np.ndarray:
    made = np.zeros((9, 12, 4), dtype=np.uint8)
    made[:, :, 3] = 255  # opaque: alpha marks nothing
    for x, y in pixels:
        made[y, x, 0] = 1  # a blue that grey would round to black
    return made


@pytest.mark.parametrize("picture", [mask((4, 1), value=1), mask((4, 1), dtype=np.uint16, value=1), colour((4, 1))])
def test_every_pixel_above_0_is_defect(folder: Path, defective: list[Sample], picture: np.ndarray) -> None:
    write(folder / "c0.png", picture)
    assert marked(read_masks(folder, defective[:1]).truths[defective[0].path]) == {(4, 1)}


def test_pictures_whose_mask_is_missing_or_empty_are_left_out_and_counted(folder: Path, defective: list[Sample]) -> None:
    write(folder / "c0.png", mask((1, 1)))
    write(folder / "s0.png", mask())
    found = read_masks(folder, defective)
    assert list(found.truths) == [defective[0].path]
    assert found.warnings == (f"3 of 4 defective pictures have no mask in {folder}, or an empty one: left out of localization",)


def test_where_no_mask_fits_it_is_said_what_was_looked_for(folder: Path, defective: list[Sample]) -> None:
    write(folder / "c0_mask.png", mask((1, 1)))
    with pytest.raises(DatasetError) as caught:
        read_masks(folder, defective)
    assert str(folder / "crack" / "c0.png") in str(caught.value)
    assert str(folder / "c0.png") in str(caught.value)


def test_without_a_defective_picture_nothing_is_looked_for(folder: Path) -> None:
    found = read_masks(folder, [])
    assert (found.truths, found.warnings) == ({}, ())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, defective: list[Sample]) -> None:
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        read_masks(tmp_path / "nowhere", defective)


def test_a_mask_of_another_size_is_refused(folder: Path, defective: list[Sample]) -> None:
    write(folder / "c0.png", np.full((12, 9), 255, dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"c0\.png: is for a picture of 9 x 12 px, the picture has 12 x 9"):
        read_masks(folder, defective)


def test_a_mask_that_stands_for_two_pictures_is_refused(tmp_path: Path, folder: Path) -> None:
    samples = []
    for name in ("crack", "stain"):
        (tmp_path / "same" / name).mkdir(parents=True)
        write(tmp_path / "same" / name / "0.png", mask())
        samples.append(Sample(tmp_path / "same" / name / "0.png", 1, "0" * 64))
    write(folder / "0.png", mask((1, 1)))
    with pytest.raises(DatasetError, match="folder a class"):
        read_masks(folder, samples)


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_mask_that_was_cut_short_is_refused(folder: Path, defective: list[Sample], share: float) -> None:
    write(folder / "c0.png", mask((1, 1)))
    data = (folder / "c0.png").read_bytes()
    (folder / "c0.png").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DatasetError, match=r"c0\.png: is not a whole PNG"):
        read_masks(folder, defective)


def test_a_truth_that_marks_nothing_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="marks no pixel"):
        Truth(np.zeros((3, 3), dtype=np.bool_), "mask")


# --- boxes


def test_boxes_count_from_1_and_hold_both_ends(folder: Path, defective: list[Sample]) -> None:
    boxes = [(1, 1, 2, 1), (2, 1, 4, 3), (12, 9, 12, 9)]
    voc(folder / "crack" / "c0.xml", *boxes)
    truth = read_boxes(folder, defective[:1]).truths[defective[0].path]
    expected = {(x - 1, y - 1) for a, b, c, d in boxes for x in range(1, 13) for y in range(1, 10) if a <= x <= c and b <= y <= d}
    assert marked(truth) == expected
    assert truth.kind == "boxes"


def test_a_box_may_be_the_whole_picture_and_its_size_unsaid(folder: Path, defective: list[Sample]) -> None:
    voc(folder / "c0.xml", (1, 1, 12, 9), size=None)
    assert read_boxes(folder, defective[:1]).truths[defective[0].path].mask.all()


def test_decimals_are_rounded(folder: Path, defective: list[Sample]) -> None:
    voc(folder / "c0.xml", ("2.0", "2.4", "2.6", " 3 "))
    assert marked(read_boxes(folder, defective[:1]).truths[defective[0].path]) == {(1, 1), (2, 1), (1, 2), (2, 2)}


@pytest.mark.parametrize("box", [(0, 1, 2, 2), (1, 0, 2, 2), (1, 1, 13, 2), (1, 1, 2, 10), (3, 1, 2, 2), (1, 3, 2, 2), (-5, 1, 2, 2)])
def test_a_box_outside_of_its_picture_is_refused(folder: Path, defective: list[Sample], box: tuple[int, int, int, int]) -> None:
    voc(folder / "c0.xml", (1, 1, 2, 2), box)
    with pytest.raises(DatasetError, match=r"c0\.xml: bndbox: .* not inside of a picture of 12 x 9 px"):
        read_boxes(folder, defective)


@pytest.mark.parametrize("value", ["", "left", "nan", "inf"])
def test_a_coordinate_that_is_no_number_is_named(folder: Path, defective: list[Sample], value: str) -> None:
    voc(folder / "c0.xml", (1, 1, value, 2))
    with pytest.raises(DatasetError, match=r"c0\.xml: bndbox\.xmax"):
        read_boxes(folder, defective)


def test_a_missing_coordinate_is_named(folder: Path, defective: list[Sample]) -> None:
    (folder / "c0.xml").write_text("<annotation><object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax></bndbox></object></annotation>")
    with pytest.raises(DatasetError, match=r"bndbox\.ymax: None"):
        read_boxes(folder, defective)


def test_boxes_made_for_a_picture_of_another_size_are_refused(folder: Path, defective: list[Sample]) -> None:
    voc(folder / "c0.xml", (1, 1, 2, 2), size=(9, 12))
    with pytest.raises(DatasetError, match="9 x 12 px, the picture has 12 x 9"):
        read_boxes(folder, defective)


def test_a_file_that_is_no_xml_is_refused(folder: Path, defective: list[Sample]) -> None:
    (folder / "c0.xml").write_text("<annotation>")
    with pytest.raises(DatasetError, match=r"c0\.xml: is no XML"):
        read_boxes(folder, defective)


def test_a_file_without_a_box_is_left_out(folder: Path, defective: list[Sample]) -> None:
    voc(folder / "c0.xml", (1, 1, 2, 2))
    voc(folder / "c1.xml")
    found = read_boxes(folder, defective[:2])
    assert list(found.truths) == [defective[0].path]
    assert "1 of 2 defective pictures have no boxes" in found.warnings[0]


# --- real ones


def samples_under(folder: Path) -> list[Sample]:
    return [Sample(path, 1, "0" * 64) for path in sorted(folder.iterdir())]


def test_the_published_masks_of_a_texture_are_read(data: Path) -> None:
    found = read_masks(data / "dagm_class1" / "masks", samples_under(data / "dagm_class1" / "images" / "defect"))
    assert (len(found.truths), found.warnings) == (36, ())
    assert all(0 < truth.mask.mean() < 0.2 for truth in found.truths.values())


def test_the_published_boxes_of_steel_are_read(data: Path) -> None:
    found = read_boxes(data / "neu" / "boxes_voc", samples_under(data / "neu" / "images" / "crazing"))
    assert (len(found.truths), found.warnings) == (150, ())
    # crazing_102: (2, 2) to (144, 153) and (150, 85) to (199, 178), counted from 1
    truth = next(truth for path, truth in found.truths.items() if path.stem == "crazing_102")
    assert np.count_nonzero(truth.mask) == 143 * 152 + 50 * 94
