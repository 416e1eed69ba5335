"""Every fault of a frame through the camera process: told once, as what it is, in its place; and triggers that come from outside."""

import fcntl
import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from drivers.camera import CameraState, Feature, Frame
from drivers.genicam import FROZEN, INCOMPLETE, GenicamCamera
from drivers.isolated import IsolatedCamera
from drivers.simulated.build import PRODUCER, build
from drivers.simulated.scene import Scene, happened, tell

SERIAL = "SIM-MER131"
PATIENCE_S = 10.0
REGION: dict[str, Feature] = {"Width": 64, "Height": 32, "PixelFormat": "Mono8", "ExposureTime": 100.0}
SOFTWARE = REGION | {"TriggerMode": "On", "TriggerSource": "Software"}
LINE0 = REGION | {"TriggerMode": "On", "TriggerSource": "Line0"}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    build()
    monkeypatch.setenv("STATION_SIMULATED_DIR", str(tmp_path))
    Scene(tmp_path, SERIAL).show([np.full((1024, 1280), 100, np.uint8)], noise=20)
    return tmp_path


@pytest.fixture
def camera() -> Iterator[IsolatedCamera]:
    made = IsolatedCamera(functools.partial(GenicamCamera, [PRODUCER], SERIAL, simulated=True), simulated=True)
    yield made
    made.close()


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def streaming(camera: IsolatedCamera, features: dict[str, Feature]) -> None:
    camera.start(features)
    until(lambda: camera.status().state is CameraState.STREAMING)


def frame_of(camera: IsolatedCamera) -> Frame:
    frame = camera.fetch(PATIENCE_S)
    assert frame is not None, camera.status()
    return frame


def snap(camera: IsolatedCamera) -> Frame:
    camera.trigger()
    return frame_of(camera)


def struck(camera: IsolatedCamera, directory: Path, order: str) -> tuple[Frame, Frame]:
    """Gives an order and triggers until a frame has a flaw; that frame, and the whole one before."""
    before = snap(camera)
    tell(directory, SERIAL, order)
    deadline = time.monotonic() + PATIENCE_S
    while not (frame := snap(camera)).flaw:
        assert time.monotonic() < deadline, "the order was not obeyed"
        before = frame
    return frame, before


FLAWS = {
    "incomplete": INCOMPLETE,
    "short": "only 1024 of 2048 bytes of the picture came",
    "wrongsize": "a picture of 64 x 16 px came in place of 64 x 32",
    "noheight": "a picture of 64 x 0 px came in place of 64 x 32",
    "larger": "more data came than the picture has room for: the camera sends another size or format than was set",
}


def test_a_frame_that_is_not_whole_answers_its_trigger_at_once(camera: IsolatedCamera, directory: Path) -> None:
    streaming(camera, SOFTWARE)
    for number, (order, flaw) in enumerate(FLAWS.items(), start=1):
        frame, before = struck(camera, directory, order)
        assert (frame.flaw, frame.pixels.shape) == (flaw, (0, 0))
        assert (frame.frame_id, frame.missed) == (before.frame_id + 1, 0)
        after = snap(camera)
        assert (after.frame_id, after.missed, after.flaw) == (frame.frame_id + 1, 0, "")
        status = camera.status()
        assert (status.incomplete, status.frozen, status.missed) == (number, 0, 0)
        assert status.delivered == after.frame_id + 1 - number  # numbers begin with 0


def test_a_frozen_picture_keeps_its_pixels_and_a_wrong_number_costs_one_part(camera: IsolatedCamera, directory: Path) -> None:
    streaming(camera, SOFTWARE)
    frame, before = struck(camera, directory, "frozen")
    assert frame.flaw == FROZEN
    assert np.array_equal(frame.pixels, before.pixels)
    assert not snap(camera).flaw
    assert (camera.status().incomplete, camera.status().frozen) == (0, 1)
    frame, before = struck(camera, directory, "badid")
    assert f"after {before.frame_id}: what was lost between cannot be told" in frame.flaw
    after = snap(camera)
    assert (after.frame_id, after.missed, after.flaw) == (before.frame_id + 2, 0, "")


def test_duplicates_never_answer_the_next_trigger(camera: IsolatedCamera, directory: Path) -> None:
    streaming(camera, SOFTWARE)
    last = snap(camera)
    tell(directory, SERIAL, "duplicate always")
    for _ in range(20):
        frame = snap(camera)
        assert (frame.frame_id, frame.missed, frame.flaw) == (last.frame_id + 1, 0, "")
        last = frame


