"""A frame that was taken in the dark, or blinded, is no picture to judge: it fails, and the reason is told in words."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, make_home, station

from drivers.camera import Frame
from station import inspector, recipe, replay
from station.config import Home
from station.inspector import Inspector
from station.vision.exposure import Exposure, ExposureLimits, exposure
from station.vision.preprocess import PIXEL_FORMATS, Pixels, rgb_from_file


@pytest.fixture(scope="module")
def bulb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inspector]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = recipe.find(REPOSITORY / "recipes", "bulb")
    yield inspector.prepare(found, REPOSITORY / "weights", tmp_path_factory.mktemp("engines"), "cpu")
    torch.set_num_threads(before)


@pytest.mark.parametrize(("light", "why"), [(0, "under-exposed"), (1 / 16, "under-exposed"), (16, "over-exposed")])
def test_a_frame_without_light_or_blinded_is_refused_in_words_and_not_judged(bulb: Inspector, light: float, why: str) -> None:
    picture = rgb_from_file(REPOSITORY / "recipes/bulb/good.jpg")
    assert bulb.inspect(Frame(picture, "RGB8", 1, 0, 1)).class_name == "good"
    with pytest.raises(ValueError, match=rf"the frame is {why}: .* the recipe's pictures .*check"):
        bulb.inspect(Frame(cv2.convertScaleAbs(picture, alpha=light), "RGB8", 2, 0, 2))


def test_every_part_of_a_line_without_light_fails_with_that_reason_and_so_does_its_replay(tmp_path: Path) -> None:
    home = make_home(tmp_path, simulation={"batches": [{"recipe": 1, "pictures": "bulb", "parts": 4}], "interval_ms": 0})
    (home / "data/simulated").mkdir(parents=True)
    (home / "data/simulated/SIM-MQ042.faults").write_text("dark always\n")
    summary = station(home, "run", "--parts", "4")
    assert (summary["pass"], summary["reasons"]) == (0, {"inspection_error": 4})
    with sqlite3.connect(home / "data/ledger.sqlite") as ledger:
        details = [detail for (detail,) in ledger.execute("SELECT detail FROM results")]
    assert all(detail.startswith("the frame is under-exposed: bright level ") for detail in details), details
    (recorded,) = (home / "data/recordings").iterdir()
    assert replay.replay(Home(home), "cpu", str(recorded))["same"] == 4


def levels(pixel_format: str, height: int, width: int) -> tuple[Pixels, np.ndarray]:
    """Random pixels of a format, and each pixel's levels 0..255 as (height, width, components)."""
    known = PIXEL_FORMATS[pixel_format]
    eight = np.random.default_rng(7).integers(0, 256, (height, width, known.components))
    deep = eight if known.bits == 8 else (eight << (known.bits - 8)).astype(np.uint16)
    pixels = deep if known.components == 3 else deep[:, :, 0]
    return np.ascontiguousarray(pixels, np.uint8 if known.bits == 8 else np.uint16), eight


@pytest.mark.parametrize("pixel_format", PIXEL_FORMATS)
def test_levels_are_those_of_all_pixels_whatever_the_format(pixel_format: str) -> None:
    pixels, eight = levels(pixel_format, 120, 90)
    seen = exposure(pixels, pixel_format)
    share = np.array([1, 2, 1]) / 4 if eight.shape[2] == 3 else np.ones(1)
    assert seen.mean_level == pytest.approx((eight.mean(axis=(0, 1)) * share).sum(), abs=0.01)
    assert seen.saturated == pytest.approx(((eight >= 253).mean(axis=(0, 1)) * share).sum(), abs=1e-6)
    assert seen.bright_level == 255


@pytest.mark.parametrize("height", [1, 2, 255, 256, 1023, 2048])
def test_a_sample_of_rows_gives_every_colour_of_a_mosaic_its_share(height: int) -> None:
    mosaic = np.zeros((height, 64), np.uint8)
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = 40, 80
    assert exposure(mosaic, "BayerRG8").mean_level == pytest.approx(mosaic.mean(), abs=0.5)


def test_a_thousandth_of_the_pixels_is_bright_and_one_hot_pixel_is_not() -> None:
    pixels = np.full((100, 100), 20, np.uint8)
    pixels[50, 50] = 255
    assert exposure(pixels, "Mono8").bright_level == 20
    pixels[50, 40:60] = 190
    assert exposure(pixels, "Mono8").bright_level == 190


def test_the_limits_are_set_by_the_darkest_and_the_brightest_of_the_recipe_s_pictures() -> None:
    limits = ExposureLimits.of([Exposure(20, 100, 0.0), Exposure(60, 240, 0.2)])
    for allowed in (Exposure(1, 25, 0), Exposure(175, 255, 0.79), Exposure(250, 255, 0.44)):
        limits.check(allowed)
    for refused in (Exposure(1, 24, 0), Exposure(170, 255, 0.81), Exposure(190, 255, 0.46)):
        with pytest.raises(ValueError, match="exposed"):
            limits.check(refused)


@pytest.mark.parametrize("pictures", ["neu/images", "dagm_class1/images"])
def test_no_real_picture_is_refused_whichever_of_them_teach_the_limits(data: Path, pictures: str) -> None:
    classes = [
        [exposure(rgb_from_file(path), "RGB8") for path in sorted(folder.iterdir())[::3]] for folder in sorted((data / pictures).iterdir())
    ]
    for number in range(12):
        limits = ExposureLimits.of(seen[number * 7 % len(seen)] for seen in classes)
        for seen in classes:
            for one in seen:
                limits.check(one)
