"""`drivers.genicam_features` and packed formats: what vendors name and send otherwise, on the simulated producer's profiles."""

import fcntl
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import drivers.genicam
import drivers.genicam_device
from drivers.camera import CameraError, Feature, Frame
from drivers.genicam import GenicamCamera
from drivers.simulated.build import PRODUCER, build
from drivers.simulated.scene import Scene, tell
from station.vision.preprocess import PIXEL_FORMATS

MER131, MQ042 = "SIM-MER131", "SIM-MQ042"
REGION: dict[str, Feature] = {"Width": 64, "Height": 32}
SOFTWARE: dict[str, Feature] = {"TriggerMode": "On", "TriggerSource": "Software"}
BAYER = {"BayerRG": "RGGB", "BayerGR": "GRBG", "BayerGB": "GBRG", "BayerBG": "BGGR"}
Connect = Callable[..., GenicamCamera]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    build()
    monkeypatch.setenv("STATION_SIMULATED_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    made: list[GenicamCamera] = []

    def camera_of(profiles: str, serial_number: str, user_set: str = "") -> GenicamCamera:
        monkeypatch.setenv("STATION_SIMULATED_PROFILES", profiles)
        made.append(GenicamCamera([PRODUCER], serial_number, user_set=user_set, simulated=True))
        return made[-1]

    yield camera_of
    for camera in made:
        camera.close()


def frame_of(camera: GenicamCamera) -> Frame:
    frame = camera.fetch(5.0)
    assert frame is not None, camera.status()
    return frame


# -- the vendors' names ---------------------------------------------------------------------------------------------------------------


def test_a_recipe_of_sfnc_names_runs_on_daheng_and_reads_back_the_same(connect: Connect) -> None:
    camera = connect("daheng", MER131)
    for enabled in (True, False):
        features: dict[str, Feature] = {"AcquisitionFrameRateEnable": enabled, "AcquisitionFrameRate": 20.0, "TriggerMode": "Off"}
        camera.start(features)
        assert dict(camera.status().features) == features
        device = camera._device
        assert device is not None
        assert device.features.read("AcquisitionFrameRateMode") == ("On" if enabled else "Off")
        assert device.features.read("CurrentAcquisitionFrameRate") == (20.0 if enabled else 75.0)


def test_what_a_vendor_has_besides_sfnc_goes_by_its_own_name(connect: Connect) -> None:
    camera = connect("daheng", MER131)
    features: dict[str, Feature] = {"AcquisitionFrameRateMode": "On", "TriggerSwitch": "Off", "ExpectedGrayValue": 99}
    camera.start(features)
    assert dict(camera.status().features) == features


def test_a_value_that_no_candidate_has_is_refused_under_the_recipes_name(connect: Connect) -> None:
    with pytest.raises(CameraError, match="there is no feature AcquisitionFrameRateEnable"):
        connect("daheng", MER131).start({"AcquisitionFrameRateEnable": 1})
    with pytest.raises(CameraError, match="there is no feature AcquisitionFrameRateEnable"):
        connect("ximea", MQ042).start({"AcquisitionFrameRateEnable": True})
    with pytest.raises(CameraError, match="PixelFormat cannot be 'Mono10', allowed: Mono8, BayerGB8"):
        connect("", MQ042).start({"PixelFormat": "Mono10"})


@pytest.mark.parametrize(("asked", "theirs"), [("Mono10", "Mono16"), ("BayerGB10", "BayerGB16")])
def test_ximeas_ten_bits_in_words_of_16_are_ten_bits(connect: Connect, directory: Path, asked: str, theirs: str) -> None:
    Scene(directory, MQ042).show([np.full((2048, 2048), 255, np.uint8)])
    camera = connect("ximea", MQ042)
    camera.start(REGION | {"PixelFormat": asked})
    assert dict(camera.status().features) == REGION | {"PixelFormat": asked}
    device = camera._device
    assert device is not None
    assert device.features.read("PixelFormat") == theirs
    frame = frame_of(camera)
    assert (frame.pixel_format, frame.pixels.dtype) == (asked, np.uint16)
    assert np.all(frame.pixels == 1023)


# -- formats --------------------------------------------------------------------------------------------------------------------------


def expected(name: str, depth: int, shown: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> object:
    """The scene in a format: each Bayer site takes its colour, deeper samples repeat the high bits below."""
    if name == "Mono":
        samples = (shown @ np.array([9798, 19235, 3735]) + 16384 >> 15).astype(np.uint16)
    else:
        samples = np.empty(shown.shape[:2], np.uint16)
        for site, colour in enumerate(BAYER[name]):
            samples[site // 2 :: 2, site % 2 :: 2] = shown[site // 2 :: 2, site % 2 :: 2, "RGB".index(colour)]
    return samples << (depth - 8) | samples >> (16 - depth)


@pytest.mark.parametrize("name", ["Mono", *BAYER])
def test_deep_and_packed_pixels_arrive_bit_exact_under_the_unpacked_name(connect: Connect, directory: Path, name: str) -> None:
    shown = np.random.default_rng(1).integers(0, 256, (32, 64, 3), np.uint8)
    Scene(directory, MER131).show([shown])
    camera = connect("formats", MER131)
    for suffix in ("8", "10", "12", "10p", "12p", "10Packed", "12Packed"):
        depth = int(suffix.removesuffix("p").removesuffix("Packed"))
        features = REGION | {"PixelFormat": f"{name}{suffix}", "OffsetX": 608, "OffsetY": 496}
        camera.start(features)
        assert dict(camera.status().features) == features
        frame = frame_of(camera)
        assert frame.pixel_format == f"{name}{depth}"
        assert frame.pixel_format in PIXEL_FORMATS
        assert frame.pixels.dtype == (np.uint8 if depth == 8 else np.uint16)
        assert not frame.pixels.flags.writeable
        np.testing.assert_array_equal(frame.pixels, expected(name, depth, shown))


# -- user sets, temperature, who holds it ---------------------------------------------------------------------------------------------


def test_a_user_set_is_loaded_before_the_features_are_written(connect: Connect) -> None:
    camera = connect("", MER131, "Default")
    camera.start(REGION | {"Gain": 3.0, "ExposureTime": 9000.0})
    device = camera._device
    assert device is not None
    camera.start(REGION | {"Gain": 2.0})
    assert (device.features.read("Gain"), device.features.read("ExposureTime")) == (2.0, 4000.0)
    camera.start({"Gain": 2.0})
    assert frame_of(camera).pixels.shape == (1024, 1280)


def test_without_a_user_set_the_device_keeps_what_no_feature_names(connect: Connect) -> None:
    camera = connect("", MER131)
    camera.start(REGION | {"ExposureTime": 9000.0})
    camera.start(REGION)
    device = camera._device
    assert device is not None
    assert device.features.read("ExposureTime") == 9000.0


def test_nothing_that_was_read_before_a_user_set_is_believed_after_it(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = connect("", MER131)
    camera.start(REGION)
    camera.stop()
    device = camera._device
    assert device is not None
    forgotten: list[str] = []
    nodes = [SimpleNamespace(node=SimpleNamespace(invalidate_node=functools.partial(forgotten.append, name))) for name in ("Width", "Gain")]

    class Spied:
        def __init__(self, real: Any) -> None:
            self.has_node, self.get_node, self.nodes = real.has_node, real.get_node, nodes

    monkeypatch.setattr(device.features, "_nodes", Spied(device.features._nodes))
    device.features.load_user_set("Default")
    assert forgotten == ["Width", "Gain"]


def test_a_user_set_that_is_not_there_is_an_error(connect: Connect) -> None:
    with pytest.raises(CameraError, match="UserSetSelector cannot be 'UserSet1', allowed: Default"):
        connect("", MER131, "UserSet1").start(REGION)
    with pytest.raises(CameraError, match="user set Default cannot be loaded: this device has no user sets"):
        connect("ximea", MQ042, "Default").start(REGION)


def test_the_temperature_is_read_now_and_then(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = connect("", MER131)
    camera.start(REGION | SOFTWARE)
    assert camera.status().temperature_c is None
    camera.fetch(0.0)
    assert camera.status().temperature_c == 41.0
    asked = []
    monkeypatch.setattr("drivers.genicam_features.Features.read_anew", lambda _, name: asked.append(name) or 50.0)
    camera.fetch(0.0)
    assert asked == []
    monkeypatch.setattr(camera, "_warmth_due_ns", 0)
    camera.trigger()
    frame_of(camera)
    assert asked == []  # a triggered frame does not wait for it
    camera.fetch(0.0)
    camera.fetch(0.0)
    assert asked == ["DeviceTemperature"]
    assert camera.status().temperature_c == 50.0
    assert drivers.genicam.TEMPERATURE_NS >= 1e9


def test_a_device_without_a_temperature_tells_none(connect: Connect) -> None:
    camera = connect("ximea", MQ042)
    camera.start(REGION)
    frame_of(camera)
    assert camera.status().temperature_c is None


@pytest.mark.parametrize("wanted", [MER131, "02-00-00-00-01-31", "MER-131-75GC-P(02-00-00-00-01-31)"])
def test_daheng_is_found_by_its_serial_number_or_its_address_and_no_other_device_is_opened(
    connect: Connect, directory: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    opened = []

    class Backwards(drivers.genicam_device.Harvester):  # type: ignore[misc, name-defined]
        def update(self) -> None:
            super().update()
            self.device_info_list.reverse()
            for device in self.device_info_list:
                device.property_dict["display_name"] = None

        def create(self, device: Any, **more: Any) -> Any:
            opened.append(device.model)
            return super().create(device, **more)

    monkeypatch.setattr(drivers.genicam_device, "Harvester", Backwards)
    (directory / f"{MQ042}.faults").write_text("noserial\n")
    camera = connect("daheng", wanted)
    camera.start(REGION)
    assert camera.status().serial_number == MER131
    assert opened == ["MER-131-75GC-P"]


def test_a_device_seen_through_two_producers_is_taken_from_the_first(directory: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.cti"
    second.write_bytes(PRODUCER.read_bytes())
    tell(directory, MQ042, "lost")
    for serial_number in (MER131, ""):
        camera = GenicamCamera([PRODUCER, second], serial_number)
        try:
            camera.start(REGION)
            assert frame_of(camera).pixels.shape == (32, 64)
        finally:
            camera.close()


def test_who_opened_and_is_not_the_one_is_named(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.genicam_features.Features.read", lambda _, name: "other" if name == "DeviceSerialNumber" else None)
    with pytest.raises(CameraError, match=f"{MER131}.* was opened and says that its serial number is other"):
        connect("", MER131).start({})


def test_a_held_device_is_said_to_be_held_and_by_whom_as_far_as_the_producer_knows(connect: Connect, directory: Path) -> None:
    with (directory / f"{MER131}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CameraError, match=r"is held by another program \(\w.*another program or another computer has it\)"):
            connect("", MER131).start(REGION)
    begun = time.monotonic()
    connect("", MER131).start(REGION)
    assert time.monotonic() - begun < 10.0
