"""What a GenTL buffer holds: its number and time, whether it is a whole picture of the size asked for, and its pixels, copied out once."""

import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from drivers.camera import Pixels
from drivers.unpack import packing, unpack

with warnings.catch_warnings():  # importing harvesters replaces the filters of the whole process
    from genicam import gentl
    from harvesters.util.pfnc import dict_by_ints

Allocate = Callable[[tuple[int, ...], npt.DTypeLike], Pixels | None]

FORMATS: dict[str, tuple[int, type[np.uint8] | type[np.uint16]]] = {
    f"{colour}{bits}": (1, np.uint8 if bits == "8" else np.uint16)
    for colour in ("Mono", "BayerRG", "BayerGR", "BayerGB", "BayerBG")
    for bits in ("8", "10", "12", "16", "10p", "12p", "10Packed", "12Packed")
} | {"RGB8": (3, np.uint8), "BGR8": (3, np.uint8), "RGBa8": (4, np.uint8)}
"""PFNC name: values per pixel, and how each is handed over."""
SAMPLED_ROWS = 64
Other = TypeVar("Other")


@dataclass(frozen=True, slots=True)
class Layout:
    """How the picture lies in a buffer: its PFNC name, its size in pixels, and bytes before it and after each of its rows."""

    pixel_format: str
    width: int
    height: int
    offset: int
    padding: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pixels that are handed over."""
        return (self.height, self.width) if FORMATS[self.pixel_format][0] == 1 else (self.height, self.width, 3)

    @property
    def size(self) -> int:
        """Bytes from the beginning of the buffer to the end of the picture; the last row may come without its padding."""
        return self.offset + (self._row_bytes + self.padding) * self.height - self.padding if self.padding else self.offset + self._bytes

    @property
    def _row_bytes(self) -> int:
        return -(-self.width * self._bits // 8)

    @property
    def _bytes(self) -> int:
        return -(-self.width * self.height * self._bits // 8)

    @property
    def _bits(self) -> int:
        values, dtype = FORMATS[self.pixel_format]
        packed = packing(self.pixel_format)
        return packed[2] if packed else 8 * values * np.dtype(dtype).itemsize

    def copy(self, data: bytes, pixels: Pixels) -> None:
        """Copies the picture out of `data` into `pixels`, of the shape and dtype to hand over."""
        if packed := packing(self.pixel_format):
            rows = cast(npt.NDArray[np.uint16], pixels.reshape(self.height if self.padding else 1, -1))  # without padding, rows share bytes
            for number in range(rows.shape[0]):
                unpack(data, self.offset + number * (self._row_bytes + self.padding), packed[1], rows[number])
            return
        values, dtype = FORMATS[self.pixel_format]
        item = np.dtype(dtype).itemsize
        strides = (self._row_bytes + self.padding, values * item, item)
        picture = np.ndarray((self.height, self.width, values), dtype, data, self.offset, strides)
        np.copyto(pixels, picture[:, :, 0] if values == 1 else picture[:, :, :3])


def layout(buffer: Any, asked: Layout) -> Layout:
    """How the picture lies in `buffer`; as `asked` for where the producer does not tell."""
    value = _told(buffer, "pixel_format", None)
    return Layout(
        asked.pixel_format if not value else dict_by_ints.get(value, f"0x{value:08X}"),
        _told(buffer, "width", asked.width),
        _told(buffer, "height", asked.height),
        _told(buffer, "image_offset", 0),
        _told(buffer, "padding_x", 0),
    )


def why_not_whole(buffer: Any, found: Layout, asked: Layout) -> str:
    """Why the buffer holds no whole picture of the size asked for (0: not known), for the operator; empty when it does."""
    if _is_larger(buffer):
        return "more data came than the picture has room for: the camera sends another size or format than was set"
    wrong_width, wrong_height = asked.width not in (0, found.width), asked.height not in (0, found.height)
    if wrong_width or wrong_height or found.width <= 0 or found.height <= 0:
        return f"a picture of {found.width} x {found.height} px came in place of {asked.width} x {asked.height}"
    came = min(_told(buffer, "size_filled", found.size), len(buffer.raw_buffer))
    return f"only {came} of {found.size} bytes of the picture came" if came < found.size else ""


def handed_over_as(pixel_format: str) -> str:
    """The PFNC name under which the pixels of a format are handed over."""
    packed = packing(pixel_format)
    return packed[0] if packed else re.sub("^RGBa", "RGB", pixel_format)


def sample(pixels: Pixels) -> Pixels:
    """A copy of every n-th row, some 64 in all: two pictures of a real sensor, with its noise, never agree in them."""
    return pixels[:: max(1, pixels.shape[0] // SAMPLED_ROWS)].copy()


def frame_id(buffer: Any) -> int | None:
    """The camera's own number of the frame; None where the producer has none."""
    return _told(buffer, "frame_id", None)


def device_ns(buffer: Any) -> int | None:
    """The time stamp in the device's own clock's nanoseconds, or None when it has none."""
    with suppress(gentl.GenericException):
        return int(buffer.timestamp_ns) or None
    with suppress(gentl.GenericException, ZeroDivisionError):
        return int(buffer.timestamp) * 1_000_000_000 // int(buffer.parent.parent.timestamp_frequency) or None
    return None


def payload_bytes(buffer: Any) -> int:
    """How many bytes came, chunk data included."""
    came = _told(buffer, "size_filled", len(buffer.raw_buffer))
    return min(_told(buffer, "delivered_chunk_payload_size", came), len(buffer.raw_buffer))


def _is_larger(buffer: Any) -> bool:
    with suppress(gentl.GenericException):
        return bool(buffer.has_received_larger_payload())
    return False


def _told(buffer: Any, name: str, other: Other) -> int | Other:
    """What a producer need not tell about a buffer, or `other` when it does not."""
    with suppress(gentl.GenericException):
        return int(getattr(buffer, name))
    return other
