"""Drift of lamp, lens and mounting is noticed within 32 parts, and parts that differ from one another are no drift."""

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from drivers.camera import Frame, Pixels
from drivers.simulated.parts import make_part
from station.health import Health
from station.inspection import Inspection, Reason, Result, Verdict
from station.vision.drift import TAUGHT, WINDOW, compare, learn
from station.vision.gauges import gauges
from station.vision.preprocess import rgb_from_file

PARTS = TAUGHT + WINDOW
NOTICED = 32
REGION = {"bulb": (612, 672), "iron": (1328, 480)}
_RNG = np.random.default_rng(1)


def seen_by_camera(picture: np.ndarray, shape: tuple[int, int], moved: tuple[int, int] = (0, 0)) -> Pixels:
    """The picture in the middle of a BayerRG8 region, on black, as the simulated sensor shows it: moved to the right and down by pixels."""
    region = np.zeros((*shape, 3), np.uint8)
    top, left = ((whole - part) // 2 for whole, part in zip(shape, picture.shape[:2], strict=True))
    region[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    region = np.roll(region, moved[::-1], (0, 1))
    mosaic = region[:, :, 1].astype(np.int16)
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = region[0::2, 0::2, 0], region[1::2, 1::2, 2]
    return np.clip(mosaic + _RNG.integers(-2, 3, mosaic.shape), 0, 255).astype(np.uint8)


@cache
def pictures(product: str) -> list[np.ndarray]:
    return [make_part(product, "good", seed).picture for seed in range(PARTS)]


@cache
def good_frames(product: str) -> list[Pixels]:
    return [seen_by_camera(picture, REGION[product]) for picture in pictures(product)]


def dimmer(picture: np.ndarray) -> np.ndarray:
    return cv2.convertScaleAbs(picture, alpha=0.9)


def defocused(picture: np.ndarray) -> np.ndarray:
    """A lens out of focus by one pixel, before a sensor whose noise is as it was."""
    soft = cv2.GaussianBlur(picture, (0, 0), 1.0).astype(np.float32)
    noise = np.sqrt(soft / 255 / 6000 + (12 / 6000) ** 2) * 255
    return np.clip(soft + noise * _RNG.standard_normal(soft.shape, np.float32), 0, 255).astype(np.uint8)


def answer(frame: Frame, verdict: Verdict = Verdict.PASS, recipe_hash: str = "ab" * 32, inspected: bool = True) -> Result:
    seen = Inspection(frame.frame_id, 0, recipe_hash, {"good": 1.0}, "good", 0, 1.0, (), np.zeros((2, 2), np.uint8))
    reason = Reason.GOOD if verdict is Verdict.PASS else Reason.DEFECT
    return Result(1, 1, "", verdict, reason, 0, 1, recipe_hash, seen if inspected else None, 0, 1, True)


def offer(health: Health, frames: Iterable[Pixels], verdict: Verdict = Verdict.PASS, recipe_hash: str = "ab" * 32) -> list[tuple[str, ...]]:
    """Offers the frames one after the other; the alarms after each."""
    alarms = []
    for pixels in frames:
        frame = Frame(pixels, "BayerRG8", 1, 0, 0)
        health.offer(answer(frame, verdict, recipe_hash), frame)
        alarms.append(health.alarms)
    return alarms


def flat(level: int, shape: tuple[int, int] = (80, 80)) -> Pixels:
    return np.full(shape, level, np.uint8)


def taught(health: Health, level: int = 100) -> Health:
    offer(health, [flat(level)] * TAUGHT)
    return health


# --- the simulated products


@pytest.mark.parametrize("product", REGION)
def test_parts_that_differ_in_place_and_light_as_they_do_are_no_drift(tmp_path: Path, product: str) -> None:
    alarms = offer(Health(tmp_path), good_frames(product))
    assert set(alarms) == {()}


@pytest.mark.parametrize("product", REGION)
@pytest.mark.parametrize(("change", "words"), [(dimmer, "light: bright level "), (defocused, "focus: fine detail ")])
def test_a_tenth_of_the_light_and_a_pixel_of_defocus_are_noticed_even_where_they_make_parts_fail(
    tmp_path: Path, product: str, change: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    health = Health(tmp_path)
    offer(health, good_frames(product))
    drifted = [seen_by_camera(change(picture), REGION[product]) for picture in pictures(product)[:NOTICED]]
    alarms = offer(health, drifted, Verdict.FAIL)
    assert any(alarm.startswith(words) and " below the reference: " in alarm for told in alarms for alarm in told), alarms[-1]


@pytest.mark.parametrize("product", REGION)
@pytest.mark.parametrize("moved", [(2, 0), (0, -2)])
def test_a_shift_of_two_pixels_is_noticed_and_measured(tmp_path: Path, product: str, moved: tuple[int, int]) -> None:
    health = Health(tmp_path)
    offer(health, good_frames(product))
    alarms = offer(health, [seen_by_camera(picture, REGION[product], moved) for picture in pictures(product)[:NOTICED]])
    assert any("shift: the picture has moved against the reference by " in alarm for alarm in alarms[-1])
    assert health.gauges["shift_px"] == pytest.approx(moved, abs=0.6)


def test_a_shift_of_an_odd_pixel_is_measured_between_the_cells_and_one_out_of_sight_is_told(tmp_path: Path) -> None:
    health = Health(tmp_path)
    offer(health, good_frames("bulb"))
    for moved, found in (((3, 0), pytest.approx(3, abs=0.5)), ((90, 0), None)):
        alarms = offer(health, [seen_by_camera(picture, REGION["bulb"], moved) for picture in pictures("bulb")[:WINDOW]])
        assert health.gauges["shift_px"][0] == found
    assert "more than can be told along x" in alarms[-1][-1]


# --- the gauges


def test_focus_tells_blur_but_neither_light_nor_noise() -> None:
    picture = np.asarray(pictures("bulb")[0], np.float32)
    blurred = cv2.GaussianBlur(picture, (0, 0), 1.0)

    def focus(image: np.ndarray, noise: float = 0.0) -> float:
        return gauges(np.clip(image + noise * _RNG.standard_normal(image.shape), 0, 255).astype(np.uint8), "RGB8").focus

    sharp = focus(picture)
    assert focus(blurred) < 0.9 * sharp
    assert focus(0.5 * picture) == pytest.approx(sharp, rel=0.02)
    assert focus(picture, noise=4) == pytest.approx(sharp, rel=0.02)


@pytest.mark.parametrize(("pixel_format", "shift"), [("Mono12", 4), ("Mono10", 2), ("BayerGB12", 4)])
def test_the_gauges_of_deep_pixels_are_those_of_eight_bits(pixel_format: str, shift: int) -> None:
    pixels = good_frames("bulb")[0]
    eight, deep = gauges(pixels, "Mono8"), gauges(pixels.astype(np.uint16) << shift, pixel_format)
    assert (deep.mean_level, deep.bright_level) == (eight.mean_level, eight.bright_level)
    assert deep.focus == pytest.approx(eight.focus, rel=0.02)
    assert deep.profile_x == pytest.approx(eight.profile_x, abs=0.5)
    assert deep.profile_y == pytest.approx(eight.profile_y, abs=0.5)


@pytest.mark.parametrize("shape", [(64, 64), (65, 67), (258, 130), (601, 661)])
def test_any_size_can_be_gauged(shape: tuple[int, int]) -> None:
    seen = gauges(_RNG.integers(0, 256, shape).astype(np.uint8), "Mono8")
    assert (len(seen.profile_x), len(seen.profile_y)) == (shape[1] // 2 - 1, shape[0] // 2 - 1)
    assert np.isfinite(seen.focus)


def test_real_pictures_of_a_class_in_any_order_are_no_drift_and_their_texture_tells_no_shift(data: Path) -> None:
    for folder in ("neu/images/scratches", "neu/images/pitted_surface", "dagm_class1/images/ok"):
        seen = [gauges(rgb_from_file(path), "RGB8") for path in sorted((data / folder).iterdir())[:150]]
        for seed in range(3):
            order = [seen[index] for index in np.random.default_rng(seed).permutation(len(seen))]
            reference = learn(order[:TAUGHT])
            drifts = [compare(reference, order[end - WINDOW : end]) for end in range(TAUGHT + WINDOW, len(order), 4)]
            assert max(beyond for drift in drifts for beyond in drift.beyond.values()) < 1, folder
            assert reference.edges == (None, None)


# --- the reference


def test_the_reference_outlives_the_station_and_another_recipe_has_its_own(tmp_path: Path) -> None:
    taught(Health(tmp_path))
    again = Health(tmp_path)
    offer(again, [flat(50)] * WINDOW, recipe_hash="cd" * 32)
    assert (again.alarms, again.gauges["taught"]) == ((), WINDOW), "the other recipe is still being taught"
    offer(again, [flat(50)] * WINDOW)
    assert any(alarm.startswith("light: mean level 50% below the reference: clean or replace the lamp") for alarm in again.alarms)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{'ab' * 32}.json"]


def test_recipes_that_take_turns_are_taught_all_the_same(tmp_path: Path) -> None:
    health = Health(tmp_path)
    for _ in range(TAUGHT):
        offer(health, [flat(100)])
        offer(health, [flat(50)], recipe_hash="cd" * 32)
    assert len(list(tmp_path.iterdir())) == 2


def test_only_parts_that_passed_teach(tmp_path: Path) -> None:
    health = Health(tmp_path)
    offer(health, [flat(50)] * TAUGHT, Verdict.FAIL)
    offer(health, [flat(100)] * (TAUGHT - 1))
    assert (health.gauges["taught"], list(tmp_path.iterdir())) == (TAUGHT - 1, [])
    offer(health, [flat(100)])
    assert json.loads((tmp_path / f"{'ab' * 32}.json").read_text())["usual"]["mean_level"]["centre"] == pytest.approx(np.log(100))


def test_who_deletes_the_reference_teaches_anew(tmp_path: Path) -> None:
    health = taught(Health(tmp_path))
    assert offer(health, [flat(80)] * WINDOW)[-1]
    (tmp_path / f"{'ab' * 32}.json").unlink()
    alarms = offer(health, [flat(80)] * (TAUGHT + WINDOW))
    assert set(alarms) == {()}
    assert len(list(tmp_path.iterdir())) == 1


def test_an_alarm_goes_when_the_drift_has_gone(tmp_path: Path) -> None:
    health = taught(Health(tmp_path))
    assert offer(health, [flat(80)] * WINDOW)[-1]
    assert not offer(health, [flat(100)] * WINDOW)[-1]


def test_a_few_odd_parts_are_no_drift(tmp_path: Path) -> None:
    health = taught(Health(tmp_path))
    assert set(offer(health, ([flat(100)] * 11 + [flat(250)]) * 6)) == {()}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"usual": {}, "edges": [null, null], "sizes": [1, 1]}', "\0"])
def test_a_damaged_reference_is_an_alarm_that_names_the_file_and_nothing_stops(tmp_path: Path, text: str) -> None:
    path = tmp_path / f"{'ab' * 32}.json"
    path.write_text(text)
    health = Health(tmp_path)
    (alarm,) = offer(health, [flat(100)] * 2)[-1]
    assert str(path) in alarm
    assert "delete it" in alarm
    path.unlink()
    assert offer(health, [flat(100)])[-1] == ()


def test_a_reference_that_cannot_be_written_is_an_alarm_and_serves_until_the_stop(tmp_path: Path) -> None:
    (tmp_path / "references").write_text("a file where the folder should be")
    health = taught(Health(tmp_path / "references"))
    assert "cannot be written" in health.alarms[0]
    alarms = offer(health, [flat(80)] * WINDOW)[-1]
    assert any(alarm.startswith("light: ") for alarm in alarms)


def test_frames_of_another_size_than_the_reference_s_are_told(tmp_path: Path) -> None:
    health = taught(Health(tmp_path))
    (alarm,) = offer(health, [flat(100, (90, 80))])[-1]
    assert "frames of another size" in alarm
    assert offer(health, [flat(100)])[-1] == ()


def test_frames_that_were_not_judged_are_ignored(tmp_path: Path) -> None:
    health = Health(tmp_path)
    whole, flawed, tiny = (
        Frame(flat(9), "Mono8", 1, 0, 0),
        Frame(flat(9), "Mono8", 1, 0, 0, "frozen"),
        Frame(flat(9, (8, 8)), "Mono8", 1, 0, 0),
    )
    for result, frame in ((answer(whole), None), (answer(flawed), flawed), (answer(whole, inspected=False), whole), (answer(tiny), tiny)):
        health.offer(result, frame)
    assert (health.gauges, health.alarms) == ({}, ())


def test_what_goes_wrong_in_a_gauge_is_an_alarm_and_never_raised(tmp_path: Path) -> None:
    health, odd = Health(tmp_path), Frame(flat(9), "Mono16", 1, 0, 0)
    health.offer(answer(odd), odd)
    assert "Mono16" in health.alarms[0]


def test_the_gauges_are_fit_for_json(tmp_path: Path) -> None:
    health = Health(tmp_path)
    assert health.gauges == {}
    offer(taught(health), [flat(100)])
    shown = json.loads(json.dumps(health.gauges, allow_nan=False))
    assert shown.keys() == {"mean_level", "bright_level", "saturated", "focus", "taught", "to_teach", "change", "shift_px"}
    assert (shown["mean_level"], shown["change"]["mean_level"], shown["shift_px"]) == (100, 0, [None, None])
