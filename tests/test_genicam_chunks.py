"""A camera in chunk mode: a frame taken with other settings than asked for is none to judge, and broken chunk data hurts nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import genicam
import numpy as np
import pytest

from drivers.camera import CameraState, Feature
from drivers.genicam import GenicamCamera
from drivers.genicam_device import GenicamDevice
from drivers.simulated.build import PRODUCER, build
from drivers.simulated.scene import Scene, tell

PATIENCE_S = 10.0
REGION: dict[str, Feature] = {
    "Width": 64,
    "Height": 32,
    "PixelFormat": "Mono8",
    "ChunkModeActive": True,
    "ExposureTime": 100.0,
    "Gain": 1.0,
}
LINE0 = REGION | {"TriggerMode": "On", "TriggerSource": "Line0"}
SERIALS = ["SIM-MER131", "SIM-MQ042"]
"""Their chunks are GigE Vision's and USB3 Vision's."""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    build()
    monkeypatch.setenv("STATION_SIMULATED_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture(params=SERIALS)
def serial(request: pytest.FixtureRequest, directory: Path) -> str:
    size = (1024, 1280) if request.param == "SIM-MER131" else (2048, 2048)
    Scene(directory, request.param).show([np.full(size, 100, np.uint8)], noise=20)
    return str(request.param)


@pytest.fixture
def camera(serial: str) -> Iterator[GenicamCamera]:
    made = GenicamCamera([PRODUCER], serial, simulated=True)
    yield made
    made.close()


@contextmanager
def one_buffer(producer: Path, serial_number: str, features: dict[str, Feature]) -> Iterator[tuple[GenicamDevice, Any]]:
    device = GenicamDevice([producer], serial_number, lambda: None)
    try:
        device.features.write(features)
        device.begin()
        deadline, buffer = time.monotonic() + PATIENCE_S, None
        while buffer is None:
            assert time.monotonic() < deadline
            buffer = device.try_fetch(0.1)
        yield device, buffer
        buffer.parent.queue_buffer(buffer)
    finally:
        device.close()


@pytest.mark.parametrize("name", ["ExposureTime", "Gain"])
def test_a_frame_that_was_being_exposed_when_the_settings_changed_is_no_picture(
    camera: GenicamCamera, serial: str, directory: Path, name: str
) -> None:
    camera.start(LINE0 | {"ExposureTime": 200_000.0})
    tell(directory, serial, "line0")
    time.sleep(0.05)  # into the exposure
    changed: dict[str, Feature] = {"ExposureTime": 200_000.0} | {name: 150_000.0 if name == "ExposureTime" else 3.0}
    camera.start(LINE0 | changed)
    frame = camera.fetch(PATIENCE_S)
    assert frame is not None
    assert (f"was taken with {name}" in frame.flaw, frame.pixels.size) == (True, 0)
    tell(directory, serial, "line0")
    frame = camera.fetch(PATIENCE_S)
    assert frame is not None
    assert (frame.flaw, frame.pixels.shape) == ("", (32, 64))


@pytest.mark.parametrize("fault", ["short", "larger", "noheight", "wrongsize"])
def test_a_frame_whose_chunk_data_is_lost_is_told_as_what_it_is_and_the_next_one_is_whole(
    camera: GenicamCamera, serial: str, directory: Path, fault: str
) -> None:
    camera.start(LINE0)
    tell(directory, serial, fault)
    tell(directory, serial, "line0")
    frame = camera.fetch(PATIENCE_S)
    assert frame is not None
    assert frame.flaw
    tell(directory, serial, "line0")
    frame = camera.fetch(PATIENCE_S)
    assert frame is not None
    assert (frame.flaw, camera.status().state) == ("", CameraState.STREAMING)


def test_only_what_the_frame_tells_is_compared_and_a_coarser_figure_is_no_difference(serial: str) -> None:
    with one_buffer(PRODUCER, serial, REGION) as (device, buffer):
        chunks = device.chunks()
        assert chunks is not None
        assert chunks.taken_otherwise(buffer, {"ExposureTime": 100.9, "Gain": 1.0, "BlackLevel": 3.0, "PixelFormat": "Mono12"}) == ""
        assert "ExposureTime 100 in place of 102" in chunks.taken_otherwise(buffer, {"ExposureTime": 102.0})
        assert "Gain 1 in place of 0" in chunks.taken_otherwise(buffer, {"ExposureTime": 100.0, "Gain": 0})


def test_without_chunk_mode_nothing_is_read(serial: str) -> None:
    with one_buffer(PRODUCER, serial, REGION | {"ChunkModeActive": False}) as (device, _):
        assert device.chunks() is None


def test_where_the_producer_tells_of_the_chunks_they_are_found_too() -> None:
    viky = Path(genicam.__file__).parent / "viky.cti"
    with one_buffer(viky, "0", {"ChunkModeActive": True}) as (device, buffer):
        chunks = device.chunks()
        assert chunks is not None
        assert "was taken with NrBounces" in chunks.taken_otherwise(buffer, {"NrBounces": 10**6})
