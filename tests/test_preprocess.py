import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from station.vision.dvgg16 import NetworkDescription
from station.vision.preprocess import PIXEL_FORMATS, blank, checked, halvings, normalise, preprocess, resized_rgb, rgb_from_file

DESCRIPTION = NetworkDescription(("good", "crack"), width=1 / 16, input_size=32)
COLOUR = (200, 90, 30)  # R G B
PATTERNS = {"RG": ("RG", "GB"), "GR": ("GR", "BG"), "GB": ("GB", "RG"), "BG": ("BG", "GR")}


def mosaic(pattern: str, scale: int, dtype: type) -> np.ndarray:
    """48 x 40 pixels of one colour behind a colour filter whose first two rows PFNC's name gives."""
    channel = {"R": 0, "G": 1, "B": 2}
    tile = [[COLOUR[channel[letter]] * scale for letter in row] for row in PATTERNS[pattern]]
    return np.tile(np.array(tile, dtype=dtype), (20, 24))


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_bayer_pattern_gives_the_colour_that_was_there(pattern, bits):
    scale = 2 ** (bits - 8)
    pixels = mosaic(pattern, scale, np.uint8 if bits == 8 else np.uint16)
    rgb = resized_rgb(pixels, f"Bayer{pattern}{bits}", 32)
    assert rgb.shape == (32, 32, 3)
    assert (rgb == np.array(COLOUR) * scale).all()


def test_normalisation_is_the_descriptions():
    pixels = np.broadcast_to(np.array(COLOUR, dtype=np.uint8), (40, 48, 3))
    tensor = preprocess(pixels, "RGB8", DESCRIPTION)
    assert tensor.dtype == torch.float32
    assert tensor.shape == (1, 3, 32, 32)
    for channel in range(3):
        expected = (COLOUR[channel] / 255 - DESCRIPTION.mean[channel]) / DESCRIPTION.std[channel]
        assert torch.allclose(tensor[0, channel], torch.tensor(expected, dtype=torch.float32), atol=1e-6)


def literal_normalised(rgb: np.ndarray, bits: int) -> np.ndarray:
    """(N, S, S, 3) -> (N, 3, S, S), pixel by pixel as the docstring says it, in float32."""
    mean, std = np.array(DESCRIPTION.mean, dtype=np.float32), np.array(DESCRIPTION.std, dtype=np.float32)
    return ((rgb.astype(np.float32) / np.float32(2**bits - 1) - mean) / std).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_every_value_is_normalised_to_the_literal_bits_in_every_channel(bits):
    values = np.arange(2**bits, dtype=np.uint8 if bits == 8 else np.uint16)
    rgb = np.stack([values, values[::-1], np.roll(values, 1)], axis=-1).reshape(2**bits // 64, 8, 8, 3)
    tensor = normalise(rgb, f"Mono{bits}", DESCRIPTION)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert tensor.numpy().tobytes() == literal_normalised(rgb, bits).tobytes()


def test_pixels_in_any_order_of_memory_are_normalised_and_left_as_they_are():
    rgb = np.random.default_rng(4).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    for pixels in (rgb[..., ::-1], rgb.transpose(0, 2, 1, 3), np.asfortranarray(rgb), rgb[:, ::-1], np.broadcast_to(rgb[:1], rgb.shape)):
        before = pixels.copy()
        assert normalise(pixels, "RGB8", DESCRIPTION).numpy().tobytes() == literal_normalised(before, 8).tobytes()
        assert np.array_equal(pixels, before)


def test_what_was_given_out_is_not_written_to_again():
    frames = np.random.default_rng(5).integers(0, 256, (2, 40, 48), dtype=np.uint8)
    first = preprocess(frames[0], "Mono8", DESCRIPTION)
    kept = first.clone()
    preprocess(frames[1], "Mono8", DESCRIPTION)
    assert torch.equal(first, kept)


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 200), st.integers(1, 200)) | st.sampled_from([(64, 64), (96, 64), (32, 32), (128, 64)]),
    pixel_format=st.sampled_from(["Mono8", "Mono10", "Mono12", "BGR8"]),
    contrast=st.booleans(),
)
def test_converting_after_resizing_gives_the_bits_of_converting_first(seed, shape, pixel_format, contrast):
    known, size = PIXEL_FORMATS[pixel_format], 32
    shape = (*shape, 3) if known.components == 3 else shape
    pixels = np.random.default_rng(seed).integers(0, 2**known.bits, shape)
    pixels = (pixels >> (known.bits - 1)) * (2**known.bits - 1) if contrast else pixels
    pixels = pixels.astype(np.uint8 if known.bits == 8 else np.uint16)
    rgb = cv2.cvtColor(pixels, known.to_rgb)
    while not rgb.shape[0] % 2 and not rgb.shape[1] % 2 and min(rgb.shape[:2]) >= 2 * size:
        rgb = cv2.resize(rgb, (rgb.shape[1] // 2, rgb.shape[0] // 2), interpolation=cv2.INTER_AREA)
    height, width = rgb.shape[:2]
    if height > size or width > size:
        rgb = cv2.resize(rgb, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    if height < size or width < size:
        rgb = cv2.resize(rgb, (size, size), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resized_rgb(pixels, pixel_format, size), rgb)


def test_bgr_and_rgb_are_the_same_picture():
    rgb = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    assert torch.equal(preprocess(rgb, "RGB8", DESCRIPTION), preprocess(rgb[:, :, ::-1].copy(), "BGR8", DESCRIPTION))


@pytest.mark.parametrize(("bits", "dtype"), [(10, np.uint16), (12, np.uint16)])
def test_full_scale_is_the_same_white_at_every_depth(bits, dtype):
    white = preprocess(np.full((40, 48), 255, dtype=np.uint8), "Mono8", DESCRIPTION)
    assert torch.equal(preprocess(np.full((40, 48), 2**bits - 1, dtype=dtype), f"Mono{bits}", DESCRIPTION), white)


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(64, 64, 1), (63, 128, 0), (128, 96, 1), (256, 128, 2), (62, 128, 0), (32, 32, 0)]
)
def test_a_picture_is_halved_while_it_stays_large_enough(height, width, expected):
    assert halvings(height, width, 32) == expected


def test_halving_first_is_a_grey_level_or_two_from_averaging_at_once():
    scene = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 256, (608, 672, 3), dtype=np.uint8), (0, 0), 2.5)
    at_once = cv2.resize(scene, (224, 224), interpolation=cv2.INTER_AREA)
    difference = np.abs(resized_rgb(scene, "RGB8", 224).astype(int) - at_once)
    assert 0 < difference.max() <= 4
    assert difference.mean() < 1


