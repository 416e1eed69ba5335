"""`drivers.genicam`: what only a device behind a GenTL producer can show. The promises every camera keeps are in the contract suite."""

import _struct
import fcntl
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import genicam
import numpy as np
import numpy.typing as npt
import pytest
from genicam import gentl

import drivers.genicam
import drivers.genicam_device
from drivers.camera import CameraError, CameraState, Feature, Frame, Pixels
from drivers.genicam import FROZEN, INCOMPLETE, GenicamCamera
from drivers.genicam_features import Features
from drivers.simulated.build import PRODUCER, build
from drivers.simulated.scene import Scene, tell

MER131, MQ042 = "SIM-MER131", "SIM-MQ042"
FREE: dict[str, Feature] = {"Width": 320, "Height": 240, "PixelFormat": "Mono8", "ExposureTime": 4000.0, "TriggerMode": "Off"}
SOFTWARE = FREE | {"TriggerMode": "On", "TriggerSource": "Software"}
MS = 1_000_000


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    build()
    monkeypatch.setenv("STATION_SIMULATED_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def camera() -> Iterator[GenicamCamera]:
    made = GenicamCamera([PRODUCER], MER131, simulated=True)
    yield made
    made.close()


def frame_of(camera: GenicamCamera) -> Frame:
    frame = camera.fetch(5.0)
    assert frame is not None, camera.status()
    return frame


def refusal(serial_number: str, producers: list[Path]) -> str:
    camera = GenicamCamera(producers, serial_number)
    try:
        with pytest.raises(CameraError) as caught:
            camera.start(FREE)
        assert camera.status().detail == str(caught.value)
        return str(caught.value)
    finally:
        camera.close()


# -- finding and opening --------------------------------------------------------------------------------------------------------------


def test_a_missing_producer_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'vendor.cti'} does not exist" in refusal("", [tmp_path / "vendor.cti"])


def test_a_file_that_is_no_library_is_named(tmp_path: Path) -> None:
    (tmp_path / "vendor.cti").write_text("not a library")
    assert f"{tmp_path / 'vendor.cti'} cannot be loaded" in refusal("", [tmp_path / "vendor.cti"])


def test_a_library_that_is_no_producer_is_refused_before_it_crashes_the_process() -> None:
    assert "no GCInitLib" in refusal("", [Path(_struct.__file__)])


@pytest.mark.parametrize("at", [0, 1])
def test_a_producer_that_cannot_be_loaded_keeps_no_camera_of_another_one_away(tmp_path: Path, at: int) -> None:
    broken = tmp_path / "broken.cti"
    broken.write_bytes(b"no library")
    producers = [PRODUCER]
    producers.insert(at, broken)
    camera = GenicamCamera(producers, MER131, simulated=True)
    try:
        camera.start(FREE)
        assert not frame_of(camera).flaw
    finally:
        camera.close()
    assert "broken.cti" in refusal("SIM-NONE", producers)


def test_a_camera_without_a_trigger_runs_freely_anyway() -> None:
    camera = GenicamCamera([Path(genicam.__file__).parent / "viky.cti"], "0")
    try:
        camera.start({"TriggerSelector": "FrameStart", "TriggerMode": "Off", "Height": 300.0})
        assert frame_of(camera).pixels.shape[0] == 300
        with pytest.raises(CameraError, match="there is no feature TriggerMode"):
            camera.start({"TriggerMode": "On"})
    finally:
        camera.close()


def test_a_temperature_that_is_refused_is_none_and_loses_no_camera(camera: GenicamCamera, monkeypatch: pytest.MonkeyPatch) -> None:
    read_anew = Features.read_anew

    def refuse(features: Features, name: str) -> Any:
        if name == "DeviceTemperature":
            raise gentl.AccessDeniedException("this register")
        return read_anew(features, name)

    monkeypatch.setattr(Features, "read_anew", refuse)
    camera.start(FREE)
    for _ in range(3):
        frame_of(camera)
    assert (camera.status().state, camera.status().temperature_c) == (CameraState.STREAMING, None)


