"""A producer that gives revoked buffers back as NULL, as XIMEA's does: the camera stops and starts again, in the memory it has."""

import functools
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from drivers.camera import Camera, CameraState, Feature
from drivers.genicam import GenicamCamera
from drivers.gentl_revoke import bear_null_on_revoke
from drivers.isolated import IsolatedCamera
from drivers.simulated.build import PRODUCER, build
from drivers.simulated.scene import Scene

SERIAL = "SIM-MQ042"
PATIENCE_S = 10.0
REGION: dict[str, Feature] = {"Width": 64, "Height": 32, "PixelFormat": "Mono8", "ExposureTime": 100.0}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> functools.partial[GenicamCamera]:
    build()
    monkeypatch.setenv("STATION_SIMULATED_DIR", str(tmp_path))
    monkeypatch.setenv("STATION_SIMULATED_PROFILES", "ximea")
    Scene(tmp_path, SERIAL).show([np.full((2048, 2048), 100, np.uint8)], noise=20)
    return functools.partial(GenicamCamera, [PRODUCER], SERIAL, simulated=True)


def frame_of_width(camera: Camera, width: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while camera.status().state is CameraState.OPENING or (frame := camera.fetch(0.1)) is None or frame.pixels.shape != (32, width):
        assert time.monotonic() < deadline, camera.status()


def test_its_camera_can_be_set_otherwise_again_and_again_and_given_back(make: functools.partial[GenicamCamera]) -> None:
    for _ in range(2):
        camera = make()
        for width in (64, 128, 64, 256):
            camera.start(REGION | {"Width": width})
            frame_of_width(camera, width)
        camera.close()


def test_in_its_process_it_is_set_otherwise_without_being_lost(make: functools.partial[GenicamCamera]) -> None:
    camera = IsolatedCamera(make, simulated=True)
    try:
        camera.start(REGION)
        frame_of_width(camera, 64)
        for width in (128, 64, 128):
            camera.start(REGION | {"Width": width})
            deadline = time.monotonic() + PATIENCE_S
            while (status := camera.status()).state is not CameraState.STREAMING:
                assert status.state is CameraState.OPENING, status
                assert time.monotonic() < deadline
            frame_of_width(camera, width)
        assert camera.status().reconnects == 0
    finally:
        camera.close()


class Stream(SimpleNamespace):
    """Notes which memory is announced; a revoked buffer is its memory."""

    def __init__(self, *, gives_null: bool) -> None:
        super().__init__(announced=[], gives_null=gives_null)

    def announce_buffer(self, token: SimpleNamespace) -> SimpleNamespace:
        self.announced.append(token.raw_buffer)
        return SimpleNamespace(raw_buffer=token.raw_buffer)

    def revoke_buffer(self, buffer: SimpleNamespace) -> bytes:
        if self.gives_null:
            raise SystemError
        return bytes(buffer.raw_buffer)


@pytest.fixture(params=[True, False], ids=["null", "as it should be"])
def stream(request: pytest.FixtureRequest) -> Stream:
    made = Stream(gives_null=request.param)
    bear_null_on_revoke(made)
    return made


def test_memory_that_the_wheel_keeps_is_announced_again_where_it_is_large_enough(stream: Stream) -> None:
    first = [stream.announce_buffer(SimpleNamespace(raw_buffer=bytes(size))) for size in (100, 40)]
    for buffer in first:
        stream.revoke_buffer(buffer)
    for size in (30, 60, 60, 200):
        stream.announce_buffer(SimpleNamespace(raw_buffer=bytes(size)))
    assert [*map(len, stream.announced)] == [100, 40, *((40, 100, 60, 200) if stream.gives_null else (30, 60, 60, 200))]
