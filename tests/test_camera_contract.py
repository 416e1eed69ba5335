"""Every camera keeps the promises of `drivers.camera`. A camera added later joins by one line in CAMERAS.

A camera on the desk joins without any: `STATION_TEST_PRODUCER=/usr/lib/GxGVTL.cti STATION_TEST_SERIAL=KE0123 pytest
tests/test_camera_contract.py`. The serial number may be left out for the only device there is. Its features are found out.
"""

import functools
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import genicam
import numpy as np
import pytest

from drivers.camera import Camera, CameraError, CameraState, CameraStatus, Feature, Frame
from drivers.genicam import GenicamCamera
from drivers.genicam_device import GenicamDevice
from drivers.genicam_features import Features
from drivers.isolated import IsolatedCamera
from drivers.simulated.build import PRODUCER, build
from station.recording import RecordedCamera

VIKY = Path(genicam.__file__).parent / "viky.cti"
START_S = 20.0
FRAME_S = 5.0


@dataclass(frozen=True)
class Make:
    """One camera under test: how it is made, and features that it has.

    Attributes:
        free: streams by itself; 8 bit.
        other: as `free`, with another size.
        rare: no frame comes within 0.2 s of the start, or of the first frame; empty where that cannot be had.
        software: waits for a software trigger; empty where the camera has none.
        wrong: as `free`, but with one value that the device refuses.
        is_device: whether there is a device that exposes, waits and checks its features, or only what one sent before.
    """

    name: str
    camera: Callable[[], Camera]
    free: dict[str, Feature]
    other: dict[str, Feature]
    rare: dict[str, Feature]
    software: dict[str, Feature]
    wrong: dict[str, Feature]
    is_device: bool = True


def simulated_features(name: str, camera: Callable[[], Camera], **more: Feature) -> Make:
    free: dict[str, Feature] = {"Width": 640, "Height": 480, "PixelFormat": "Mono8", "ExposureTime": 1000.0, "TriggerMode": "Off", **more}
    software = free | {"TriggerMode": "On", "TriggerSource": "Software"}
    other, wrong = free | {"Width": 320, "Height": 200}, free | {"Width": 4096}
    return Make(name, camera, free, other, rare=software, software=software, wrong=wrong)


def viky_features(name: str, camera: Callable[[], Camera]) -> Make:
    free: dict[str, Feature] = {"Width": 400, "Height": 300, "PixelFormat": "Mono8", "AcquisitionFrameRate": 150.0}
    rare = free | {"AcquisitionFrameRate": 1.0}
    return Make(name, camera, free, free | {"Width": 320, "Height": 200}, rare, software={}, wrong=free | {"Width": 801})


def recorded_features() -> Make:
    """Frames as they come off a recording, whose times lie on the clock of whoever plays it back."""
    free: dict[str, Feature] = {"Width": 64, "Height": 48, "PixelFormat": "Mono8", "TriggerMode": "Off"}
    software = free | {"TriggerMode": "On", "TriggerSource": "Software"}

    def frames() -> Iterator[Frame]:
        for number in itertools.count():
            pixels = np.full((48, 64), number % 256, np.uint8)
            pixels.flags.writeable = False
            yield Frame(pixels, "Mono8", number, 0, time.monotonic_ns())

    return Make("recording", lambda: RecordedCamera(frames()), free, free, software, software, free, is_device=False)


