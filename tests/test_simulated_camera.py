"""The simulated cameras as any GenTL consumer meets them: through Harvesters' public interface."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from genicam import genapi, gentl
from numpy.typing import NDArray

from drivers.simulated import build as build_module
from drivers.simulated.build import BuildError, build
from drivers.simulated.scene import SENSORS, Scene, tell

Pixels = NDArray[np.uint8]
DEADLINE_S = 10.0
MER, MQ = "SIM-MER131", "SIM-MQ042"
MODELS = {MER: ("MER-131-75GC-P", "GEV", "BayerRG8"), MQ: ("MQ042CG-CM", "U3V", "BayerGB8")}
both_models = pytest.mark.parametrize("serial", [MER, MQ])


@pytest.fixture(scope="session")
def producer() -> Path:
    return build()


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATION_SIMULATED_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def harvester(producer: Path, directory: Path) -> Iterator[Any]:  # noqa: ARG001 - the producer reads the directory's name
    from harvesters.core import Harvester

    harvester = Harvester()
    harvester.add_file(str(producer), check_existence=True, check_validity=True)
    harvester.update()
    yield harvester
    harvester.reset()


@pytest.fixture
def connect(harvester: Any) -> Iterator[Callable[[str], Any]]:
    """Opens cameras. Harvesters puts its own handler for SIGINT in place of pytest's, which is put back at once."""
    opened = []

    def connect(serial: str) -> Any:
        before = signal.getsignal(signal.SIGINT)
        try:
            camera = harvester.create({"serial_number": serial})
        finally:
            signal.signal(signal.SIGINT, before)
        camera.num_buffers = 8
        opened.append(camera)
        return camera

    yield connect
    for camera in opened:
        with contextlib.suppress(gentl.GenericException):
            camera.stop()
        camera.destroy()


def features(camera: Any) -> Any:
    return camera.remote_device.node_map


def use_software_trigger(camera: Any) -> None:
    features(camera).TriggerSource.value = "Software"
    features(camera).TriggerMode.value = "On"


def look_at_the_middle(camera: Any, width: int, height: int) -> None:
    nodes = features(camera)
    nodes.Width.value, nodes.Height.value = width, height
    nodes.OffsetX.value, nodes.OffsetY.value = (nodes.WidthMax.value - width) // 2, (nodes.HeightMax.value - height) // 2


def fetch(camera: Any) -> tuple[int, Pixels]:
    """The next frame: its id and a copy of its pixels (h, w)."""
    with camera.fetch(timeout=DEADLINE_S) as buffer:
        image = buffer.payload.components[0]
        return buffer.frame_id, image.data.reshape(image.height, image.width).copy()


def snap(camera: Any) -> Pixels:
    features(camera).TriggerSoftware.execute()
    return fetch(camera)[1]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.001)


def picture(*shape: int, seed: int = 1) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def grey(value: int) -> Pixels:
    return np.full((16, 16), value, np.uint8)


# ---- what is on offer


def test_both_cameras_are_found_and_say_that_they_are_simulated(harvester: Any) -> None:
    found = {info.serial_number: info for info in harvester.device_info_list}
    assert {serial: (info.model, info.tl_type) for serial, info in found.items()} == {s: m[:2] for s, m in MODELS.items()}
    assert all("(simulated)" in info.vendor and "(simulated)" in info.display_name for info in found.values())


@both_models
def test_a_camera_tells_its_sensor_name_and_formats(connect: Callable[[str], Any], serial: str) -> None:
    nodes = features(connect(serial))
    assert (nodes.SensorWidth.value, nodes.SensorHeight.value) == (nodes.WidthMax.value, nodes.HeightMax.value) == SENSORS[serial]
    assert nodes.DeviceSerialNumber.value == serial
    assert nodes.DeviceModelName.value == MODELS[serial][0]
    assert "(simulated)" in nodes.DeviceVendorName.value
    assert 0 < nodes.DeviceTemperature.value < 100
    assert set(nodes.PixelFormat.symbolics) == {"Mono8", MODELS[serial][2]}