def test_counts_survive_the_death_of_the_process(camera: IsolatedCamera, directory: Path) -> None:
    streaming(camera, SOFTWARE)
    struck(camera, directory, "incomplete")
    struck(camera, directory, "frozen")
    before = camera.status()
    assert (before.incomplete, before.frozen, before.temperature_c) == (1, 1, 41.0)
    (child,) = multiprocessing.active_children()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: camera.status().state is CameraState.LOST)
    until(lambda: camera.status().state is CameraState.STREAMING)
    struck(camera, directory, "incomplete")
    after = camera.status()
    assert (after.incomplete, after.frozen, after.reconnects) == (2, 1, 1)
    assert after.delivered > before.delivered
    camera.close()
    assert (camera.status().incomplete, camera.status().frozen) == (2, 1)


def test_a_fault_that_nobody_fetches_does_not_fill_the_way(camera: IsolatedCamera, directory: Path) -> None:
    """Endless incomplete frames while the parent only looks: what finds no slot is told as missed, and all adds up."""
    streaming(camera, REGION | {"TriggerMode": "Off"})
    first = frame_of(camera)
    tell(directory, SERIAL, "incomplete always")
    until(lambda: camera.status().incomplete > 60)
    tell(directory, SERIAL, "incomplete 0")
    told, last = 0, first
    while last.flaw or not told:
        last = frame_of(camera)
        told += 1 + last.missed
    assert last.frame_id == first.frame_id + told
    assert camera.status().missed > 30


# -- triggers from outside ------------------------------------------------------------------------------------------------------------


def test_pulses_that_nobody_fetched_yet_wait_in_order(camera: IsolatedCamera, directory: Path) -> None:
    streaming(camera, LINE0)
    for burst in range(2):
        for _ in range(16):
            tell(directory, SERIAL, "line0")
            time.sleep(0.03)  # the camera itself takes a pulse only every 13 ms
        frames = [frame_of(camera) for _ in range(16)]
        assert [frame.frame_id for frame in frames] == list(range(16 * burst, 16 * burst + 16))
        assert not any(frame.missed or frame.flaw for frame in frames)
        assert camera.fetch(0.0) is None
        del frames
    assert camera.status().delivered == 32


def test_a_free_running_camera_loses_nothing_while_it_is_listened_to(camera: IsolatedCamera) -> None:
    streaming(camera, REGION | {"TriggerMode": "Off"})
    frames = [frame_of(camera).frame_id for _ in range(60)]
    assert frames == list(range(frames[0], frames[0] + 60))
    assert camera.status().missed == camera.status().incomplete == 0


def test_each_pulse_is_told_once_whatever_becomes_of_its_frame(camera: IsolatedCamera, directory: Path) -> None:
    streaming(camera, LINE0)
    orders = ["drop 2", "incomplete", "duplicate", "late 60 1", "short 2", "noheight", "frozen", "incomplete 3", "drop", "wrongsize"]
    told = pulses = 1
    tell(directory, SERIAL, "line0")
    assert frame_of(camera).frame_id == 0  # before the first frame nobody knows what was lost
    for order in [*orders, "larger", "drop 0"]:
        tell(directory, SERIAL, order)
        for _ in range(6):
            tell(directory, SERIAL, "line0")
            pulses += 1
            time.sleep(0.025)
            while frame := camera.fetch(0.0):
                told += 1 + frame.missed
                assert frame.frame_id == told - 1
    deadline = time.monotonic() + PATIENCE_S
    while told < pulses and time.monotonic() < deadline:
        if frame := camera.fetch(0.1):
            told += 1 + frame.missed
    assert told == pulses
    status = camera.status()
    assert status.delivered + status.missed + status.incomplete + status.frozen == pulses


# -- a device that somebody else holds ------------------------------------------------------------------------------------------------


def test_a_camera_that_is_held_is_waited_for_and_says_so(camera: IsolatedCamera, directory: Path) -> None:
    with (directory / f"{SERIAL}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        camera.start(SOFTWARE)
        until(lambda: "held by another program" in camera.status().detail)
    until(lambda: camera.status().state is CameraState.STREAMING)


def test_a_camera_that_denies_access_is_asked_again(camera: IsolatedCamera, directory: Path) -> None:
    faults = directory / f"{SERIAL}.faults"
    faults.write_text("error open always\n")
    camera.start(SOFTWARE)
    until(lambda: "held by another program" in camera.status().detail)
    faults.unlink()
    until(lambda: camera.status().state is CameraState.STREAMING)
    assert not snap(camera).flaw


def test_what_was_done_to_a_camera_can_be_read_afterwards(camera: IsolatedCamera, directory: Path) -> None:
    streaming(camera, SOFTWARE)
    assert happened(directory, SERIAL) == []
    struck(camera, directory, "short 1")
    tell(directory, SERIAL, "line0")
    tell(directory, SERIAL, "nonsense")
    tell(directory, SERIAL, "error fetch")
    until(lambda: camera.status().state is CameraState.LOST)
    assert happened(directory, SERIAL) == ["told short 1", "struck short", "told error fetch", "error fetch"]
