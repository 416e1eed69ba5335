"""Where the defects truly are: masks, or Pascal VOC boxes, beside the labelled pictures."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import cv2
import numpy as np
import numpy.typing as npt

from station.training.dataset import DatasetError, Sample
from station.vision.preprocess import rgb_from_file

Kind = Literal["mask", "boxes"]
Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Where the defects of one picture are.

    Attributes:
        mask: bool (height, width), the picture's own pixels; at least one is true. The union of the boxes where the kind is `boxes`.
    """

    mask: Mask
    kind: Kind

    def __post_init__(self) -> None:
        if not self.mask.any():
            raise ValueError("mask: marks no pixel; a picture without a marked defect has no truth to compare with")


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """The truths that were found, by the path of their picture, and what is missing, in words."""

    truths: dict[Path, Truth]
    warnings: tuple[str, ...]


def read_masks(folder: Path, defective: Sequence[Sample]) -> GroundTruth:
    """The masks folder/CLASS/NAME.png, or folder/NAME.png, of the pictures CLASS/NAME.*; every pixel above 0 is defect.

    A picture whose mask is missing or marks nothing is left out and counted in a warning.

    Raises:
        DatasetError: the folder is not there, holds no mask of any picture, or one mask stands for two pictures, cannot be read, or is
            of another size than its picture.
    """
    return _read(folder, defective, ".png", "mask", _mask)


def read_boxes(folder: Path, defective: Sequence[Sample]) -> GroundTruth:
    """The boxes of all objects in folder/CLASS/NAME.xml, or folder/NAME.xml (Pascal VOC), whatever class an object names.

    Pixels count from 1 and both ends belong to the box, as in the VOC2012 development kit; decimals are rounded. A picture whose file is
    missing or holds no box is left out and counted in a warning.

    Raises:
        DatasetError: the folder is not there, holds no file of any picture, or a file stands for two pictures, cannot be read, was made for
            a picture of another size, or has a box that is not inside of its picture.
    """
    return _read(folder, defective, ".xml", "boxes", _boxes)


def _read(folder: Path, defective: Sequence[Sample], suffix: str, kind: Kind, read: Callable[[Path, Size], Mask]) -> GroundTruth:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; it should hold CLASS/NAME{suffix} for the defective pictures CLASS/NAME")
    truths: dict[Path, Truth] = {}
    for path, file in _files(folder, [sample.path for sample in defective], suffix).items():
        height, width = rgb_from_file(path).shape[:2]
        mask = read(file, (width, height))
        if mask.any():
            truths[path] = Truth(mask, kind)
    left_out = len(defective) - len(truths)
    words = f"{left_out} of {len(defective)} defective pictures have no {kind} in {folder}, or an empty one: left out of localization"
    return GroundTruth(truths, (words,) if left_out else ())


def _files(folder: Path, pictures: Sequence[Path], suffix: str) -> dict[Path, Path]:
    """Picture to file, for the pictures that have one."""
    files: dict[Path, Path] = {}
    for picture in pictures:
        file = next((file for file in _candidates(folder, picture, suffix) if file.is_file()), None)
        if file is None:
            continue
        if file in files.values():
            other = next(path for path in files if files[path] == file)
            raise DatasetError(f"{file}: stands for {other} and for {picture}; put the files into a folder a class, under {folder}")
        files[picture] = file
    if pictures and not files:
        looked_for = " and ".join(str(file) for file in _candidates(folder, pictures[0], suffix))
        raise DatasetError(f"{folder}: holds nothing for any of the {len(pictures)} defective pictures; looked for {looked_for}, and so on")
    return files


def _candidates(folder: Path, picture: Path, suffix: str) -> Iterable[Path]:
    name = picture.stem + suffix
    return (folder / picture.parent.name / name, folder / name)


def _mask(file: Path, size: Size) -> Mask:
    data = file.read_bytes()
    # Any depth, or a label 1 in 16 bits would be scaled to 0; colour, because grey would do the same to a dark one, and alpha is dropped.
    decoded = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if data else None
    if decoded is None:
        raise DatasetError(f"{file}: is not a whole PNG picture; copy it again")
    mask = np.asarray(decoded.max(axis=2) > 0)
    _check_size(file, (mask.shape[1], mask.shape[0]), size)
    return mask


def _boxes(file: Path, size: Size) -> Mask:
    try:
        root = ElementTree.fromstring(file.read_bytes())
    except ElementTree.ParseError as error:
        raise DatasetError(f"{file}: is no XML: {error}; write it again") from error
    width, height = size
    if (said := root.find("size")) is not None:
        _check_size(file, (_pixel(file, said, "width"), _pixel(file, said, "height")), size)
    mask = np.zeros((height, width), dtype=np.bool_)
    for box in root.iterfind("object/bndbox"):
        xmin, ymin, xmax, ymax = (_pixel(file, box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
        if not (1 <= xmin <= xmax <= width and 1 <= ymin <= ymax <= height):
            raise DatasetError(
                f"{file}: bndbox: {xmin}, {ymin} to {xmax}, {ymax} is not inside of a picture of {width} x {height} px; "
                "Pascal VOC counts pixels from 1, both ends included"
            )
        mask[ymin - 1 : ymax, xmin - 1 : xmax] = True
    return mask


def _check_size(file: Path, got: Size, picture: Size) -> None:
    if got != picture:
        raise DatasetError(
            f"{file}: is for a picture of {got[0]} x {got[1]} px, the picture has {picture[0]} x {picture[1]}; bring its own"
        )


def _pixel(file: Path, element: ElementTree.Element, key: str) -> int:
    text = element.findtext(key)
    try:
        return round(float(text or ""))
    except (ValueError, OverflowError):
        raise DatasetError(f"{file}: {element.tag}.{key}: {text!r} is no number of pixels") from None