# ---- features


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Width", 640),
        ("Height", 480),
        ("PixelFormat", "BayerRG8"),
        ("AcquisitionMode", "Continuous"),
        ("AcquisitionFrameRateEnable", True),
        ("AcquisitionFrameRate", 12.5),
        ("ExposureMode", "Timed"),
        ("ExposureAuto", "Off"),
        ("ExposureTime", 1234.5),
        ("GainAuto", "Off"),
        ("Gain", 3.25),
        ("TriggerSelector", "FrameStart"),
        ("TriggerMode", "On"),
        ("TriggerSource", "Line0"),
        ("TriggerActivation", "FallingEdge"),
        ("TriggerDelay", 250.0),
        ("DeviceUserID", "left"),
    ],
)
def test_a_feature_reads_back_as_written(connect: Callable[[str], Any], name: str, value: Any) -> None:
    node = features(connect(MER)).get_node(name)
    node.value = value
    assert node.value == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Width", 1284),
        ("Width", 642),
        ("Height", 8),
        ("OffsetX", 2),  # the region is as wide as the sensor
        ("PixelFormat", "BayerGB8"),  # the other model's
        ("AcquisitionFrameRate", 75.5),
        ("ExposureTime", 10.0),
        ("ExposureTime", 1.1e6),
        ("Gain", 16.5),
        ("Gain", -0.5),
        ("TriggerDelay", 3.1e6),
        ("TriggerMode", "Maybe"),
    ],
)
def test_a_value_out_of_range_is_refused_and_changes_nothing(connect: Callable[[str], Any], name: str, value: Any) -> None:
    node = features(connect(MER)).get_node(name)
    before = node.value
    with pytest.raises((genapi.OutOfRangeException, genapi.InvalidArgumentException, genapi.AccessException)):
        node.value = value
    assert node.value == before


def test_an_offset_may_take_only_what_the_width_leaves(connect: Callable[[str], Any]) -> None:
    nodes = features(connect(MER))
    nodes.Width.value = 1000
    assert nodes.OffsetX.max == 280
    nodes.OffsetX.value = 200
    assert nodes.Width.max == 1080
    with pytest.raises(genapi.OutOfRangeException):
        nodes.OffsetX.value = 201


def test_the_payload_is_as_large_as_the_region(connect: Callable[[str], Any]) -> None:
    nodes = features(connect(MQ))
    nodes.Width.value, nodes.Height.value = 640, 480
    assert nodes.PayloadSize.value == 640 * 480


def test_the_layout_is_locked_while_acquiring_and_exposure_and_gain_are_not(connect: Callable[[str], Any]) -> None:
    camera = connect(MER)
    nodes = features(camera)
    camera.start()
    assert nodes.TLParamsLocked.value == 1
    for name, value in {"Width": 640, "Height": 480, "OffsetX": 0, "OffsetY": 0, "PixelFormat": "Mono8"}.items():
        with pytest.raises(genapi.AccessException):
            nodes.get_node(name).value = value
    nodes.ExposureTime.value, nodes.Gain.value = 500.0, 2.0
    assert (nodes.ExposureTime.value, nodes.Gain.value) == (500.0, 2.0)
    camera.stop()
    nodes.Width.value = 640
    assert nodes.Width.value == 640


def test_the_camera_itself_refuses_what_a_consumer_without_its_description_writes(connect: Callable[[str], Any]) -> None:
    camera = connect(MER)
    width_address, temperature_address = 0x1010, 0x10B8
    with pytest.raises(gentl.InvalidValueException):
        camera.remote_device.port.write(width_address, (100_000).to_bytes(8, "little"))
    with pytest.raises(gentl.AccessDeniedException):
        camera.remote_device.port.write(temperature_address, bytes(8))
    with pytest.raises(gentl.InvalidAddressException):
        camera.remote_device.port.write(0x9000, bytes(8))
    camera.start()
    with pytest.raises(gentl.AccessDeniedException):
        camera.remote_device.port.write(width_address, (640).to_bytes(8, "little"))


# ---- pictures


@both_models
def test_a_grey_picture_arrives_bit_exact_in_a_region_of_its_size(connect: Callable[[str], Any], directory: Path, serial: str) -> None:
    camera, shown = connect(serial), picture(200, 300)
    look_at_the_middle(camera, 300, 200)
    use_software_trigger(camera)
    Scene(directory, serial).show([shown])
    camera.start()
    np.testing.assert_array_equal(snap(camera), shown)


