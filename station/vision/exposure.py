"""Whether a frame was exposed as the recipe's own pictures were: too dark or too bright is no picture to judge."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np

from station.vision.preprocess import Pixels, checked

_BRIGHT = 0.999
"""The bright level: at most a thousandth of the pixels is brighter. A hot pixel is none of it, a glint on a small part is."""
_SATURATED = 253
"""Of 255: read-out noise takes a grey level or two off a pixel that is full."""
_ROW_PAIRS = 64


@dataclass(frozen=True, slots=True)
class Exposure:
    """Levels of one frame, 0..255 whatever its bits; red, green and blue pixels count 1 : 2 : 1, as a Bayer sensor has them.

    Attributes:
        mean_level: of all pixels.
        bright_level: a thousandth of the pixels is at least as bright.
        saturated: share of the pixels that are full, 0..1.
    """

    mean_level: float
    bright_level: float
    saturated: float


@dataclass(frozen=True, slots=True)
class ExposureLimits:
    """What the exposure of a recipe's own pictures allows a frame.

    A surface can be a third as bright as another one of its kind, or four times as bright, and half of it can be white: such frames are for
    the network. Refused is only what no surface explains: light that is off, or of another order.

    Attributes:
        bright_level: the least and the greatest of the pictures.
        mean_level: the greatest.
        saturated: the greatest.
    """

    bright_level: tuple[float, float]
    mean_level: float
    saturated: float

    @classmethod
    def of(cls, pictures: Iterable[Exposure]) -> "ExposureLimits":
        """The limits that these pictures set; there is at least one."""
        seen = list(pictures)
        bright = [one.bright_level for one in seen]
        return cls((min(bright), max(bright)), max(one.mean_level for one in seen), max(one.saturated for one in seen))

    def check(self, seen: Exposure) -> None:
        """Returns when the frame is one to judge.

        Raises:
            ValueError: its bright level is below a quarter of the pictures' least; or by 60 % of the frame more than in any picture is
                full, or by 25 % and the frame three times as bright. The message says by how much, and what to do.
        """
        least, greatest = self.bright_level
        if seen.bright_level < least / 4:
            raise ValueError(
                f"the frame is under-exposed: bright level {seen.bright_level:.0f} of 255, the recipe's pictures have {least:.0f} to "
                f"{greatest:.0f}; check the light and ExposureTime"
            )
        more = seen.saturated - self.saturated
        if more > 0.6 or (more > 0.25 and seen.mean_level > 3 * self.mean_level):
            raise ValueError(
                f"the frame is over-exposed: {seen.saturated:.0%} of it is white, of the recipe's pictures at most {self.saturated:.0%}; "
                "check ExposureTime and Gain, and look for stray light"
            )


def exposure(pixels: Pixels, pixel_format: str) -> Exposure:
    """The levels of a frame, from pairs of whole rows spread evenly over it: the same for the same pixels.

    Raises:
        ValueError: as `preprocess.preprocess`.
    """
    known = checked(pixels, pixel_format)
    sample = _rows(pixels)
    if known.bits > 8:
        sample = (sample >> (known.bits - 8)).astype(np.uint8)
    weights = (1,) if known.components == 1 else (1, 2, 1)
    counts = sum(weight * cv2.calcHist([sample], [channel], None, [256], [0, 256]) for channel, weight in enumerate(weights))
    shares = np.asarray(counts, np.float64).ravel() / (sample.size / known.components * sum(weights))
    bright = int(np.searchsorted(np.cumsum(shares), _BRIGHT))
    return Exposure(float(shares @ np.arange(256)), float(min(bright, 255)), float(shares[_SATURATED:].sum()))


def _rows(pixels: Pixels) -> Pixels:
    """Pairs, since one row of a Bayer mosaic lacks a colour."""
    step = pixels.shape[0] // _ROW_PAIRS // 2 * 2
    if step <= 2:
        return cast(Pixels, np.ascontiguousarray(pixels))
    pairs = pixels[: pixels.shape[0] // step * step].reshape(-1, step, *pixels.shape[1:])[:, :2]
    return cast(Pixels, np.ascontiguousarray(pairs).reshape(-1, *pixels.shape[1:]))
