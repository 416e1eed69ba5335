"""From a heat map to regions in camera pixels (sec. 2.2.2, Eq. 6)."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Fixed:
    """A fixed threshold, for defects that are few and of one kind: grey >= sigma is defect, sigma in 1..255."""

    sigma: int

    def __post_init__(self) -> None:
        if not 1 <= self.sigma <= 255:
            raise ValueError(f"sigma: {self.sigma} must be 1..255: at 0 the whole picture is defect, above 255 nothing ever is")


@dataclass(frozen=True, slots=True)
class Otsu:
    """Otsu's threshold, chosen anew for each heat map, for defects that are scattered and varied."""


Threshold = Fixed | Otsu


@dataclass(frozen=True, slots=True)
class Region:
    """One 8-connected region of a heat map, in camera pixels.

    Attributes:
        box: (x, y, width, height), the smallest upright rectangle around it, inside the picture.
        area_px: pixels of the region itself.
        peak: its greatest grey value, 1..255.
    """

    box: tuple[int, int, int, int]
    area_px: int
    peak: int


def segment(heat_map: Grey, size: tuple[int, int], threshold: Threshold, min_area_px: int = 1) -> tuple[Region, ...]:
    """The regions of at least `min_area_px` camera pixels where the heat map reaches the threshold, largest first.

    Args:
        heat_map: grey 0-255 (h, w), at any resolution.
        size: (width, height) of the camera picture, to which the heat map is interpolated first.
    """
    grey = _interpolated(heat_map, size)
    regions = []
    for (x, y, width, height), mask in _components(_binary(grey, threshold)):
        area = cv2.countNonZero(mask)
        if area >= min_area_px:
            _, peak, _, _ = cv2.minMaxLoc(grey[y : y + height, x : x + width], mask)
            regions.append(Region((x, y, width, height), area, int(peak)))
    return tuple(sorted(regions, key=lambda region: (-region.area_px, region.box)))


def covered(heat_map: Grey, size: tuple[int, int], threshold: Threshold, min_area_px: int = 1) -> npt.NDArray[np.bool_]:
    """The pixels of the regions that `segment` gives for the same arguments: bool (height, width)."""
    binary = _binary(_interpolated(heat_map, size), threshold)
    reported = np.zeros(binary.shape, dtype=np.bool_)
    for (x, y, width, height), mask in _components(binary):
        if cv2.countNonZero(mask) >= min_area_px:
            reported[y : y + height, x : x + width] |= mask.view(np.bool_)
    return reported


def _components(binary: Grey) -> Iterator[tuple[tuple[int, int, int, int], Grey]]:
    """The box x, y, width, height of each 8-connected component of what is not 0, and its mask inside: 1 where it is, else 0.

    A walk along the borders finds the boxes, and only inside them pixels are labelled: statistics of all labels would cost more than all
    the rest of `segment`.
    """
    contours, hierarchy = cv2.findContours(binary, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for number, contour in enumerate(contours):
        if hierarchy[0, number, 3] >= 0:  # the border of a hole, which is in a component
            continue
        x, y, width, height = cv2.boundingRect(contour)
        _, labels = cv2.connectedComponents(binary[y : y + height, x : x + width], connectivity=8)
        column, row = contour[0, 0]
        yield (x, y, width, height), (labels == labels[row - y, column - x]).view(np.uint8)


def _interpolated(heat_map: Grey, size: tuple[int, int]) -> Grey:
    """The heat map at the size (width, height) of the camera picture."""
    return np.asarray(cv2.resize(heat_map, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _binary(grey: Grey, threshold: Threshold) -> Grey:
    """Eq. 6: 255 where grey >= sigma, else 0."""
    if isinstance(threshold, Fixed):
        above, method = threshold.sigma - 1, cv2.THRESH_BINARY  # OpenCV's is grey > above
    else:
        above, method = 0, cv2.THRESH_BINARY | cv2.THRESH_OTSU  # it finds its own
    return np.asarray(cv2.threshold(grey, above, 255, method)[1], dtype=np.uint8)