@both_models
def test_a_picture_stands_centred_on_black(connect: Callable[[str], Any], directory: Path, serial: str) -> None:
    camera, shown = connect(serial), picture(101, 205)
    use_software_trigger(camera)
    Scene(directory, serial).show([shown])
    camera.start()
    width, height = SENSORS[serial]
    left, top = (width - 205) // 2 & ~1, (height - 101) // 2 & ~1
    expected = np.zeros((height, width), np.uint8)
    expected[top : top + 101, left : left + 205] = shown
    np.testing.assert_array_equal(snap(camera), expected)


def test_a_region_shows_its_part_of_the_sensor(connect: Callable[[str], Any], directory: Path) -> None:
    camera, shown = connect(MER), picture(1024, 1280)
    nodes = features(camera)
    nodes.Width.value, nodes.Height.value, nodes.OffsetX.value, nodes.OffsetY.value = 64, 32, 102, 206
    use_software_trigger(camera)
    Scene(directory, MER).show([shown])
    camera.start()
    np.testing.assert_array_equal(snap(camera), shown[206:238, 102:166])


@both_models
def test_each_bayer_site_shows_its_own_colour_of_the_scene(connect: Callable[[str], Any], directory: Path, serial: str) -> None:
    camera, shown = connect(serial), picture(64, 48, 3)
    look_at_the_middle(camera, 48, 64)
    name = MODELS[serial][2]
    features(camera).PixelFormat.value = name
    use_software_trigger(camera)
    Scene(directory, serial).show([shown])
    camera.start()
    seen = snap(camera)
    for colour, (y, x) in zip({"BayerRG8": "RGGB", "BayerGB8": "GBRG"}[name], [(0, 0), (0, 1), (1, 0), (1, 1)], strict=True):
        np.testing.assert_array_equal(seen[y::2, x::2], shown[y::2, x::2, "RGB".index(colour)])


def test_a_grey_picture_is_the_same_at_every_bayer_site(connect: Callable[[str], Any], directory: Path) -> None:
    camera, shown = connect(MQ), picture(64, 48)
    look_at_the_middle(camera, 48, 64)
    features(camera).PixelFormat.value = "BayerGB8"
    use_software_trigger(camera)
    Scene(directory, MQ).show([shown])
    camera.start()
    np.testing.assert_array_equal(snap(camera), shown)


def test_mono8_shows_the_luma_of_a_colour_picture(connect: Callable[[str], Any], directory: Path) -> None:
    camera, shown = connect(MER), picture(64, 48, 3)
    look_at_the_middle(camera, 48, 64)
    use_software_trigger(camera)
    scene = Scene(directory, MER)
    scene.show([shown])
    camera.start()
    luma = shown @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert np.abs(snap(camera) - luma).max() <= 0.51
    scene.show([np.repeat(picture(64, 48)[:, :, None], 3, axis=2)])
    np.testing.assert_array_equal(snap(camera), picture(64, 48))


def test_a_picture_larger_than_the_sensor_is_scaled_to_fit(connect: Callable[[str], Any], directory: Path) -> None:
    camera = connect(MER)
    use_software_trigger(camera)
    Scene(directory, MER).show([np.full((1024, 2560), 90, np.uint8)])
    camera.start()
    seen = snap(camera)
    assert (seen[256:768] == 90).all()
    assert not seen[:256].any()
    assert not seen[768:].any()