def foreign_features(producer: Path, serial_number: str) -> list[Make]:
    """A device that nobody here knows, with what it turns out to have; alone, and in a process of its own."""
    device = GenicamDevice([producer], serial_number, lambda: None)
    features = device.features
    try:
        free, other = (dict(features.suggest(*size, colour=False)) for size in ((400, 300), (320, 200)))
        if "PixelFormat" not in free:
            colour = features.suggest(400, 300, colour=True).get("PixelFormat")
            free, other = ({**size, **({"PixelFormat": colour} if colour else {})} for size in (free, other))
        common = {name: value for name, value in (("ExposureTime", 2000.0), ("TriggerMode", "Off")) if takes(features, {name: value})}
        free, other = free | common, other | common
        software: dict[str, Feature] = free | {"TriggerMode": "On", "TriggerSource": "Software"}
        software = software if takes(features, software) else {}
        slow: dict[str, Feature] = free | {"AcquisitionFrameRate": 1.0}
        rare = software or (slow if takes(features, slow) else {})
    finally:
        device.close()
    make = functools.partial(Make, free=free, other=other, rare=rare, software=software, wrong=free | {"Width": 10**6})
    return [
        make("foreign", genicam_camera(producer, serial_number)),
        make("isolated-foreign", isolated_camera(producer, serial_number)),
    ]


def takes(features: Features, values: Mapping[str, Feature]) -> bool:
    try:
        features.write(values)
        return bool(features.read_back(values))
    except CameraError:
        return False


def genicam_camera(producer: Path, serial_number: str) -> Callable[[], Camera]:
    return functools.partial(GenicamCamera, [producer], serial_number, simulated=True)


def isolated_camera(producer: Path, serial_number: str) -> Callable[[], Camera]:
    return functools.partial(IsolatedCamera, genicam_camera(producer, serial_number), simulated=True)


CAMERAS = [
    simulated_features("genicam-mer131", genicam_camera(PRODUCER, "SIM-MER131")),
    simulated_features("genicam-mq042", genicam_camera(PRODUCER, "SIM-MQ042")),
    viky_features("genicam-viky", genicam_camera(VIKY, "0")),
    simulated_features("isolated-mq042-chunks", isolated_camera(PRODUCER, "SIM-MQ042"), ChunkModeActive=True),
    viky_features("isolated-viky", isolated_camera(VIKY, "1")),
    recorded_features(),
]
if FOREIGN := os.environ.get("STATION_TEST_PRODUCER"):
    CAMERAS += foreign_features(Path(FOREIGN), os.environ.get("STATION_TEST_SERIAL", ""))


@pytest.fixture(params=CAMERAS, ids=lambda make: make.name)
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    build()
    monkeypatch.setenv("STATION_SIMULATED_DIR", str(tmp_path))
    chosen: Make = request.param
    return chosen


@pytest.fixture
def camera(make: Make) -> Iterator[Camera]:
    made = make.camera()
    yield made
    made.close()


def start(camera: Camera, features: Mapping[str, Feature]) -> CameraStatus:
    """Starts, waits for a supervised camera, and returns the status of a camera that streams."""
    camera.start(features)
    deadline = time.monotonic() + START_S
    while (status := camera.status()).state is not CameraState.STREAMING:
        assert time.monotonic() < deadline, status
        time.sleep(0.002)
    return status


def why_not(camera: Camera, features: Mapping[str, Feature]) -> str:
    """Why the camera does not start: what it raises, or what a supervised one says in its status."""
    try:
        camera.start(features)
    except CameraError as error:
        return str(error)
    deadline = time.monotonic() + START_S
    while (status := camera.status()).state is CameraState.OPENING:
        assert time.monotonic() < deadline, status
        time.sleep(0.002)
    assert status.state in (CameraState.ABSENT, CameraState.LOST)
    return status.detail


def frame_of(camera: Camera) -> Frame:
    frame = camera.fetch(FRAME_S)
    assert frame is not None, camera.status()
    return frame


def told(camera: Camera) -> int:
    """Pictures so far. A device that shows the same bytes all the time is no less a camera."""
    status = camera.status()
    return status.delivered + status.frozen


@pytest.fixture
def device_only(make: Make) -> None:
    if not make.is_device:
        pytest.skip("there is no device: nothing is lost, waited for or refused")