def test_shrinking_averages_and_growing_interpolates():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(200)
    assert (resized_rgb(checks.astype(np.uint8), "Mono8", 32) == 100).all()
    small = np.random.default_rng(1).integers(0, 256, (20, 20), dtype=np.uint8)
    linear = cv2.resize(small, (32, 32), interpolation=cv2.INTER_LINEAR)
    assert (resized_rgb(small, "Mono8", 32)[:, :, 0] == linear).all()


def test_an_axis_that_shrinks_is_averaged_though_the_other_grows():
    stripes = np.tile(np.array([0, 200], dtype=np.uint8), (16, 64))  # 128 wide, 16 high
    assert (resized_rgb(stripes, "Mono8", 32) == 100).all()


def test_pixels_of_the_networks_size_are_left_as_they_are():
    rgb = np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (resized_rgb(rgb, "RGB8", 32) == rgb).all()


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"YUV422_8.*BayerRG8"):
        preprocess(np.zeros((40, 48), dtype=np.uint8), "YUV422_8", DESCRIPTION)


@pytest.mark.parametrize(
    ("pixels", "pixel_format"),
    [
        (np.zeros((40, 48), dtype=np.uint16), "Mono8"),
        (np.zeros((40, 48), dtype=np.uint8), "Mono12"),
        (np.zeros((40, 48, 3), dtype=np.uint8), "BayerRG8"),
        (np.zeros((40, 48), dtype=np.uint8), "RGB8"),
        (np.zeros((40, 48, 4), dtype=np.uint8), "RGB8"),
        (np.zeros(40, dtype=np.uint8), "Mono8"),
        (np.zeros((0, 48), dtype=np.uint8), "Mono8"),
    ],
)
def test_pixels_that_are_not_what_their_format_promises_are_refused(pixels, pixel_format):
    with pytest.raises(ValueError, match=f"PixelFormat {pixel_format} promises"):
        preprocess(pixels, pixel_format, DESCRIPTION)


def test_every_format_of_the_table_can_be_inspected():
    for name, known in PIXEL_FORMATS.items():
        shape = (40, 48) if known.components == 1 else (40, 48, 3)
        assert preprocess(np.ones(shape, dtype=np.uint8 if known.bits == 8 else np.uint16), name, DESCRIPTION).isfinite().all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff"])
def test_a_picture_file_is_read_as_rgb(tmp_path, suffix):
    path = tmp_path / f"größe{suffix}"
    path.write_bytes(cv2.imencode(suffix, np.full((40, 48, 3), COLOUR[::-1], dtype=np.uint8))[1].tobytes())
    rgb = rgb_from_file(path)
    assert rgb.shape == (40, 48, 3)
    assert np.abs(rgb.astype(int) - COLOUR).max() <= (3 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bit_and_grey_files_become_eight_bit_rgb(tmp_path, suffix):
    path = tmp_path / f"deep{suffix}"
    path.write_bytes(cv2.imencode(suffix, np.full((40, 48), 0x8040, dtype=np.uint16))[1].tobytes())
    assert (rgb_from_file(path) == np.full((40, 48, 3), 0x80, dtype=np.uint8)).all()


def test_a_missing_empty_or_foreign_file_is_refused_by_name(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    for name in ("missing.png", "empty.png", "text.png"):
        with pytest.raises(ValueError, match=name):
            rgb_from_file(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_file_that_was_cut_short_is_refused(tmp_path, suffix):
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(cv2.imencode(suffix, noise)[1].tobytes()[:-2000])
    with pytest.raises(ValueError, match="cut"):
        rgb_from_file(path)


@pytest.mark.parametrize("pixel_format", PIXEL_FORMATS)
def test_blank_pixels_are_what_their_format_promises(pixel_format):
    pixels = blank(30, 20, pixel_format)
    checked(pixels, pixel_format)
    assert pixels.shape[:2] == (20, 30)
    assert not pixels.any()
