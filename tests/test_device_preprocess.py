import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from station.vision.device_preprocess import DevicePreprocess, area_weights, raw
from station.vision.dvgg16 import NetworkDescription
from station.vision.preprocess import PIXEL_FORMATS, preprocess, resized_rgb

torch.set_num_threads(1)
CPU = torch.device("cpu")
BAYER = [name for name in PIXEL_FORMATS if name.startswith("Bayer")]


def described(size: int) -> NetworkDescription:
    return NetworkDescription(("good", "crack"), width=1 / 16, input_size=size)


def noise(pixel_format: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    known = PIXEL_FORMATS[pixel_format]
    shape = (height, width) if known.components == 1 else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 2**known.bits, shape)
    return pixels.astype(np.uint8 if known.bits == 8 else np.uint16)


def on_device(pixels: np.ndarray, pixel_format: str, size: int, device: torch.device = CPU) -> np.ndarray:
    """What `resized_rgb` gives, by way of the device."""
    step = DevicePreprocess(pixel_format, *pixels.shape[:2], described(size), device)
    planes = step.resized(torch.from_numpy(raw(pixels)).to(device))
    return planes.expand(3, size, size).permute(1, 2, 0).cpu().numpy().astype(int)


def differences(pixels: np.ndarray, pixel_format: str, size: int) -> np.ndarray:
    return np.abs(on_device(pixels, pixel_format, size) - resized_rgb(pixels, pixel_format, size))


@given(st.sampled_from(sorted(PIXEL_FORMATS)), st.integers(1, 110), st.integers(1, 110), st.sampled_from([32, 48, 64]), st.integers(0, 99))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_format_and_shape_is_resized_as_opencv_does(pixel_format, height, width, size, seed):
    difference = differences(noise(pixel_format, height, width, seed), pixel_format, size)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("shape", [(3, 3), (3, 4), (4, 3), (31, 64), (41, 37), (64, 64)])
@pytest.mark.parametrize("pixel_format", BAYER)
def test_a_mosaic_is_interpolated_to_the_same_bits_up_to_its_border(pixel_format, shape):
    pixels = noise(pixel_format, *shape)
    step = DevicePreprocess(pixel_format, *shape, described(64), CPU)
    opencv = resized_rgb(np.pad(pixels, ((0, 64 - shape[0]), (0, 64 - shape[1]))), pixel_format, 64)
    inside = (slice(0, shape[0] - 1), slice(0, shape[1] - 1))  # the padding changes the last row and column
    assert (step._planes(torch.from_numpy(raw(pixels))).permute(1, 2, 0).numpy()[inside] == opencv[inside]).all()


@pytest.mark.parametrize("shape", [(1, 1), (2, 64), (64, 2)])
def test_a_mosaic_too_small_to_interpolate_is_black_as_with_opencv(shape):
    pixels = noise("BayerRG8", *shape) | 1
    assert not differences(pixels, "BayerRG8", 32).any()
    assert not on_device(pixels, "BayerRG8", 32).any()


@pytest.mark.parametrize("pixel_format", ["BayerRG8", "BayerGB12", "Mono10", "BGR8"])
@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (96, 96), (96, 64), (32, 160)])
def test_whole_factors_give_the_same_bits(pixel_format, shape):
    assert not differences(noise(pixel_format, *shape), pixel_format, 32).any()


@pytest.mark.parametrize("shape", [(20, 24), (31, 9), (33, 21), (21, 77)])
def test_eight_bits_grow_to_the_same_bits(shape):
    assert not differences(noise("RGB8", *shape), "RGB8", 32).any()


def test_a_frame_of_the_lines_camera_comes_out_the_same():
    assert not differences(noise("BayerRG8", 2048, 2048), "BayerRG8", 448).any()
    twelve = differences(noise("BayerGR12", 1024, 1280), "BayerGR12", 448)
    assert twelve.max() <= 1
    assert (twelve > 0).mean() < 0.005


@pytest.mark.parametrize("pixel_format", sorted(PIXEL_FORMATS))
def test_the_networks_input_is_the_same(pixel_format):
    pixels = noise(pixel_format, 64, 96)
    picture = DevicePreprocess(pixel_format, 64, 96, described(32), CPU)(torch.from_numpy(raw(pixels)))
    assert picture.dtype == torch.float32
    assert picture.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(picture, preprocess(pixels, pixel_format, described(32)))


def test_bits_above_the_formats_are_taken_as_they_are():
    pixels = noise("Mono12", 64, 64) | 0x8000
    assert not differences(pixels, "Mono12", 32).any()


def test_raw_pixels_are_not_copied():
    for pixel_format in ("Mono8", "Mono12"):
        pixels = noise(pixel_format, 8, 8)[:, ::2]
        assert np.shares_memory(raw(pixels), pixels)
        assert raw(pixels).strides == pixels.strides


@pytest.mark.parametrize(("length", "size"), [(64, 32), (33, 32), (2048, 448), (1501, 448), (77, 48)])
def test_every_pixel_counts_the_same_in_a_mean_by_area(length, size):
    weights = area_weights(length, size)
    assert weights.sum(axis=1) == pytest.approx(1, abs=1e-3)
    assert weights.sum(axis=0) == pytest.approx(size / length, abs=1e-3)


@pytest.mark.parametrize("pixel_format", sorted(PIXEL_FORMATS))
@pytest.mark.parametrize("shape", [(32, 32), (64, 96), (50, 77), (50, 20), (20, 20)])
def test_the_steps_wait_for_no_number_and_stay_on_their_device(pixel_format, shape):
    # The device "meta" has no numbers: what asks for one, or mixes in a tensor of another device, raises.
    step = DevicePreprocess(pixel_format, *shape, described(32), torch.device("meta"))
    with torch.inference_mode():
        assert step(torch.zeros(step.shape, dtype=step.dtype, device="meta")).shape == (1, 3, 32, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", [(32, 32), (64, 96), (50, 77), (50, 20), (20, 20)])
def test_cuda_gives_what_the_cpu_gives(shape):
    for pixel_format in PIXEL_FORMATS:
        pixels = noise(pixel_format, *shape)
        difference = np.abs(on_device(pixels, pixel_format, 32, torch.device("cuda")) - on_device(pixels, pixel_format, 32))
        assert difference.max() <= 1, pixel_format
        assert (difference > 0).mean() < 0.01, pixel_format