def test_frames_are_what_the_features_ask_for(camera: Camera, make: Make) -> None:
    start(camera, make.free)
    frame = frame_of(camera)
    assert frame.pixels.shape[:2] == (make.free["Height"], make.free["Width"])
    assert frame.pixels.dtype == np.uint8
    assert frame.pixel_format == make.free["PixelFormat"]
    assert not frame.flaw


def test_frames_come_in_order_and_every_gap_is_told(camera: Camera, make: Make) -> None:
    start(camera, make.free)
    before = frame_of(camera)
    assert before.missed == 0
    for _ in range(20):
        frame = frame_of(camera)
        assert frame.frame_id == before.frame_id + 1 + frame.missed
        assert frame.captured_ns >= before.captured_ns
        before = frame


@pytest.mark.usefixtures("device_only")
def test_frames_that_nobody_fetched_in_time_are_counted_as_missed(camera: Camera, make: Make) -> None:
    start(camera, make.free)
    frame_of(camera)
    begun = time.monotonic()
    before, frame = frame_of(camera), frame_of(camera)
    time.sleep(max(0.6, 20 * (time.monotonic() - begun)))  # the stall itself: 40 frames, where no camera keeps more than 24
    deadline = time.monotonic() + FRAME_S
    while frame.missed == 0 and time.monotonic() < deadline:
        before, frame = frame, frame_of(camera)
    assert frame.missed > 0
    assert frame.frame_id == before.frame_id + 1 + frame.missed
    assert camera.status().missed == frame.missed


def test_a_frame_is_never_from_the_future(camera: Camera, make: Make) -> None:
    begun_ns = time.monotonic_ns()
    start(camera, make.free)
    for _ in range(60):
        frame = frame_of(camera)
        assert begun_ns < frame.captured_ns <= time.monotonic_ns()


def test_pixels_are_read_only_and_stay_as_they_are_while_streaming_goes_on(camera: Camera, make: Make) -> None:
    start(camera, make.free)
    held = [frame_of(camera) for _ in range(4)]
    copies = [frame.pixels.copy() for frame in held]
    for _ in range(40):
        frame_of(camera)
    assert not any(frame.pixels.flags.writeable for frame in held)
    assert all(np.array_equal(frame.pixels, copy) for frame, copy in zip(held, copies, strict=True))


@pytest.mark.usefixtures("device_only")
def test_a_status_tells_the_device_its_features_and_what_was_counted(camera: Camera, make: Make) -> None:
    status = start(camera, make.free)
    assert dict(status.features) == make.free
    assert all((status.vendor, status.model, status.serial_number))
    assert (status.detail, status.delivered, status.missed, status.incomplete, status.reconnects) == ("", 0, 0, 0, 0)
    missed = sum(frame_of(camera).missed for _ in range(5))
    status = camera.status()
    assert (status.delivered + status.frozen, status.missed) == (5, missed)


def test_a_status_is_quick(camera: Camera, make: Make) -> None:
    start(camera, make.free)
    durations = []
    for _ in range(50):
        begun = time.perf_counter()
        camera.status()
        durations.append(time.perf_counter() - begun)
    assert statistics.median(durations) < 1e-3


def test_starting_with_the_same_features_leaves_the_stream_alone(camera: Camera, make: Make) -> None:
    start(camera, make.free)
    for _ in range(10):
        before = frame_of(camera)
    camera.start(dict(make.free))
    assert camera.status().state is CameraState.STREAMING
    frame = frame_of(camera)
    assert frame.frame_id == before.frame_id + 1 + frame.missed


@pytest.mark.usefixtures("device_only")
def test_after_a_start_with_other_features_no_frame_of_the_old_ones_comes(camera: Camera, make: Make) -> None:
    start(camera, make.free)
    frame_of(camera)
    for features in (make.other, make.free):
        status = start(camera, features)
        assert dict(status.features) == features
        assert frame_of(camera).pixels.shape[:2] == (features["Height"], features["Width"])