def test_a_wall_clock_that_is_set_back_delays_no_fetch(camera: GenicamCamera, monkeypatch: pytest.MonkeyPatch) -> None:
    camera.start(FREE | {"TriggerMode": "On", "TriggerSource": "Software"})
    wall_s = itertools.count(2e9, -1.0)
    monkeypatch.setattr(time, "time", lambda: next(wall_s))
    assert camera.fetch(0.01) is None  # or it would fetch for ever


def test_an_unknown_serial_number_tells_what_is_there() -> None:
    cause = refusal("4711", [PRODUCER])
    assert all(word in cause for word in ("4711", MER131, MQ042))


def test_without_a_serial_number_the_only_device_is_opened(directory: Path) -> None:
    assert MQ042 in refusal("", [PRODUCER])
    tell(directory, MQ042, "lost")
    camera = GenicamCamera([PRODUCER])
    camera.start(FREE)
    assert camera.status().serial_number == MER131
    camera.close()


def test_a_device_that_another_program_holds_is_said_to_be_held(directory: Path) -> None:
    with (directory / f"{MER131}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "held by another program" in refusal(MER131, [PRODUCER])


@pytest.mark.parametrize("serial_number", [MER131, MQ042])
def test_a_device_that_tells_its_serial_number_only_when_open_is_found(serial_number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reserved(drivers.genicam_device.Harvester):  # type: ignore[misc]
        def update(self) -> None:
            super().update()
            for device in self.device_info_list:
                device.property_dict["serial_number"] = None

    monkeypatch.setattr(drivers.genicam_device, "Harvester", Reserved)
    camera = GenicamCamera([PRODUCER], serial_number)
    camera.start(FREE)
    assert camera.status().serial_number == serial_number
    camera.close()
    assert "4711" in refusal("4711", [PRODUCER])


def test_the_handler_of_ctrl_c_stays_as_it_was(camera: GenicamCamera) -> None:
    before = signal.getsignal(signal.SIGINT)
    camera.start(FREE)
    assert signal.getsignal(signal.SIGINT) is before
    camera.close()
    assert signal.getsignal(signal.SIGINT) is before


def test_importing_it_leaves_the_warning_filters_alone() -> None:
    program = (
        "import numpy, warnings; before = [*warnings.filters]; import drivers.genicam; assert warnings.filters == before, warnings.filters"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])


# -- features -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("OffsetX", "OffsetY", "Width", "Height"), ("Width", "Height", "OffsetX", "OffsetY")])
def test_a_region_can_follow_any_other_in_any_order_of_names(camera: GenicamCamera, names: tuple[str, ...]) -> None:
    whole, right, left = (0, 0, 1280, 1024), (1000, 900, 280, 124), (0, 20, 1200, 1004)
    for region in (whole, right, left, right, whole):
        values = dict(zip(("OffsetX", "OffsetY", "Width", "Height"), region, strict=True))
        features: dict[str, Feature] = {name: values[name] for name in names}
        camera.start(features)
        assert dict(camera.status().features) == features
        assert frame_of(camera).pixels.shape == (values["Height"], values["Width"])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TriggerMode", True, "allowed: Off, On"),
        ("PixelFormat", "BayerGB8", "allowed: "),
        ("ExposureTime", "long", "allowed: 20.0 to 1000000.0"),
        ("ExposureTime", float("nan"), "nan"),
        ("Width", 321, "in steps of 4"),
        ("AcquisitionFrameRateEnable", 1, "allowed: true or false"),
        ("DeviceModelName", 5, "allowed: a text"),
        ("TriggerSoftware", True, "holds no value"),
        ("DeviceTemperature", 20.0, "DeviceTemperature"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_what_is_allowed(camera: GenicamCamera, name: str, value: Feature, words: str) -> None:
    with pytest.raises(CameraError, match=f"{name} (cannot be|was set to) {value!r}") as caught:
        camera.start(FREE | {name: value})
    assert words in str(caught.value)
    assert camera.status().state is CameraState.ABSENT


def test_a_feature_that_reads_back_differently_is_refused(camera: GenicamCamera, monkeypatch: pytest.MonkeyPatch) -> None:
    camera.start(FREE)
    monkeypatch.setattr(Features, "write", lambda *_: None)
    camera.start(FREE | {"ExposureTime": 4003.0})  # within 1e-3
    assert camera.status().features["ExposureTime"] == 4000.0
    with pytest.raises(CameraError, match=r"ExposureTime was set to 4005.0 and reads 4000.0, allowed: 20.0 to 1000000.0"):
        camera.start(FREE | {"ExposureTime": 4005.0})


def test_exposure_and_gain_change_without_a_restart(camera: GenicamCamera, directory: Path) -> None:
    Scene(directory, MER131).show([np.full((1024, 1280), 100, np.uint8)])
    camera.start(FREE)
    for _ in range(5):
        before = frame_of(camera)
    assert before.pixels[0, 0] == 100
    time.sleep(0.2)  # long enough for frames of the old exposure to fill the buffers
    camera.start(FREE | {"ExposureTime": 8000.0})
    frame_of(camera)  # may have been on its way
    frame = frame_of(camera)
    assert frame.pixels[0, 0] == 200
    assert frame.frame_id > before.frame_id
    camera.start(FREE | {"ExposureTime": 8000.0, "Width": 640})
    assert frame_of(camera).frame_id < before.frame_id


def test_the_order_of_the_features_is_a_difference(camera: GenicamCamera) -> None:
    camera.start(FREE)
    for _ in range(5):
        before = frame_of(camera)
    camera.start(dict(reversed(FREE.items())))
    assert frame_of(camera).frame_id < before.frame_id


def test_frames_carry_the_format_of_the_device(directory: Path) -> None:
    red = np.zeros((2048, 2048, 3), np.uint8)
    red[:, :, 0] = 100
    Scene(directory, MQ042).show([red])
    camera = GenicamCamera([PRODUCER], MQ042)
    camera.start({"PixelFormat": "BayerGB8", "ExposureTime": 2000.0})
    frame = frame_of(camera)
    assert (frame.pixel_format, frame.pixels.shape, frame.pixels.dtype) == ("BayerGB8", (2048, 2048), np.uint8)
    assert frame.pixels[:2, :2].tolist() == [[0, 0], [100, 0]]
    camera.close()


# -- triggers, times, loss ------------------------------------------------------------------------------------------------------------


def test_a_triggered_frame_shows_what_stood_there_at_its_trigger(camera: GenicamCamera, directory: Path) -> None:
    scene = Scene(directory, MER131)
    camera.start(SOFTWARE)
    for level in (50, 100, 150):
        scene.show([np.full((1024, 1280), 255, np.uint8)])
        camera.trigger()  # nobody fetches this one
        scene.show([np.full((1024, 1280), level, np.uint8)])
        camera.trigger()
        assert frame_of(camera).pixels[0, 0] == level


def test_a_late_frame_that_has_arrived_costs_the_next_trigger_no_restart(camera: GenicamCamera) -> None:
    camera.start(SOFTWARE)
    camera.trigger()
    assert frame_of(camera).frame_id == 0
    camera.trigger()
    time.sleep(0.2)  # long enough to arrive
    camera.trigger()
    frame = frame_of(camera)
    assert (frame.frame_id, frame.missed) == (2, 0)


def test_a_triggered_frame_is_dated_after_its_exposure(camera: GenicamCamera) -> None:
    camera.start(SOFTWARE | {"ExposureTime": 20_000.0})
    begun = time.monotonic()
    while time.monotonic() < begun + 0.8:  # long enough for the device's clock to be believed
        triggered_ns = time.monotonic_ns()
        camera.trigger()
        assert triggered_ns + 20 * MS <= frame_of(camera).captured_ns <= time.monotonic_ns()


def test_a_frame_that_waited_in_the_buffers_is_not_dated_to_its_fetch(camera: GenicamCamera) -> None:
    camera.start(SOFTWARE)
    begun = time.monotonic()
    while time.monotonic() < begun + 0.8:
        camera.trigger()
        frame_of(camera)
    camera.trigger()
    time.sleep(0.3)  # the wait itself
    assert time.monotonic_ns() - frame_of(camera).captured_ns > 200 * MS


def test_an_unplugged_camera_is_lost_and_comes_back(camera: GenicamCamera, directory: Path) -> None:
    camera.start(SOFTWARE)
    camera.trigger()
    frame_of(camera)
    tell(directory, MER131, "lost")
    with pytest.raises(CameraError, match="lost"):
        camera.fetch(5.0)
    status = camera.status()
    assert status.state is CameraState.LOST
    assert MER131 in status.detail
    with pytest.raises(CameraError, match="lost"):
        camera.fetch(0.0)
    with pytest.raises(CameraError, match="cannot be opened"):
        camera.start(SOFTWARE)
    assert camera.status().state is CameraState.LOST
    tell(directory, MER131, "back")
    camera.start(SOFTWARE)
    camera.trigger()
    assert frame_of(camera).missed == 0
    assert (camera.status().reconnects, camera.status().delivered) == (1, 2)


def test_a_frame_without_memory_for_it_counts_as_missed(camera: GenicamCamera) -> None:
    camera.start(FREE)
    first = frame_of(camera)
    refused = 0

    def allocate(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Pixels | None:
        nonlocal refused
        refused += 1
        return None if refused <= 3 else np.empty(shape, dtype)

    camera.allocate = allocate
    frame = frame_of(camera)
    assert frame.missed >= 3
    assert frame.frame_id == first.frame_id + 1 + frame.missed


# -- a device that sends what no simulator does ---------------------------------------------------------------------------------------


class Sent:
    """A GenTL buffer; what it is not given it does not tell."""

    def __init__(self, pixel_format: int, rows: npt.NDArray[Any], width: int, frame_id: int = 1, **told: int) -> None:
        self.raw_buffer = rows.tobytes()
        self.pixel_format, self.height, self.width, self.frame_id = pixel_format, rows.shape[0], width, frame_id
        self.size_filled = len(self.raw_buffer)
        self.queued = 0
        self.parent = SimpleNamespace(queue_buffer=self._queue)
        self.__dict__.update(told)

    def _queue(self, buffer: "Sent") -> None:
        assert buffer is self
        self.queued += 1

    def __getattr__(self, name: str) -> int:
        raise gentl.NotAvailableException(name)


class Device:
    """Stands where `GenicamDevice` and its `Features` do and sends what it was given; None is a frame that arrived incomplete."""

    def __init__(self, sent: list[Sent | None], values: dict[str, Any], on_incomplete: Callable[[], None]) -> None:
        self.identity = {"vendor": "V", "model": "M", "serial_number": "1"}
        self.features = self
        self.begun = 0
        self._sent = [*sent]
        self._values = values
        self._on_incomplete = on_incomplete

    def begin(self) -> None:
        self.begun += 1

    def end(self) -> None: ...
    def close(self) -> None: ...
    def write(self, _: dict[str, Feature]) -> None: ...
    def probe(self) -> None: ...
    def chunks(self) -> None: ...

    def read_back(self, features: dict[str, Feature]) -> dict[str, Feature]:
        return features

    def read(self, name: str) -> Any:
        return self._values.get(name)

    read_anew = read

    def try_fetch(self, _: float) -> Sent | None:
        if not self._sent:
            return None
        buffer = self._sent.pop(0)
        if buffer is None:
            self._on_incomplete()
        return buffer

    def execute(self, _: str) -> None:
        self._sent.append(Sent(MONO8, np.full((2, 4), 100, np.uint8), 4, frame_id=10))


Connect = Callable[..., GenicamCamera]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Connect:
    def camera_of(*sent: Sent | None, **values: Any) -> GenicamCamera:
        monkeypatch.setattr(drivers.genicam, "GenicamDevice", lambda *arguments: Device([*sent], values, arguments[2]))
        camera = GenicamCamera([])
        camera.start({"TriggerMode": "On", "TriggerSource": "Software"})
        return camera

    return camera_of


MONO8, MONO10, MONO12P, RGB8, BAYER_RG12, MONO14 = 0x01080001, 0x01100003, 0x010C0047, 0x02180014, 0x01100011, 0x01100025


def test_deep_pixels_come_right_aligned_in_16_bits(device: Connect) -> None:
    values = np.array([[0, 1, 1023], [512, 3, 4]], "<u2")
    frame = frame_of(device(Sent(MONO10, values, 3)))
    assert (frame.pixel_format, frame.pixels.dtype, frame.pixels.tolist()) == ("Mono10", np.uint16, values.tolist())
    frame = frame_of(device(Sent(BAYER_RG12, values, 3)))
    assert (frame.pixel_format, frame.pixels.tolist()) == ("BayerRG12", values.tolist())


def test_padding_and_a_place_in_the_buffer_are_left_out(device: Connect) -> None:
    rows = np.arange(24, dtype=np.uint8).reshape(2, 12)
    buffer = Sent(MONO8, rows, 4, padding_x=2, image_offset=3)
    buffer.size_filled = 3 + 6 + 4  # the last row without its padding
    assert frame_of(device(buffer)).pixels.tolist() == [[3, 4, 5, 6], [9, 10, 11, 12]]


def test_colours_keep_their_order_and_lose_alpha(device: Connect) -> None:
    colours = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    frame = frame_of(device(Sent(RGB8, np.ascontiguousarray(colours[:, :, :3]), 3)))
    assert (frame.pixel_format, frame.pixels.tolist()) == ("RGB8", colours[:, :, :3].tolist())
    frame = frame_of(device(Sent(0x02200016, colours, 3)))
    assert (frame.pixel_format, frame.pixels.tolist()) == ("RGB8", colours[:, :, :3].tolist())


@pytest.mark.parametrize(("value", "name"), [(MONO14, "Mono14"), (0x81080001, "0x81080001")])
def test_a_format_that_is_not_supported_is_named(device: Connect, value: int, name: str) -> None:
    buffer = Sent(value, np.zeros((2, 8), np.uint8), 4)
    camera = device(buffer)
    with pytest.raises(CameraError, match=name):
        camera.fetch(0.0)
    assert buffer.queued == 1
    assert camera.status().state is CameraState.LOST
    with pytest.raises(CameraError, match="PixelFormat Mono14 is not supported"):
        device(PixelFormat="Mono14")


def counted(frame_id: int, level: int = 0, **told: Any) -> Sent:
    """A frame of its own: no two are the same."""
    buffer = Sent(MONO8, np.full((2, 4), (frame_id + level) % 256, np.uint8), 4, frame_id)
    buffer.__dict__.update(told)
    return buffer


def seen(camera: GenicamCamera, count: int) -> list[tuple[int, int, str]]:
    frames = [frame_of(camera) for _ in range(count)]
    assert all(frame.pixels.shape == ((0, 0) if frame.flaw and frame.flaw != FROZEN else (2, 4)) for frame in frames)
    return [(frame.frame_id, frame.missed, frame.flaw) for frame in frames]


def test_incomplete_frames_are_told_in_their_place(device: Connect) -> None:
    short = counted(2)
    short.size_filled = 7
    sent = (counted(1), short, None, counted(4))
    camera = device(*sent)
    assert seen(camera, 4) == [(1, 0, ""), (2, 0, "only 7 of 8 bytes of the picture came"), (3, 0, INCOMPLETE), (4, 0, "")]
    assert camera.fetch(0.0) is None
    status = camera.status()
    assert (status.delivered, status.incomplete, status.missed) == (2, 2, 0)
    assert all(buffer is None or buffer.queued == 1 for buffer in sent)


def test_an_incomplete_frame_that_the_producer_does_not_count_is_told_once(device: Connect) -> None:
    camera = device(None, counted(1), None, None, counted(2), counted(3), None, counted(6))
    assert seen(camera, 8) == [
        (0, 0, INCOMPLETE),
        (1, 0, ""),
        (2, 0, INCOMPLETE),
        (3, 0, INCOMPLETE),
        (2, 0, ""),
        (3, 0, ""),
        (4, 0, INCOMPLETE),
        (6, 1, ""),
    ]
    assert (camera.status().incomplete, camera.status().missed) == (4, 1)


@pytest.mark.parametrize(
    ("told", "flaw"),
    [
        ({"height": 0}, "a picture of 4 x 0 px came in place of 4 x 2"),
        ({"width": 0}, "a picture of 0 x 2 px came in place of 4 x 2"),
        ({"height": 1}, "a picture of 4 x 1 px came in place of 4 x 2"),
        ({"width": 8}, "a picture of 8 x 2 px came in place of 4 x 2"),
        ({"has_received_larger_payload": lambda: True}, "more data came than the picture has room for"),
        ({"size_filled": 7}, "only 7 of 8 bytes"),
        ({"padding_x": 2}, "only 8 of 10 bytes"),
    ],
)
def test_a_frame_that_is_not_what_was_asked_for_is_no_picture(device: Connect, told: dict[str, Any], flaw: str) -> None:
    wrong = counted(2, **told)
    camera = device(counted(1), wrong, counted(3), Width=4, Height=2)
    first, second, third = seen(camera, 3)
    assert (first, third) == ((1, 0, ""), (3, 0, ""))
    assert second[:2] == (2, 0)
    assert flaw in second[2]
    assert (camera.status().delivered, camera.status().incomplete) == (2, 1)
    assert wrong.queued == 1


def test_a_device_without_features_for_its_size_sends_any_but_none(device: Connect) -> None:
    camera = device(counted(1, width=2), counted(2, height=0))
    assert frame_of(camera).pixels.shape == (2, 2)
    assert "4 x 0 px" in frame_of(camera).flaw


def test_the_same_bytes_again_are_frozen_and_kept(device: Connect) -> None:
    camera = device(counted(1), counted(2, level=-1), counted(3, level=-2), counted(4))
    assert seen(camera, 4) == [(1, 0, ""), (2, 0, FROZEN), (3, 0, FROZEN), (4, 0, "")]
    assert (camera.status().delivered, camera.status().frozen, camera.status().incomplete) == (2, 2, 0)


def test_one_grey_level_is_enough_to_be_another_picture(device: Connect) -> None:
    rows = np.zeros((2, 4), np.uint8)
    other = rows.copy()
    other[1, 2] = 1
    camera = device(Sent(MONO8, rows, 4, 1), Sent(MONO8, other, 4, 2))
    assert [frame_of(camera).flaw for _ in range(2)] == ["", ""]


def test_a_frame_behind_an_incomplete_one_is_not_taken_for_the_triggered_one(device: Connect) -> None:
    camera = device(None, counted(1), None, counted(2))
    camera.trigger()
    assert frame_of(camera).pixels[0, 0] == 100


def test_duplicates_and_late_frames_are_dropped(device: Connect) -> None:
    camera = device(counted(1), counted(1), counted(4), counted(3), counted(2, 9), counted(4), counted(5))
    assert seen(camera, 3) == [(1, 0, ""), (4, 2, ""), (5, 0, "")]
    assert camera.fetch(0.0) is None
    assert (camera.status().delivered, camera.status().missed) == (3, 2)


def test_a_frame_that_was_told_before_is_not_the_one_that_a_trigger_waits_for(device: Connect) -> None:
    camera = device(counted(9))
    frame_of(camera)
    stub: Any = camera._device
    camera.trigger()
    stub._sent[:] = [counted(9)]  # what the trigger fired comes later
    assert camera.fetch(0.0) is None
    camera.trigger()
    assert stub.begun == 2  # so that it cannot be taken for the frame of this trigger


def test_the_first_frame_of_a_stream_is_like_none_before(device: Connect) -> None:
    camera = device(counted(1), counted(1))
    frame_of(camera)
    camera.stop()
    camera.start({"TriggerMode": "On", "TriggerSource": "Software"})
    assert frame_of(camera).flaw == ""


def test_a_camera_that_counts_anew_is_told_once_and_goes_on(device: Connect) -> None:
    camera = device(counted(500), counted(0, 7), counted(1, 7), counted(3, 7))
    first, second, third, fourth = seen(camera, 4)
    assert first == (500, 0, "")
    assert second == (501, 0, "the camera counted 0 after 500: what was lost between cannot be told")
    assert (third, fourth) == ((1, 0, ""), (3, 1, ""))
    assert (camera.status().delivered, camera.status().incomplete, camera.status().missed) == (3, 1, 1)


def test_a_device_that_numbers_nothing_is_numbered_here(device: Connect) -> None:
    sent = [counted(i) for i in range(3)]
    for buffer in sent:
        del buffer.frame_id
    assert seen(device(*sent), 3) == [(0, 0, ""), (1, 0, ""), (2, 0, "")]


def test_a_format_that_is_told_as_0_is_the_one_that_was_asked_for(device: Connect) -> None:
    camera = device(Sent(0, np.zeros((2, 4), np.uint8), 4), PixelFormat="Mono8", Width=4, Height=2)
    assert frame_of(camera).pixel_format == "Mono8"


def test_a_capture_is_never_early_while_the_host_s_clock_is_slewed(device: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    steady_ns = 0

    def monotonic_ns() -> int:
        return steady_ns + steady_ns // 20  # as chrony does it, with 5 %

    clocks = {time.CLOCK_MONOTONIC_RAW: lambda: steady_ns}
    monkeypatch.setattr(drivers.genicam.time, "monotonic_ns", monotonic_ns)
    monkeypatch.setattr(drivers.genicam.time, "clock_gettime_ns", lambda clock: clocks[clock]())
    sent = [Sent(MONO8, np.full((2, 4), i % 200, np.uint8), 4, i, timestamp_ns=i * 100 * MS + 1) for i in range(1, 101)]
    camera = device(*sent)
    for i in range(1, 101):
        steady_ns = i * 100 * MS
        captured_ns = monotonic_ns()
        steady_ns += 10 * MS
        assert captured_ns - MS < frame_of(camera).captured_ns <= monotonic_ns()


def test_ticks_are_converted_by_the_frequency_the_device_tells(device: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int | None] = []
    monkeypatch.setattr(drivers.genicam.DeviceClock, "captured_ns", lambda _, device_ns, received_ns: told.append(device_ns) or received_ns)
    rows = np.zeros((2, 4), np.uint8)
    in_ns, in_ticks, in_none = Sent(MONO8, rows, 4, 1, timestamp_ns=5), Sent(MONO8, rows, 4, 2, timestamp=250), Sent(MONO8, rows, 4, 3)
    in_ticks.parent.parent = SimpleNamespace(timestamp_frequency=125_000_000)
    camera = device(in_ns, in_ticks, in_none)
    for _ in range(3):
        frame_of(camera)
    assert told == [5, 2000, None]
