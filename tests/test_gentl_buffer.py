"""`drivers.gentl_buffer`: where pixels lie in a buffer, for sizes and padding that the simulated cameras do not have."""

import numpy as np
import pytest
from test_unpack import literal

from drivers.gentl_buffer import Layout, handed_over_as, sample


def test_without_padding_a_packed_row_may_begin_within_a_byte() -> None:
    data = np.random.default_rng(1).integers(0, 256, 13, np.uint8).tobytes()
    layout = Layout("Mono12p", 3, 2, 4, 0)
    assert layout.size == 13
    pixels = np.empty(layout.shape, np.uint16)
    layout.copy(data, pixels)
    assert pixels.ravel().tolist() == literal(data[4:], "12p", 6)


@pytest.mark.parametrize(("name", "kind"), [("Mono10p", "10p"), ("BayerRG12p", "12p"), ("Mono12Packed", "12Packed")])
def test_with_padding_each_packed_row_begins_with_a_byte(name: str, kind: str) -> None:
    data = np.random.default_rng(1).integers(0, 256, 60, np.uint8).tobytes()
    layout = Layout(name, 5, 3, 1, 2)
    row = (layout.size - 1 + 2) // 3
    pixels = np.empty(layout.shape, np.uint16)
    layout.copy(data[: layout.size], pixels)
    for number in range(3):
        assert pixels[number].tolist() == literal(data[1 + number * row :], kind, 5)


def test_pixels_are_handed_over_under_the_name_of_what_they_are() -> None:
    names = {"RGBa8": "RGB8", "BayerGR10Packed": "BayerGR10", "Mono12p": "Mono12", "Mono8": "Mono8", "BGR8": "BGR8"}
    assert {name: handed_over_as(name) for name in names} == names


def test_a_sample_spans_the_picture_and_does_not_follow_it() -> None:
    picture = np.zeros((1024, 8), np.uint8)
    before = sample(picture)
    assert before.shape[0] == 64
    picture[-16] = 1
    assert not np.array_equal(before, sample(picture))
    assert not before.any()
    assert sample(np.zeros((3, 8, 3), np.uint8)).shape == (3, 8, 3)
