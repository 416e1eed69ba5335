"""From pixels to the network's input: the one way for training, inspection, replay and picture files (sec. 3.1).

As in the paper: resized to a square, no preprocessing but normalisation. A camera's Bayer mosaic is interpolated to RGB first.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from station.vision.dvgg16 import NetworkDescription

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True)
class PixelFormat:
    """How pixels of one PFNC format become RGB.

    Attributes:
        bits: of a pixel's component, right aligned in uint8 or uint16.
        to_rgb: OpenCV's conversion; None when the pixels are RGB already.
        components: 1 for (height, width), 3 for (height, width, 3).
    """

    bits: int
    to_rgb: int | None
    components: int = 1


# PFNC names the first two pixels of row 0. OpenCV's older names (BayerBG2RGB ...) take row 1, columns 1-2, and would swap red and blue.
_BAYER = {
    "BayerRG": cv2.COLOR_BayerRGGB2RGB,
    "BayerGR": cv2.COLOR_BayerGRBG2RGB,
    "BayerGB": cv2.COLOR_BayerGBRG2RGB,
    "BayerBG": cv2.COLOR_BayerBGGR2RGB,
}
PIXEL_FORMATS = {
    **{f"{name}{bits}": PixelFormat(bits, code) for name, code in _BAYER.items() for bits in (8, 10, 12)},
    **{f"Mono{bits}": PixelFormat(bits, cv2.COLOR_GRAY2RGB) for bits in (8, 10, 12)},
    "RGB8": PixelFormat(8, None, 3),
    "BGR8": PixelFormat(8, cv2.COLOR_BGR2RGB, 3),
}
"""The formats that can be inspected, by their PFNC names."""


def preprocess(pixels: Pixels, pixel_format: str, description: NetworkDescription) -> Tensor:
    """The network's input: float32 (1, 3, S, S), R G B, normalised by the description's mean and std, channels-last in memory.

    Args:
        pixels: uint8 (8-bit formats) or uint16 (10 and 12 bit, right aligned), (height, width) for Mono and Bayer, else (height, width, 3).
        pixel_format: its PFNC name.

    Raises:
        ValueError: the format is unknown, or the pixels are not what it promises.
    """
    return normalise(resized_rgb(pixels, pixel_format, description.input_size), pixel_format, description)


def resized_rgb(pixels: Pixels, pixel_format: str, size: int) -> Pixels:
    """The whole picture as RGB at (size, size, 3), its own dtype and range kept; proportions are not, as in the paper.

    An axis that shrinks is averaged over (`INTER_AREA`), an axis that grows is interpolated (`INTER_LINEAR`). A picture twice as large or
    more, each way, is first halved by its means of 2 x 2 pixels: a third of the time for a grey level or two of difference.

    Raises:
        ValueError: as `preprocess`.
    """
    to_rgb = checked(pixels, pixel_format).to_rgb
    if to_rgb is None:
        return _square(pixels, size)
    if to_rgb in _BAYER.values():
        return _square(cast(Pixels, cv2.cvtColor(pixels, to_rgb)), size)
    # Resizing treats each channel by itself: the same bits as converting first, from fewer numbers.
    return cast(Pixels, cv2.cvtColor(_square(pixels, size), to_rgb))


def normalise(rgb: Pixels, pixel_format: str, description: NetworkDescription) -> Tensor:
    """RGB pictures (S, S, 3) or (N, S, S, 3) in the range of `pixel_format` -> float32 (N, 3, S, S), channels-last in memory."""
    full = np.float32(2 ** PIXEL_FORMATS[pixel_format].bits - 1)
    values = np.divide(rgb, full, dtype=np.float32, order="C")
    rows = values.reshape(-1, 3 * rgb.shape[-2])  # numpy is six times as fast along whole rows as along three channels
    rows -= np.tile(np.array(description.mean, dtype=np.float32), rgb.shape[-2])
    rows /= np.tile(np.array(description.std, dtype=np.float32), rgb.shape[-2])
    nhwc = torch.from_numpy(values.reshape(-1, *values.shape[-3:]))  # (N, S, S, 3)
    return nhwc.permute(0, 3, 1, 2)


def blank(width: int, height: int, pixel_format: str) -> Pixels:
    """Black pixels of a format of `PIXEL_FORMATS`."""
    known = PIXEL_FORMATS[pixel_format]
    shape = (height, width) if known.components == 1 else (height, width, known.components)
    return np.zeros(shape, np.uint8) if known.bits == 8 else np.zeros(shape, np.uint16)


def rgb_from_file(path: Path) -> npt.NDArray[np.uint8]:
    """A picture file (PNG, JPEG, BMP, TIFF, grey or colour, 8 or 16 bit) as `RGB8` pixels (height, width, 3); 16 bit are scaled to 8.

    Raises:
        ValueError: the file is missing, cut short, or not a picture; the message names it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if not data:
        raise ValueError(f"{path}: is empty; copy the picture again")
    # imread would fill the lost part of a JPEG that was cut short with grey and say nothing; imdecode refuses it.
    bgr = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"{path}: is not a whole PNG, JPEG, BMP or TIFF picture")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _square(picture: Pixels, size: int) -> Pixels:
    """(height, width) or (height, width, 3) -> (size, size) or (size, size, 3); the picture itself when it has that size."""
    for _ in range(halvings(picture.shape[0], picture.shape[1], size)):
        picture = cast(Pixels, cv2.resize(picture, (picture.shape[1] // 2, picture.shape[0] // 2), interpolation=cv2.INTER_AREA))
    height, width = picture.shape[:2]
    if height > size or width > size:
        picture = cast(Pixels, cv2.resize(picture, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA))
    if height < size or width < size:
        picture = cast(Pixels, cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR))
    return picture


def halvings(height: int, width: int, size: int) -> int:
    """How often a picture is halved before it is resized: while both sides are even and no less than twice the network's size."""
    if height % 2 or width % 2 or min(height, width) < 2 * size:
        return 0
    return 1 + halvings(height // 2, width // 2, size)


def checked(pixels: Pixels, pixel_format: str) -> PixelFormat:
    """What is known of the format, once the pixels are what it promises.

    Raises:
        ValueError: as `preprocess`.
    """
    known = PIXEL_FORMATS.get(pixel_format)
    if known is None:
        raise ValueError(f"PixelFormat {pixel_format!r} cannot be inspected; set the camera to one of {', '.join(PIXEL_FORMATS)}")
    dtype = np.uint8 if known.bits == 8 else np.uint16
    shape = pixels.shape[:2] if known.components == 1 else (*pixels.shape[:2], 3)
    if pixels.dtype != dtype or pixels.shape != shape or len(shape) != (2 if known.components == 1 else 3) or pixels.size == 0:
        layout = "(height, width)" if known.components == 1 else "(height, width, 3)"
        raise ValueError(f"PixelFormat {pixel_format} promises {np.dtype(dtype)} {layout}, the pixels are {pixels.dtype} {pixels.shape}")
    return known
