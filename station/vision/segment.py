"""From a heat map to regions in camera pixels (sec. 2.2.2, Eq. 6)."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]


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
    grey, labels, statistics = _components(heat_map, size, threshold)
    regions = []
    for label in range(1, len(statistics)):
        x, y, width, height, area = (int(value) for value in statistics[label])
        if area >= min_area_px:
            window = np.s_[y : y + height, x : x + width]
            regions.append(Region((x, y, width, height), area, int(grey[window][labels[window] == label].max())))
    return tuple(sorted(regions, key=lambda region: (-region.area_px, region.box)))


def covered(heat_map: Grey, size: tuple[int, int], threshold: Threshold, min_area_px: int = 1) -> npt.NDArray[np.bool_]:
    """The pixels of the regions that `segment` gives for the same arguments: bool (height, width)."""
    _, labels, statistics = _components(heat_map, size, threshold)
    reported = statistics[:, cv2.CC_STAT_AREA] >= min_area_px
    reported[0] = False  # what is no defect
    return np.asarray(reported[labels])


def _components(heat_map: Grey, size: tuple[int, int], threshold: Threshold) -> tuple[Grey, Labels, Labels]:
    """The interpolated heat map, its 8-connected components (0: no defect), and a row x, y, width, height, area for each of them."""
    grey = np.asarray(cv2.resize(heat_map, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(_binary(grey, threshold), connectivity=8)
    return grey, np.asarray(labels, dtype=np.int32), np.asarray(statistics, dtype=np.int32)


def _binary(grey: Grey, threshold: Threshold) -> Grey:
    """Eq. 6: 255 where grey >= sigma, else 0."""
    if isinstance(threshold, Fixed):
        return np.where(grey >= threshold.sigma, 255, 0).astype(np.uint8)
    # OpenCV's Otsu returns the t of which grey > t is above: sigma = t + 1 in Eq. 6.
    return np.asarray(cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1], dtype=np.uint8)
