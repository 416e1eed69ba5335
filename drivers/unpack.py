"""Packed pixels to a uint16 each: PFNC's `10p` and `12p` (least significant bit first), GigE Vision's `10Packed` and `12Packed`."""

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Values = npt.NDArray[np.uint16]
Buffer = bytes | bytearray | memoryview

BLOCK_PIXELS = 1 << 16
"""So many pixels at a time, whose bytes stay in the processor's cache."""


def packing(pixel_format: str) -> tuple[str, str, int] | None:
    """Of a packed format: the same format unpacked, the packing (`10p`, `12p`, `10Packed`, `12Packed`), bits a pixel takes; else None."""
    found = re.fullmatch(r"(Mono|Bayer(?:RG|GR|GB|BG))((10|12)(p|Packed))", pixel_format)
    if found is None:
        return None
    return found[1] + found[3], found[2], int(found[3]) if found[4] == "p" else 12


def unpack(data: Buffer, offset: int, kind: str, out: Values) -> None:
    """Unpacks a run of pixels that begins at byte `offset` into all of `out`, contiguous and of one dimension, right aligned.

    Raises:
        ValueError or TypeError: `data` is shorter than the pixels.
    """
    group_bytes, group, parts = _KINDS[kind]
    block = BLOCK_PIXELS // group * group
    for begin in range(0, out.size, block):
        parts(data, offset + begin // group * group_bytes, out[begin : begin + block])


def _words(data: Buffer, offset: int, stride: int, count: int) -> Values:
    """`count` little-endian words of 16 bits, `stride` bytes apart, aligned or not."""
    return np.ndarray((count,), "<u2", data, offset, (stride,))


def _lsb(data: Buffer, offset: int, out: Values, bits: int) -> None:
    """Pixel i of a group begins `bits` further on; no pixel of 10 or 12 bits spans more than the two bytes in which it begins."""
    group, stride = (4, 5) if bits == 10 else (2, 3)
    for i in range(min(group, out.size)):
        part = out[i::group]
        word, shift = divmod(i * bits, 8)
        np.right_shift(_words(data, offset + word, stride, part.size), shift, out=part)
        np.bitwise_and(part, (1 << bits) - 1, out=part)


def _gige(data: Buffer, offset: int, out: Values, bits: int) -> None:
    """Bytes 0 and 2 hold the high 8 bits of two pixels, byte 1 the low ones: of the first below, of the second from bit 4 on."""
    low = bits - 8
    for i in range(min(2, out.size)):
        part = out[i::2]
        high = np.ndarray((part.size,), np.uint8, data, offset + 2 * i, (3,))
        shared = np.ndarray((part.size,), np.uint8, data, offset + 1, (3,))
        np.left_shift(high, low, out=part, dtype=np.uint16)
        np.bitwise_or(part, (shared >> 4 * i) & ((1 << low) - 1), out=part)


_KINDS: dict[str, tuple[int, int, Callable[[Buffer, int, Values], None]]] = {
    "10p": (5, 4, lambda data, offset, out: _lsb(data, offset, out, 10)),
    "12p": (3, 2, lambda data, offset, out: _lsb(data, offset, out, 12)),
    "10Packed": (3, 2, lambda data, offset, out: _gige(data, offset, out, 10)),
    "12Packed": (3, 2, lambda data, offset, out: _gige(data, offset, out, 12)),
}
"""Bytes and pixels of a group, and how one block is unpacked."""
