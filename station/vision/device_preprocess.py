"""`preprocess` as tensor operations on any device: what a GPU does with a frame from the camera's own pixels on.

The same picture as OpenCV's, one grey level off at most. These are OpenCV's rules, found by comparison with its versions 4 and 5:

- Bayer: bilinear over the 3 x 3 pixels around, halves up; the outermost pixels repeat the ones next to them; below 3 pixels a side black.
- `INTER_AREA` by whole factors: the sum times the float32 nearest to 1 / count, halves to even, but 2 x 2 halves up. Else the mean
  weighted by overlap, in float32; it is added up in another order here, so that some of the pixels that fall on a half round otherwise.
- `INTER_LINEAR`: pixel centres at halves; 8 bit in fixed point, 11 bits a weight, cut as OpenCV cuts; 16 bit in float32.
"""

from math import gcd
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from station.vision.dvgg16 import NetworkDescription
from station.vision.preprocess import PIXEL_FORMATS, Pixels, halvings

_FILTERS = {"RG": "RGGB", "GR": "GRBG", "GB": "GBRG", "BG": "BGGR"}
_LINEAR_BITS = 11
_BAND = 64


class DevicePreprocess:
    """`preprocess` for frames of one format and shape. Holds its constants; waits for nothing and takes the same steps for every frame.

    Attributes:
        shape: of the raw tensor, (height, width) or (height, width, 3).
        dtype: of the raw tensor: uint8, or int16 for formats of more bits, see `raw`.
    """

    def __init__(self, pixel_format: str, height: int, width: int, description: NetworkDescription, device: torch.device) -> None:
        """Makes the constants on the device.

        Args:
            pixel_format: one of `PIXEL_FORMATS`.
        """
        known = PIXEL_FORMATS[pixel_format]
        self.shape = (height, width) if known.components == 1 else (height, width, known.components)
        self.dtype = torch.uint8 if known.bits == 8 else torch.int16
        self._filter = _FILTERS[pixel_format[5:7]] if pixel_format.startswith("Bayer") else None
        self._bgr = pixel_format == "BGR8"
        self._resizes = _resizes(height, width, description.input_size, known.bits, device)
        # A divisor in a tensor: CUDA multiplies by the inverse of one that is a plain number, which rounds otherwise.
        self._full = torch.tensor(float(2**known.bits - 1), device=device)
        self._mean = torch.tensor(description.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(description.std, device=device).view(3, 1, 1)

    def __call__(self, raw: Tensor) -> Tensor:
        """The network's input, float32 (1, 3, S, S) as `preprocess`, channels-last, of a raw tensor of this shape and dtype."""
        planes = self.resized(raw).float()  # (1 or 3, S, S)
        values = (planes / self._full - self._mean) / self._std  # (3, S, S)
        return values.unsqueeze(0).contiguous(memory_format=torch.channels_last)

    def resized(self, raw: Tensor) -> Tensor:
        """Whole numbers (3, S, S), R G B, or (1, S, S) of a grey picture, in the range of the format: `resized_rgb`, planes first."""
        planes = self._planes(raw)
        for resize in self._resizes:
            planes = resize(planes)
        return planes

    def _planes(self, raw: Tensor) -> Tensor:
        """R G B of every pixel (3, H, W), or the grey (1, H, W)."""
        whole = raw if raw.dtype == torch.uint8 else raw.to(torch.int32) & 0xFFFF
        if self._filter is not None:
            return demosaiced(whole if whole.dtype == torch.int32 else whole.to(torch.int16), self._filter)
        if whole.dim() == 2:
            return whole.unsqueeze(0)
        planes = whole.permute(2, 0, 1)
        return planes.flip(0) if self._bgr else planes


def raw(pixels: Pixels) -> npt.NDArray[np.uint8] | npt.NDArray[np.int16]:
    """The same memory as every device can compute with it: uint16 as the int16 of the same bits."""
    return pixels.view(np.int16) if pixels.dtype == np.uint16 else pixels.view(np.uint8)


def demosaiced(mosaic: Tensor, colours: str) -> Tensor:
    """R G B (3, H, W) by bilinear interpolation, of the mosaic's dtype.

    Args:
        mosaic: (H, W), int16 for 8 bits a pixel, int32 for up to 16: wide enough for the sum of four.
        colours: of the pixels (0, 0), (0, 1), (1, 0) and (1, 1), such as "RGGB".
    """
    height, width = mosaic.shape
    if height < 3 or width < 3:
        return mosaic.new_zeros(3, height, width)
    beside = mosaic[:, :-2] + mosaic[:, 2:]  # (H, W - 2)
    above_and_below = (mosaic[:-2] + mosaic[2:])[:, 1:-1]  # (H - 2, W - 2), as all of the following
    sources = {
        "own": mosaic[1:-1, 1:-1],
        "row": (beside[1:-1] + 1) >> 1,
        "column": (above_and_below + 1) >> 1,
        "cross": (beside[1:-1] + above_and_below + 2) >> 2,
        "corners": (beside[:-2] + beside[2:] + 2) >> 2,
    }
    rgb = mosaic.new_empty(3, height, width)
    for y in (0, 1):
        for x in (0, 1):
            here, in_row = colours[2 * y + x], colours[2 * y + 1 - x]
            for channel, colour in enumerate("RGB"):
                source = sources[_source(colour, here, in_row)]
                rgb[channel, 2 - y : -1 : 2, 2 - x : -1 : 2] = source[1 - y :: 2, 1 - x :: 2]
    rgb[:, 0], rgb[:, -1] = rgb[:, 1], rgb[:, -2]
    rgb[:, :, 0], rgb[:, :, -1] = rgb[:, :, 1], rgb[:, :, -2]
    return rgb


def _source(colour: str, here: str, in_row: str) -> str:
    """Where a pixel that has the colour `here`, beside pixels of the colour `in_row`, finds `colour`."""
    if colour == here:
        return "own"
    if here == "G":
        return "row" if colour == in_row else "column"
    return "cross" if colour == "G" else "corners"


class _Resize(Protocol):
    def __call__(self, planes: Tensor) -> Tensor:
        """Whole numbers (C, H, W) to whole numbers (C, h, w), of any dtypes that hold them."""


def _resizes(height: int, width: int, size: int, bits: int, device: torch.device) -> list[_Resize]:
    """What `resized_rgb` does: halved as often as can be; axes that shrink by area, rounded; then axes that grow."""
    steps: list[_Resize] = [_WholeArea(2, 2, device)] * (halved := halvings(height, width, size))
    height, width = height >> halved, width >> halved
    h, w = min(height, size), min(width, size)
    if (h, w) != (height, width):
        whole = height % h == 0 and width % w == 0
        steps.append(_WholeArea(height // h, width // w, device) if whole else _Area(height, width, h, w, device))
    if (h, w) != (size, size):
        steps.append((_FixedLinear if bits == 8 else _Linear)(h, w, size, device))
    return steps


class _WholeArea:
    """The mean of `rows` x `columns` pixels."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self._rows, self._columns = rows, columns
        self._share = torch.tensor(1 / (rows * columns), device=device)

    def __call__(self, planes: Tensor) -> Tensor:
        count, height, width = planes.shape
        cells = planes.reshape(count, height // self._rows, self._rows, width // self._columns, self._columns)
        total = cells.sum(dim=(2, 4), dtype=torch.int32)
        return (total + 2) >> 2 if (self._rows, self._columns) == (2, 2) else (total * self._share).round()


class _Area:
    """The mean weighted by overlap, of both axes."""

    def __init__(self, height: int, width: int, h: int, w: int, device: torch.device) -> None:
        self._rows = None if h == height else _Banded(area_weights(height, h), device)
        self._columns = None if w == width else _Banded(area_weights(width, w), device)

    def __call__(self, planes: Tensor) -> Tensor:
        if self._rows:
            planes = self._rows(planes)
        if self._columns:
            planes = self._columns(planes.transpose(1, 2)).transpose(1, 2)
        return planes.round()


class _Banded:
    """A matrix with few neighbouring entries a row, times the rows of planes, in float32.

    Bands of output rows are multiplied by the input rows under them alone: some 1 / bands of the work of the whole matrix.
    """

    def __init__(self, matrix: npt.NDArray[np.float32], device: torch.device) -> None:
        self._size, length = matrix.shape
        bands = matrix.reshape(-1, gcd(self._size, _BAND), length)
        used = np.asarray(bands.any(axis=1))  # (bands, length)
        first, last = used.argmax(axis=1), length - used[:, ::-1].argmax(axis=1)
        reach = int((last - first).max())
        rows = np.minimum(first, length - reach)[:, None] + np.arange(reach)  # (bands, reach)
        self._matrices = torch.from_numpy(np.take_along_axis(bands, rows[:, None, :], axis=2)).to(device)  # (bands, band, reach)
        self._rows = torch.from_numpy(rows.reshape(-1)).to(device)

    def __call__(self, planes: Tensor) -> Tensor:
        count, _, width = planes.shape
        bands, _, reach = self._matrices.shape
        under = planes.index_select(1, self._rows).float().view(count, bands, reach, width)
        return (self._matrices @ under).view(count, self._size, width)


def area_weights(length: int, size: int) -> npt.NDArray[np.float32]:
    """(size, length): the share of each of `length` pixels in each of `size` fewer ones, by overlap."""
    scale = length / size
    edges = np.arange(size)[:, None] * scale
    pixels = np.arange(length)
    overlap = np.minimum(edges + scale, pixels + 1) - np.maximum(edges, pixels)
    overlap[overlap < 1e-3] = 0  # as OpenCV: what is less than a thousandth of a pixel is rounding
    return np.asarray(overlap / scale, dtype=np.float32)


class _Linear:
    """Interpolation between pixel centres, both axes to `size`, in float32."""

    def __init__(self, height: int, width: int, size: int, device: torch.device) -> None:
        self._rows, below = _neighbours(height, size, device)
        self._columns, right = _neighbours(width, size, device)
        self._below = below.unsqueeze(1)
        self._right = right

    def __call__(self, planes: Tensor) -> Tensor:
        first, second = (planes.index_select(2, columns) for columns in self._columns)
        wide = first * (1 - self._right) + second * self._right
        first, second = (wide.index_select(1, rows) for rows in self._rows)
        return (first * (1 - self._below) + second * self._below).round()


class _FixedLinear:
    """Interpolation between pixel centres, both axes to `size`, of 8 bits in OpenCV's fixed point."""

    def __init__(self, height: int, width: int, size: int, device: torch.device) -> None:
        self._rows, below = _neighbours(height, size, device)
        self._columns, right = _neighbours(width, size, device)
        self._vertical = [weight.unsqueeze(1) for weight in _fixed(below)]
        self._horizontal = _fixed(right)

    def __call__(self, planes: Tensor) -> Tensor:
        whole = planes.to(torch.int32)
        first, second = (whole.index_select(2, at) * weight for at, weight in zip(self._columns, self._horizontal, strict=True))
        wide = (first + second) >> 4
        first, second = ((wide.index_select(1, at) * weight) >> 16 for at, weight in zip(self._rows, self._vertical, strict=True))
        return (first + second + 2) >> 2


def _neighbours(length: int, size: int, device: torch.device) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The two of `length` pixels that each of `size` pixels lies between, int64 (size,), and the second's weight, float32 (size,)."""
    at = np.asarray((np.arange(size) + 0.5) * (length / size) - 0.5, dtype=np.float32)
    first = np.floor(at)
    weight = torch.from_numpy(at - first).to(device)
    before, after = (torch.from_numpy(np.clip(first + step, 0, length - 1).astype(np.int64)).to(device) for step in (0, 1))
    return (before, after), weight


def _fixed(weight: Tensor) -> list[Tensor]:
    """The first's and the second's weight as whole numbers of 2^-11."""
    return [(part * 2**_LINEAR_BITS).round().to(torch.int32) for part in (1 - weight, weight)]