def test_exposure_and_gain_brighten_up_to_white_while_running(connect: Callable[[str], Any], directory: Path) -> None:
    camera = connect(MER)
    nodes = features(camera)
    look_at_the_middle(camera, 16, 16)
    use_software_trigger(camera)
    shown = np.repeat(np.array([[40, 100], [128, 200]], np.uint8), 8, axis=0).repeat(8, axis=1)
    Scene(directory, MER).show([shown])
    camera.start()
    nominal_us = nodes.ExposureTime.value
    nodes.ExposureTime.value = nominal_us / 2
    np.testing.assert_array_equal(snap(camera), shown // 2)
    nodes.ExposureTime.value = nominal_us * 2
    np.testing.assert_array_equal(snap(camera), np.minimum(shown.astype(int) * 2, 255))
    nodes.ExposureTime.value, nodes.Gain.value = nominal_us, 20 * np.log10(1.25)
    np.testing.assert_array_equal(snap(camera), np.minimum(shown.astype(int) * 5 // 4, 255))


def test_noise_stays_within_its_amplitude_and_saturates(connect: Callable[[str], Any], directory: Path) -> None:
    camera, shown = connect(MER), picture(200, 400)
    shown[:50], shown[50:100] = 0, 255
    look_at_the_middle(camera, 400, 200)
    use_software_trigger(camera)
    Scene(directory, MER).show([shown], noise=7)
    camera.start()
    first, second = snap(camera), snap(camera)
    difference = first.astype(int) - shown
    assert (difference[100:].min(), difference[100:].max()) == (-7, 7)
    assert abs(difference[100:].mean()) < 0.5
    assert (difference[:50].min(), difference[50:100].max()) == (0, 0)
    assert (first != second).mean() > 0.5


def test_pictures_are_shown_in_turn_and_a_new_scene_starts_at_its_first(connect: Callable[[str], Any], directory: Path) -> None:
    camera = connect(MER)
    look_at_the_middle(camera, 16, 16)
    use_software_trigger(camera)
    scene = Scene(directory, MER)
    camera.start()
    scene.show([grey(10), grey(20), grey(30)])
    assert [snap(camera)[0, 0] for _ in range(4)] == [10, 20, 30, 10]
    scene.show([grey(40), grey(50)])
    assert [snap(camera)[0, 0] for _ in range(3)] == [40, 50, 40]


def test_a_frame_never_mixes_two_scenes(connect: Callable[[str], Any], directory: Path) -> None:
    camera = connect(MQ)
    scene = Scene(directory, MQ)
    scene.show([np.full((2048, 2048), 1, np.uint8)])
    camera.start()
    seen = []
    for value in range(2, 12):
        scene.show([np.full((2048, 2048), value, np.uint8)])
        shown_ns, exposure_ns = time.monotonic_ns(), 2_000_000
        started_ns = 0
        while started_ns < shown_ns:
            with camera.fetch(timeout=DEADLINE_S) as buffer:
                started_ns = buffer.timestamp_ns - exposure_ns
                pixels = buffer.payload.components[0].data
                seen.append((pixels.min(), pixels.max()))
        assert seen[-1] == (value, value)
    assert all(low == high for low, high in seen)


def test_without_a_scene_the_test_pattern_moves(connect: Callable[[str], Any], directory: Path) -> None:
    camera = connect(MER)
    look_at_the_middle(camera, 64, 64)
    use_software_trigger(camera)
    camera.start()
    first, second = snap(camera), snap(camera)
    np.testing.assert_array_equal(second[:, :-1], first[:, 1:])
    assert first.std() > 10
    scene = Scene(directory, MER)
    scene.show([grey(99)])
    assert (snap(camera)[24:40, 24:40] == 99).all()
    scene.close()
    np.testing.assert_array_equal(snap(camera)[:, :-1], second[:, 1:])


def test_a_file_that_is_no_scene_is_not_shown(connect: Callable[[str], Any], directory: Path) -> None:
    camera = connect(MER)
    look_at_the_middle(camera, 64, 64)
    use_software_trigger(camera)
    camera.start()
    pattern = snap(camera)
    scene = Scene(directory, MER)
    scene.show([grey(99)])
    path = directory / f"{MER}.scene"
    for content in (b"", path.read_bytes()[:-1], b"X" + path.read_bytes()[1:]):
        path.unlink()
        path.write_bytes(content)
        following = snap(camera)
        np.testing.assert_array_equal(following[:, :-1], pattern[:, 1:])
        pattern = following


@pytest.mark.parametrize(
    ("pictures", "noise"),
    [([], 0), ([grey(1)], -1), ([grey(1)], 128), ([np.zeros((4, 4, 4), np.uint8)], 0), ([np.zeros((4, 4))], 0), ([grey(1)[:0]], 0)],
)
def test_a_scene_refuses_what_no_camera_can_see(tmp_path: Path, pictures: list[Pixels], noise: int) -> None:
    with pytest.raises(ValueError, match=r"a scene is|a picture is"):
        Scene(tmp_path, MER).show(pictures, noise)


def test_a_scene_of_an_unknown_camera_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SIM-MER131, SIM-MQ042"):
        Scene(tmp_path, "SIM-OTHER")


# ---- triggers and the clock


def test_a_software_trigger_gives_one_frame_of_the_scene_shown_before_it(connect: Callable[[str], Any], directory: Path) -> None:
    camera = connect(MER)
    look_at_the_middle(camera, 16, 16)
    use_software_trigger(camera)
    scene = Scene(directory, MER)
    camera.start()
    for number in range(20):
        scene.show([grey(100 + number)])
        features(camera).TriggerSoftware.execute()
        scene.show([grey(0)])
        frame_id, pixels = fetch(camera)
        assert (frame_id, pixels[0, 0]) == (number, 100 + number)
    assert camera.try_fetch(timeout=0.05) is None


def test_a_pulse_on_line0_gives_one_frame_and_a_software_trigger_then_none(connect: Callable[[str], Any], directory: Path) -> None:
    camera = connect(MER)
    features(camera).TriggerSource.value = "Line0"
    features(camera).TriggerMode.value = "On"
    camera.start()
    features(camera).TriggerSoftware.execute()
    assert camera.try_fetch(timeout=0.05) is None
    for number in range(3):
        tell(directory, MER, "line0")
        assert fetch(camera)[0] == number
    assert camera.try_fetch(timeout=0.05) is None


def test_a_frame_is_stamped_with_the_end_of_its_exposure(connect: Callable[[str], Any]) -> None:
    camera = connect(MER)
    use_software_trigger(camera)
    features(camera).ExposureTime.value, features(camera).TriggerDelay.value = 3000.0, 20_000.0
    camera.start()
    before_ns = time.monotonic_ns()
    features(camera).TriggerSoftware.execute()
    with camera.fetch(timeout=DEADLINE_S) as buffer:
        assert before_ns + 23_000_000 <= buffer.timestamp_ns <= time.monotonic_ns()


def stamps_ns(camera: Any, frames: int) -> list[int]:
    stamps = []
    for expected in range(frames):
        with camera.fetch(timeout=DEADLINE_S) as buffer:
            assert buffer.frame_id == expected
            stamps.append(buffer.timestamp_ns)
    return stamps


@both_models
def test_frames_run_free_without_a_gap(connect: Callable[[str], Any], serial: str) -> None:
    camera = connect(serial)
    camera.start()
    assert (np.diff(stamps_ns(camera, 30)) >= 1e9 / {MER: 75, MQ: 90}[serial] - 1).all()


@pytest.mark.parametrize(("feature", "value"), [("AcquisitionFrameRate", 40.0), ("ExposureTime", 25_000.0)])
def test_rate_and_exposure_slow_the_camera_down(connect: Callable[[str], Any], feature: str, value: float) -> None:
    camera = connect(MQ)
    features(camera).AcquisitionFrameRateEnable.value = True
    features(camera).get_node(feature).value = value
    camera.start()
    assert (np.diff(stamps_ns(camera, 6)) >= 25_000_000 - 1).all()


def test_the_sensor_keeps_its_pace_however_fast_triggers_come(connect: Callable[[str], Any]) -> None:
    camera = connect(MER)
    use_software_trigger(camera)
    camera.start()
    stamps: list[int] = []
    while len(stamps) < 5:
        features(camera).TriggerSoftware.execute()
        if buffer := camera.try_fetch(timeout=0.0005):
            with buffer:
                assert buffer.frame_id == len(stamps)
                stamps.append(buffer.timestamp_ns)
    assert (np.diff(stamps) >= 1e9 / 75 - 1).all()


def test_frame_ids_begin_at_zero_with_each_start(connect: Callable[[str], Any]) -> None:
    camera = connect(MER)
    for _ in range(2):
        camera.start()
        assert [fetch(camera)[0] for _ in range(3)] == [0, 1, 2]
        camera.stop()


def test_frames_without_a_buffer_are_lost_and_their_ids_are_missing(connect: Callable[[str], Any]) -> None:
    camera = connect(MER)
    camera.num_buffers = 3
    camera.start()
    stream = camera.data_streams[0]
    held = [camera.fetch(timeout=DEADLINE_S) for _ in range(3)]
    wait_for(lambda: stream.num_underrun >= 2)
    assert [buffer.frame_id for buffer in held] == [0, 1, 2]
    for buffer in held:
        buffer.queue()
    assert fetch(camera)[0] >= 5


# ---- opening, closing, unplugging

HOLD = """
import sys
from harvesters.core import Harvester
harvester = Harvester()
harvester.add_file(sys.argv[1])
harvester.update()
camera = harvester.create({"serial_number": sys.argv[2]})
print("open", flush=True)
sys.stdin.read()
"""


def test_a_camera_is_open_in_one_process_only_and_free_when_that_is_killed(harvester: Any, producer: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(producer), MER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"open\n"
        status = {info.serial_number: info.access_status for info in harvester.device_info_list}
        assert (status[MER], status[MQ]) == (4, 1)  # busy, free to read and write
        with pytest.raises(gentl.AccessDeniedException):
            harvester.create({"serial_number": MER})
        other.kill()
    before = signal.getsignal(signal.SIGINT)
    harvester.create({"serial_number": MER}).destroy()
    signal.signal(signal.SIGINT, before)


def test_a_camera_is_opened_once_in_a_process(connect: Callable[[str], Any]) -> None:
    connect(MER)
    with pytest.raises(gentl.ResourceInUseException):
        connect(MER)


def answers(camera: Any) -> bool:
    try:
        return bool(features(camera).ExposureTime.value)
    except gentl.IoException:
        return False


def serials(harvester: Any) -> set[str]:
    harvester.update()
    return {info.serial_number for info in harvester.device_info_list}


def test_an_unplugged_camera_answers_nothing_and_comes_back_as_after_power_on(connect: Callable[[str], Any], directory: Path) -> None:
    camera = connect(MER)
    features(camera).ExposureTime.value = 500.0
    camera.start()
    fetch(camera)
    tell(directory, MER, "lost")
    wait_for(lambda: not answers(camera))
    while frame := camera.try_fetch(timeout=0.05):
        frame.queue()
    with pytest.raises(gentl.IoException):
        features(camera).Gain.value = 1.0
    assert camera.device.access_status == 3  # no access
    tell(directory, MER, "back")
    assert not answers(camera)
    with pytest.raises(gentl.IoException):
        camera.stop()
    camera.destroy()
    again = connect(MER)
    assert features(again).ExposureTime.value == 4000.0
    again.start()
    assert fetch(again)[0] == 0


def test_a_camera_that_is_not_plugged_in_is_not_found(harvester: Any, directory: Path) -> None:
    tell(directory, MER, "lost")
    assert serials(harvester) == {MQ}
    tell(directory, MER, "back")
    assert serials(harvester) == {MER, MQ}


def test_opening_and_closing_again_and_again_leaves_nothing_behind(connect: Callable[[str], Any], directory: Path) -> None:
    Scene(directory, MER).show([grey(1)])

    def turn() -> None:
        camera = connect(MER)
        camera.start()
        fetch(camera)
        camera.stop()
        camera.destroy()

    def belongings() -> tuple[int, int, int]:
        maps = Path("/proc/self/maps").read_text()
        return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir())), maps.count(".scene")

    turn()
    gc.collect()  # what tests before this one left behind must not go away in between
    before = belongings()
    for _ in range(50):
        turn()
    assert belongings() == before


# ---- building


def test_a_producer_that_is_up_to_date_is_not_built_again(producer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build() == producer


def test_a_missing_compiler_is_named_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(build_module, "PRODUCER", tmp_path / "fresh.cti")
    with pytest.raises(BuildError, match=r"'no-such-compiler'.*apt install gcc"):
        build()
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_fails_leaves_the_old_producer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "old.cti"
    old.write_bytes(b"old")
    os.utime(old, (0, 0))
    monkeypatch.setenv("CC", "false")
    monkeypatch.setattr(build_module, "PRODUCER", old)
    with pytest.raises(BuildError, match="failed"):
        build()
    assert old.read_bytes() == b"old"


def test_the_producer_works_from_a_path_with_spaces(producer: Path, tmp_path: Path) -> None:
    moved = tmp_path / "a folder" / "cameras.cti"
    moved.parent.mkdir()
    moved.write_bytes(producer.read_bytes())
    environment = os.environ | {"STATION_SIMULATED_DIR": str(tmp_path / "a folder")}
    done = subprocess.run([sys.executable, "-c", HOLD, str(moved), MQ], input=b"", env=environment, capture_output=True, check=True)
    assert done.stdout == b"open\n"