@pytest.mark.usefixtures("device_only")
def test_a_fetch_gives_up_after_its_timeout(camera: Camera, make: Make) -> None:
    if not make.rare:
        pytest.skip("this camera cannot be kept from sending")
    start(camera, make.rare)
    camera.fetch(0.0)
    begun = time.monotonic()
    assert camera.fetch(0.1) is None
    assert 0.1 <= time.monotonic() - begun < 1.0
    assert camera.status().state is CameraState.STREAMING


def test_a_camera_that_is_not_started_gives_no_frames(camera: Camera) -> None:
    status = camera.status()
    assert status.state is CameraState.ABSENT
    assert status.detail
    with pytest.raises(CameraError, match="not started"):
        camera.fetch(0.0)
    with pytest.raises(CameraError, match="not started"):
        camera.trigger()
    camera.stop()


def test_a_stopped_camera_gives_no_frames_and_starts_again(camera: Camera, make: Make) -> None:
    start(camera, make.free)
    held = frame_of(camera)
    copy = held.pixels.copy()
    camera.stop()
    camera.stop()
    assert camera.status().state is CameraState.ABSENT
    with pytest.raises(CameraError, match="stopped"):
        camera.fetch(0.0)
    start(camera, make.free)
    assert frame_of(camera).missed == 0
    assert np.array_equal(held.pixels, copy)
    assert told(camera) == 2


def test_a_closed_camera_refuses_everything_but_its_status(make: Make) -> None:
    camera = make.camera()
    start(camera, make.free)
    held = frame_of(camera)
    copy = held.pixels.copy()
    camera.close()
    camera.close()
    camera.stop()
    assert camera.status().state is CameraState.ABSENT
    for call in (lambda: camera.start(make.free), lambda: camera.fetch(0.0), camera.trigger):
        with pytest.raises(CameraError, match="closed"):
            call()
    assert np.array_equal(held.pixels, copy)


def test_a_device_that_was_closed_can_be_opened_again(make: Make) -> None:
    for _ in range(2):
        camera = make.camera()
        try:
            start(camera, make.free)
            frame_of(camera)
        finally:
            camera.close()


@pytest.mark.usefixtures("device_only")
def test_a_feature_that_the_device_does_not_have_is_named(camera: Camera, make: Make) -> None:
    assert "ExposureTim;" in why_not(camera, make.free | {"ExposureTim": 1.0})
    start(camera, make.free)


@pytest.mark.usefixtures("device_only")
def test_a_value_out_of_range_is_named_with_what_is_allowed(camera: Camera, make: Make) -> None:
    cause = why_not(camera, make.wrong)
    (name,) = (name for name in make.free if make.free[name] != make.wrong[name])
    assert name in cause
    assert repr(make.wrong[name]) in cause
    assert "allowed" in cause
    start(camera, make.free)
    frame_of(camera)


def test_a_trigger_gives_one_frame_captured_after_it(camera: Camera, make: Make) -> None:
    if not make.software:
        pytest.skip("this camera has no software trigger")
    start(camera, make.software)
    for _ in range(3):
        triggered_ns = time.monotonic_ns()
        camera.trigger()
        assert frame_of(camera).captured_ns > triggered_ns
        assert camera.fetch(0.03) is None
    assert camera.status().missed == 0


def test_frames_from_before_a_trigger_are_never_handed_over_after_it(camera: Camera, make: Make) -> None:
    if not make.software:
        pytest.skip("this camera has no software trigger")
    start(camera, make.software)
    for _ in range(4):
        camera.trigger()
    assert frame_of(camera).missed == 0
    assert camera.fetch(0.2) is None


def test_a_camera_that_runs_freely_cannot_be_triggered(camera: Camera, make: Make) -> None:
    start(camera, make.free)
    with pytest.raises(CameraError, match="TriggerMode"):
        camera.trigger()
    frame_of(camera)
