"""What a frame says of lamp, lens and mounting: a few numbers, and the profiles by which a shift is found."""

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike

from station.vision.exposure import exposure
from station.vision.preprocess import PIXEL_FORMATS, Pixels

Profile = npt.NDArray[np.float32]

CELL_PX = 2
"""Frames are looked at in cells of 2 x 2 pixels: one of each colour of a Bayer mosaic, and a quarter of the numbers."""
SMALLEST_PX = 64
"""A side of a frame below this is too short to gauge."""
_BAND = 128


@dataclass(frozen=True, slots=True, eq=False)
class Gauges:
    """The gauges of one frame.

    Attributes:
        mean_level, bright_level, saturated: see `exposure.Exposure`.
        focus: how strong the finest detail is beside detail twice as coarse; falls with defocus. Neither light nor noise moves it much.
        profile_x, profile_y: how the mean level of each column (row) of cells differs from the one before; grey levels of 255.
    """

    mean_level: float
    bright_level: float
    saturated: float
    focus: float
    profile_x: Profile
    profile_y: Profile


def gauges(pixels: Pixels, pixel_format: str) -> Gauges:
    """The gauges of a frame with both sides of at least `SMALLEST_PX`.

    Raises:
        ValueError: as `preprocess.preprocess`.
    """
    seen = exposure(pixels, pixel_format)
    cells = _cells(pixels, pixel_format)
    return Gauges(seen.mean_level, seen.bright_level, seen.saturated, _focus(cells), _profile(cells, 0), _profile(cells, 1))


def _cells(pixels: Pixels, pixel_format: str) -> npt.NDArray[np.uint8]:
    """The means of the cells, uint8 (height // 2, width // 2)."""
    known = PIXEL_FORMATS[pixel_format]
    cells = _halved(pixels)
    if known.bits > 8:
        cells = cast(Pixels, cv2.convertScaleAbs(cells, alpha=255 / (2**known.bits - 1)))
    if known.components == 3:
        cells = cast(Pixels, cv2.cvtColor(cells, cv2.COLOR_BGR2GRAY if pixel_format == "BGR8" else cv2.COLOR_RGB2GRAY))
    return np.asarray(cells, np.uint8)


def _halved(picture: Pixels) -> Pixels:
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    return cast(Pixels, cv2.resize(picture[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA))


def _focus(cells: npt.NDArray[np.uint8]) -> float:
    """The Laplacian of the cells by the gradient of cells twice as large, both as the fourth root of the mean of fourth powers.

    Fourth powers weigh the strongest edges, which stand far above the noise; with the usual variance of the Laplacian, noise decides
    wherever most of a picture is smooth.
    """
    fine = rough = 0.0
    for top in range(0, len(cells) - 1, _BAND):  # a band's numbers stay in the processor's cache
        band = cells[top : top + _BAND]
        coarse = _halved(band)
        along_x, along_y = cv2.Sobel(coarse, cv2.CV_16S, 1, 0), cv2.Sobel(coarse, cv2.CV_16S, 0, 1)
        fine += _fourth_powers(_squared(cv2.Laplacian(band, cv2.CV_16S)))
        rough += _fourth_powers(cv2.add(_squared(along_x), _squared(along_y)))
    return float((fine / 4 / max(rough, 1e-9)) ** 0.25)


def _squared(values: MatLike) -> MatLike:
    return cv2.multiply(values, values, dtype=cv2.CV_32F)


def _fourth_powers(squares: MatLike) -> float:
    return float(cv2.norm(squares, cv2.NORM_L2SQR))


def _profile(cells: npt.NDArray[np.uint8], axis: int) -> Profile:
    return np.diff(np.asarray(cv2.reduce(cells, axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F), np.float32).ravel())
