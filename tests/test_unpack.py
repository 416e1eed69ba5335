"""`drivers.unpack`: bit by bit against the standards' own figures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.unpack import BLOCK_PIXELS, packing, unpack


def literal(data: bytes, kind: str, count: int) -> list[int]:
    """One pixel after the other: PFNC's `p` as a stream of bits, the lowest first; GigE Vision's `Packed` as groups of three bytes."""
    bits = int(kind[:2])
    if kind.endswith("p"):
        stream = int.from_bytes(data, "little")
        return [stream >> i * bits & (1 << bits) - 1 for i in range(count)]
    pixels = []
    for i in range(count):
        high, shared = data[i // 2 * 3 + i % 2 * 2], data[i // 2 * 3 + 1]
        pixels.append(high << bits - 8 | shared >> i % 2 * 4 & (1 << bits - 8) - 1)
    return pixels


def size(kind: str, count: int) -> int:
    """Bytes; a lone pixel of a `Packed` group takes its own and the shared one."""
    return -(-count * int(kind[:2]) // 8) if kind.endswith("p") else count // 2 * 3 + count % 2 * 2


@pytest.mark.parametrize("kind", ["10p", "12p", "10Packed", "12Packed"])
@given(data=st.binary(min_size=60, max_size=60), count=st.integers(1, 32), offset=st.integers(0, 3))
def test_every_pixel_is_what_a_literal_loop_finds(kind: str, data: bytes, count: int, offset: int) -> None:
    end = offset + size(kind, count)
    out = np.full(count, 0xFFFF, np.uint16)
    unpack(data[:end], offset, kind, out)
    assert out.tolist() == literal(data[offset:end], kind, count)


@pytest.mark.parametrize("kind", ["10p", "12p", "10Packed", "12Packed"])
def test_blocks_join_without_a_seam(kind: str) -> None:
    count = BLOCK_PIXELS + 5
    data = np.random.default_rng(1).integers(0, 256, size(kind, count) + 2, np.uint8).tobytes()
    out = np.empty(count, np.uint16)
    unpack(data, 1, kind, out)
    assert out.tolist() == literal(data[1:], kind, count)


def test_pixels_that_are_not_there_are_refused() -> None:
    with pytest.raises((TypeError, ValueError)):
        unpack(bytes(2), 0, "12p", np.empty(2, np.uint16))


def test_packed_formats_are_known_by_their_names() -> None:
    assert packing("Mono12p") == ("Mono12", "12p", 12)
    assert packing("BayerGB10p") == ("BayerGB10", "10p", 10)
    assert packing("BayerRG10Packed") == ("BayerRG10", "10Packed", 12)
    assert [packing(name) for name in ("Mono8", "Mono12", "RGB8Packed", "BayerXX12p")] == [None] * 4
