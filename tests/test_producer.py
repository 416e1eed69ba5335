"""The simulated producer's formats, profiles and faults as any GenTL consumer meets them: through Harvesters' public interface."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from genicam import gentl
from numpy.typing import NDArray

from drivers.simulated.build import build
from drivers.simulated.scene import Scene, tell

Pixels = NDArray[Any]
DEADLINE_S = 10.0
MER, MQ = "SIM-MER131", "SIM-MQ042"
BAYER = {"RG": "RGGB", "GR": "GRBG", "GB": "GBRG", "BG": "BGGR"}
DEPTHS = {"8": 8, "10": 10, "12": 12, "10p": 10, "12p": 12, "10Packed": 10, "12Packed": 12}
FORMATS = [f"{kind}{suffix}" for kind in ("Mono", *(f"Bayer{pattern}" for pattern in BAYER)) for suffix in DEPTHS] + ["RGB8", "BGR8"]
HOW_OFTEN = {"once": "", "three times": " 3"}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATION_SIMULATED_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def profiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the test's mark `parametrize("profiles", ..., indirect=True)` asks for; else the standard cameras."""
    chosen: str = getattr(request, "param", "")
    monkeypatch.setenv("STATION_SIMULATED_PROFILES", chosen)
    return chosen


@pytest.fixture
def harvester(directory: Path, profiles: str) -> Iterator[Any]:  # noqa: ARG001 - the producer reads their names
    from harvesters.core import Harvester

    harvester = Harvester()
    harvester.add_file(str(build()), check_existence=True, check_validity=True)
    harvester.update()
    yield harvester
    harvester.reset()


@pytest.fixture
def connect(harvester: Any) -> Iterator[Callable[..., Any]]:
    """Opens cameras by any of Harvesters' keys. Its handler for SIGINT is put back at once."""
    opened = []

    def connect(**key: str) -> Any:
        before = signal.getsignal(signal.SIGINT)
        try:
            camera = harvester.create(key)
        finally:
            signal.signal(signal.SIGINT, before)
        camera.num_buffers = 8
        opened.append(camera)
        return camera

    yield connect
    for camera in opened:
        with contextlib.suppress(gentl.GenericException, SystemError):
            camera.stop()
        with contextlib.suppress(gentl.GenericException, SystemError):
            camera.destroy()


@pytest.fixture
def camera(connect: Callable[..., Any]) -> Any:
    """The MER-131, running, a frame of 64 x 32 px at each software trigger."""
    camera = connect(serial_number=MER)
    prepare(camera)
    camera.start()
    return camera


def features(camera: Any) -> Any:
    return camera.remote_device.node_map


def prepare(camera: Any, **more: Any) -> None:
    settings = {"Width": 64, "Height": 32, "TriggerSource": "Software", "TriggerMode": "On", **more}
    for name, value in settings.items():
        features(camera).get_node(name).value = value


def trigger(camera: Any) -> None:
    features(camera).TriggerSoftware.execute()


def fetched(camera: Any, timeout_s: float = DEADLINE_S) -> Any:
    """The next complete frame, which keeps its buffer; None when none came."""
    return camera.try_fetch(timeout=timeout_s, is_raw=True)


def queue(camera: Any, buffer: Any) -> None:
    camera.data_streams[0].queue_buffer(buffer)


def snap(camera: Any) -> tuple[int, bytes]:
    """The number and the bytes of the frame of a trigger."""
    trigger(camera)
    buffer = fetched(camera)
    assert buffer is not None
    seen = buffer.frame_id, bytes(bytearray(buffer.raw_buffer[: buffer.size_filled]))  # a whole slice of bytes is no copy
    queue(camera, buffer)
    return seen


def ids(camera: Any, count: int) -> list[int]:
    return [snap(camera)[0] for _ in range(count)]


def order(directory: Path, camera: Any, words: str) -> None:
    """Gives an order to the MER-131 and waits until it is obeyed: orders come in turn, so a changed clock shows that the one before was."""
    tell(directory, MER, words)
    tell(directory, MER, "clock 1000")
    until = time.monotonic() + DEADLINE_S
    while camera.device.timestamp_frequency != 1000:
        assert time.monotonic() < until, "it was not obeyed in time"
    tell(directory, MER, "clock 0")
    while camera.device.timestamp_frequency == 1000:
        assert time.monotonic() < until, "it was not obeyed in time"


# ---- pixel formats


@pytest.mark.parametrize("profiles", ["formats"], indirect=True)
@pytest.mark.parametrize("serial", [MER, MQ])
def test_every_format_shows_the_scene_bit_exact(connect: Callable[..., Any], directory: Path, serial: str) -> None:
    camera = connect(serial_number=serial)
    shown = np.random.default_rng(1).integers(0, 256, (32, 64, 3), np.uint8)
    luma = (shown @ np.array([9798, 19235, 3735]) + 16384 >> 15).astype(np.uint8)
    prepare(camera)
    nodes = features(camera)
    for axis, maximum in (("X", nodes.WidthMax.value - 64), ("Y", nodes.HeightMax.value - 32)):
        nodes.get_node(f"Offset{axis}").value = maximum // 2
    Scene(directory, serial).show([shown])
    assert sorted(nodes.PixelFormat.symbolics) == sorted(FORMATS)
    for name in FORMATS:
        nodes.PixelFormat.value = name
        camera.start()
        seen = unpacked(camera, name)
        np.testing.assert_array_equal(seen, expected(name, shown, luma).ravel(), name)
        camera.stop()


def unpacked(camera: Any, name: str) -> Pixels:
    """The samples of one frame, by Harvesters; of a 10Packed frame, of which it takes 10 bits a pixel instead of 12, by the tests."""
    trigger(camera)
    if not name.endswith("10Packed"):
        with camera.fetch(timeout=DEADLINE_S) as buffer:
            image = buffer.payload.components[0]
            assert image.data_format == name
            return np.array(image.data)
    buffer = fetched(camera)
    assert buffer.size_filled == features(camera).PayloadSize.value == 64 * 32 * 3 // 2
    first, low, second = np.frombuffer(buffer.raw_buffer, np.uint8).astype(np.uint16).reshape(-1, 3).T
    seen = np.stack((first << 2 | low & 3, second << 2 | low >> 4 & 3), axis=1).ravel()
    queue(camera, buffer)
    return seen


def expected(name: str, shown: Pixels, luma: Pixels) -> Pixels:
    """The scene in a pixel format, by another path: each Bayer site takes its colour, deeper samples repeat the high bits below."""
    if name in ("RGB8", "BGR8"):
        return shown if name == "RGB8" else shown[:, :, ::-1]
    if name.startswith("Mono"):
        samples, depth = luma, DEPTHS[name.removeprefix("Mono")]
    else:
        samples, depth = np.empty(shown.shape[:2], np.uint8), DEPTHS[name[7:]]
        for site, colour in enumerate(BAYER[name[5:7]]):
            samples[site // 2 :: 2, site % 2 :: 2] = shown[site // 2 :: 2, site % 2 :: 2, "RGB".index(colour)]
    deep = samples.astype(np.uint16)
    return deep << (depth - 8) | deep >> (16 - depth)


@pytest.mark.parametrize("profiles", ["formats"], indirect=True)
def test_a_deep_format_has_the_noise_of_the_scene(connect: Callable[..., Any], directory: Path) -> None:
    camera = connect(serial_number=MER)
    prepare(camera, PixelFormat="Mono12p")
    Scene(directory, MER).show([np.full((1024, 1280), 100, np.uint8)], noise=5)
    camera.start()
    trigger(camera)
    with camera.fetch(timeout=DEADLINE_S) as buffer:
        levels = set((np.array(buffer.payload.components[0].data) >> 4).tolist())
    assert levels == set(range(95, 106))


# ---- the user set


def test_the_user_set_brings_back_the_values_after_power_on_and_keeps_names(connect: Callable[..., Any]) -> None:
    camera = connect(serial_number=MER)
    prepare(camera, ExposureTime=9000.0, Gain=3.0, DeviceUserID="left")
    nodes = features(camera)
    camera.start()
    with pytest.raises(gentl.AccessDeniedException):
        nodes.UserSetLoad.execute()
    camera.stop()
    assert nodes.UserSetSelector.symbolics == ("Default",)
    nodes.UserSetLoad.execute()
    assert (nodes.Width.value, nodes.Height.value, nodes.TriggerMode.value) == (1280, 1024, "Off")
    assert (nodes.ExposureTime.value, nodes.Gain.value, nodes.PayloadSize.value) == (4000.0, 0.0, 1280 * 1024)
    assert (nodes.DeviceUserID.value, nodes.DeviceSerialNumber.value) == ("left", MER)


# ---- profiles


def test_an_unknown_profile_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harvesters.core import Harvester

    assert directory
    monkeypatch.setenv("STATION_SIMULATED_PROFILES", "daheng basler")
    harvester = Harvester()
    harvester.add_file(str(build()), check_existence=True, check_validity=True)
    harvester.update()
    assert harvester.device_info_list == []
    harvester.reset()


@pytest.mark.parametrize("profiles", ["daheng"], indirect=True)
def test_daheng_tells_a_serial_number_only_in_the_interfaces_list(harvester: Any) -> None:
    device = next(info for info in harvester.device_info_list if info.model == "MER-131-75GC-P")
    assert device.property_dict["serial_number"] is None
    assert re.fullmatch(r"MER-131-75GC-P\((\w\w-){5}\w\w\)", device.id_)
    nodes = device.parent.node_map
    listed = {}
    for index in range(nodes.DeviceSelector.max + 1):
        nodes.DeviceSelector.value = index
        listed[nodes.DeviceID.value] = (nodes.DeviceSerialNumber.value, nodes.GevDeviceMACAddress.value)
    assert listed[device.id_] == (MER, device.id_[15:-1])
    assert len(listed) == len(harvester.device_info_list) == 2


@pytest.mark.parametrize("profiles", ["daheng"], indirect=True)
def test_daheng_has_its_own_names(connect: Callable[..., Any]) -> None:
    camera = connect(model="MER-131-75GC-P")
    nodes = features(camera)
    assert not nodes.has_node("AcquisitionFrameRateEnable")
    assert nodes.DeviceSerialNumber.value == MER
    values = {"AcquisitionFrameRateMode": "On", "AcquisitionFrameRate": 20.0, "TriggerFilterRaisingEdge": 100.0, "ExpectedGrayValue": 99}
    values |= {"TriggerSwitch": "Off", "AutoExposureTimeMin": 40.0, "AutoExposureTimeMax": 4e4, "AWBLampHouse": "D65"}
    for name, value in values.items():
        nodes.get_node(name).value = value
    assert {name: nodes.get_node(name).value for name in values} == values
    assert nodes.CurrentAcquisitionFrameRate.value == 20.0
    assert set(nodes.PixelFormat.symbolics) == {"Mono8", "Mono10", "BayerRG8", "BayerRG10"}


@pytest.mark.parametrize("profiles", ["daheng"], indirect=True)
def test_daheng_counts_in_16_bits_from_1_and_stamps_in_ticks(connect: Callable[..., Any], directory: Path) -> None:
    camera = connect(model="MER-131-75GC-P")
    prepare(camera)
    camera.start()
    assert ids(camera, 2) == [1, 2]
    tell(directory, MER, "id 65534")
    camera.stop()
    camera.start()
    before = camera.device.timestamp_frequency, time.monotonic_ns()
    trigger(camera)
    buffer = fetched(camera)
    first_ticks = buffer.timestamp
    with pytest.raises(gentl.GenericException):
        _ = buffer.timestamp_ns
    queue(camera, buffer)
    trigger(camera)
    buffer = fetched(camera)
    passed_s = (buffer.timestamp - first_ticks) / before[0]
    assert 0 < passed_s <= (time.monotonic_ns() - before[1]) * 1e-9


@pytest.mark.parametrize("profiles", ["daheng"], indirect=True)
def test_daheng_counts_in_the_streams_own_features(connect: Callable[..., Any], directory: Path) -> None:
    camera = connect(model="MER-131-75GC-P")
    prepare(camera)
    camera.start()
    wait_for_gap(camera, directory, 2)
    nodes = camera.data_streams[0].node_map
    assert nodes.StreamLostFrameCount.value == 2
    assert nodes.StreamDeliveredFrameCount.value > 0
    assert nodes.StreamIncompleteFrameCount.value == nodes.StreamResendPacketCount.value == nodes.NoBufferLostPacketCount.value == 0
    nodes.BlockTimeout.value = 2000
    assert nodes.BlockTimeout.value == 2000


def wait_for_gap(camera: Any, directory: Path, gap: int) -> None:
    """Drops so many frames and triggers until their numbers are missing; tests that no other is."""
    until, (before,) = time.monotonic() + DEADLINE_S, ids(camera, 1)
    tell(directory, MER, f"drop {gap}")
    while time.monotonic() < until:
        trigger(camera)
        if buffer := fetched(camera, 0.1):
            seen = buffer.frame_id
            queue(camera, buffer)
            if seen != before + 1:
                assert seen == before + 1 + gap
                return
            before = seen
    pytest.fail("no number was missing in time")


@pytest.mark.parametrize("profiles", ["ximea"], indirect=True)
def test_ximea_is_no_u3v_and_has_few_features(connect: Callable[..., Any], harvester: Any, directory: Path) -> None:
    # Harvesters cannot give the camera back else, see the test of that; in force from the opening on, where a told order may come late.
    (directory / f"{MQ}.faults").write_text("nullrevoke 0\n")
    (device,) = (info for info in harvester.device_info_list if info.serial_number == MQ)
    assert device.tl_type == "Custom"
    camera = connect(serial_number=MQ)
    nodes = features(camera)
    absent = ("AcquisitionFrameRateEnable", "DeviceTemperature", "DeviceUserID", "ExposureMode", "TriggerDelay", "UserSetLoad")
    assert not any(nodes.has_node(name) for name in absent)
    assert set(nodes.PixelFormat.symbolics) == {"Mono8", "Mono16", "BayerGB8", "BayerGB16"}
    prepare(camera, PixelFormat="Mono16")
    camera.start()
    levels = np.frombuffer(snap(camera)[1], "<u2")
    assert 255 < levels.max() <= 1023


@pytest.mark.parametrize("profiles", ["daheng,ximea"], indirect=True)
def test_both_vendors_can_be_there_at_once(harvester: Any) -> None:
    assert [info.property_dict["serial_number"] for info in harvester.device_info_list] == [None, MQ]


# ---- frames that go wrong


@pytest.mark.parametrize("count", HOW_OFTEN.values(), ids=HOW_OFTEN)
def test_dropped_frames_leave_a_gap(camera: Any, directory: Path, count: str) -> None:
    assert ids(camera, 2) == [0, 1]
    order(directory, camera, f"drop{count}")
    for _ in range(int(count or 1)):
        trigger(camera)
        assert fetched(camera, 0.05) is None
    assert ids(camera, 1) == [2 + int(count or 1)]


def test_a_fault_without_end_lasts_until_it_is_ended(camera: Any, directory: Path) -> None:
    order(directory, camera, "notime always")
    for _ in range(5):
        trigger(camera)
        buffer = fetched(camera)
        with pytest.raises(gentl.GenericException):
            _ = buffer.timestamp_ns
        with pytest.raises(gentl.GenericException):
            _ = buffer.timestamp
        queue(camera, buffer)
    order(directory, camera, "notime 0")
    trigger(camera)
    assert fetched(camera).timestamp_ns > 0


def test_an_incomplete_frame_is_told_and_has_half_of_its_lines(camera: Any, directory: Path) -> None:
    from harvesters.core import Callback, ImageAcquirer

    class Incomplete(Callback):  # type: ignore[misc]
        seen = 0

        def emit(self, context: object | None = None) -> None:
            del context
            self.seen += 1

    incomplete = Incomplete()
    camera.add_callback(ImageAcquirer.Events.INCOMPLETE_BUFFER, incomplete)
    order(directory, camera, "incomplete")
    trigger(camera)
    assert fetched(camera, 0.1) is None
    assert incomplete.seen == 1
    assert ids(camera, 1) == [1]


@pytest.mark.parametrize(
    ("fault", "height", "size", "larger"),
    [("short", 32, 1024, False), ("wrongsize", 16, 1024, False), ("noheight", 0, 2048, False), ("larger", 32, 2048, True)],
)
def test_a_frame_of_the_wrong_size_looks_complete(camera: Any, directory: Path, fault: str, height: int, size: int, larger: bool) -> None:
    order(directory, camera, fault)
    trigger(camera)
    buffer = fetched(camera)
    assert (buffer.height, buffer.width, buffer.size_filled) == (height, 64, size)
    assert (buffer.is_complete(), buffer.has_received_larger_payload()) == (True, larger)
    queue(camera, buffer)
    trigger(camera)
    assert (fetched(camera).height, buffer.width) == (32, 64)


def test_a_duplicate_is_the_same_frame_once_more(camera: Any, directory: Path) -> None:
    Scene(directory, MER).show([np.full((1024, 1280), 100, np.uint8)], noise=20)
    order(directory, camera, "duplicate")
    trigger(camera)
    first, second = fetched(camera), fetched(camera)
    assert (first.frame_id, first.timestamp_ns) == (second.frame_id, second.timestamp_ns)
    assert bytes(first.raw_buffer) == bytes(second.raw_buffer)
    assert ids(camera, 1) == [1]


def test_a_late_frame_comes_after_later_ones_with_the_time_of_its_exposure(camera: Any, directory: Path) -> None:
    order(directory, camera, "late 2000")
    triggered_ns = time.monotonic_ns()
    trigger(camera)
    until = time.monotonic() + DEADLINE_S
    while camera.data_streams[0].num_started == 0:  # a trigger before the first has begun would be ignored
        assert time.monotonic() < until
    assert ids(camera, 2) == [1, 2]
    late = fetched(camera)
    assert late.frame_id == 0
    assert time.monotonic_ns() - triggered_ns >= 2_000_000_000
    assert late.timestamp_ns - triggered_ns < 1_000_000_000


def test_numbers_can_be_wrong_wrap_and_begin_anew(camera: Any, directory: Path) -> None:
    order(directory, camera, "badid")
    assert ids(camera, 2) == [2**64 - 1, 1]
    order(directory, camera, "id 18446744073709551614")
    assert ids(camera, 3) == [2**64 - 2, 2**64 - 1, 0]
    order(directory, camera, "idbits 16")
    order(directory, camera, "id 65534")
    assert ids(camera, 4) == [65534, 65535, 1, 2]
    order(directory, camera, "id 0")
    assert ids(camera, 2) == [0, 1]


def test_a_frozen_sensor_sends_the_same_bytes(camera: Any, directory: Path) -> None:
    Scene(directory, MER).show([np.full((1024, 1280), 100, np.uint8)], noise=20)
    before = snap(camera)
    order(directory, camera, "frozen 2")
    frozen = [snap(camera) for _ in range(3)]
    assert [number for number, _ in frozen] == [1, 2, 3]
    assert [pixels == before[1] for _, pixels in frozen] == [True, True, False]


@pytest.mark.parametrize(("fault", "level"), [("dark", 100 // 16), ("bright", 255), ("light 90", 90), ("light 0", 0)])
def test_the_light_can_go_wrong(camera: Any, directory: Path, fault: str, level: int) -> None:
    Scene(directory, MER).show([np.full((1024, 1280), 100, np.uint8)])
    order(directory, camera, fault)
    assert set(snap(camera)[1]) == {level}
    order(directory, camera, "light 100")
    assert set(snap(camera)[1]) == {100}


def test_a_sensor_that_stands_still_hears_no_trigger_and_goes_on(camera: Any, directory: Path) -> None:
    order(directory, camera, "stall 300")
    trigger(camera)
    assert fetched(camera, 0.4) is None
    assert ids(camera, 2) == [0, 1]
    order(directory, camera, "deaf")
    trigger(camera)
    assert fetched(camera, 0.05) is None
    assert ids(camera, 1) == [2]


def test_a_device_clock_has_its_own_beginning_rate_and_drift(camera: Any, directory: Path) -> None:
    for drift, factor in (("", 1.0), ("drift 500000", 1.5)):
        if drift:
            tell(directory, MER, drift)
        tell(directory, MER, "clock 1000000")
        until = time.monotonic() + DEADLINE_S
        while camera.device.timestamp_frequency != 1_000_000:
            assert time.monotonic() < until
        stamps = []
        for _ in range(2):
            begun = time.monotonic()
            trigger(camera)
            buffer = fetched(camera)
            stamps.append((buffer.timestamp / factor / 1e6, begun))
            queue(camera, buffer)
            time.sleep(0.05)
        (first, begun), (second, ended) = stamps
        assert first < DEADLINE_S
        assert abs((second - first) - (ended - begun)) < 0.02


def test_what_is_no_order_changes_nothing(camera: Any, directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = ["dorp", "drop x", "drop -", "drop 1 2", "idbits 8", "late", "light 101", "hang", "hang lunch 3", "error read 1 2"]
    for words in wrong:
        order(directory, camera, words)
    assert ids(camera, 2) == [0, 1]
    assert capfd.readouterr().err.count(f"{MER}: not obeyed: ") == len(wrong)


# ---- calls that go wrong


@pytest.mark.parametrize(
    ("call", "attempt"),
    [
        ("read", lambda camera: features(camera).ExposureTime.value),
        ("write", lambda camera: setattr(features(camera).Gain, "value", 1.0)),
        ("fetch", lambda camera: fetched(camera, 0.1)),
        ("stop", lambda camera: camera.data_streams[0].stop_acquisition(gentl.ACQ_STOP_FLAGS_LIST.ACQ_STOP_FLAGS_DEFAULT)),
    ],
)
def test_a_call_can_fail(camera: Any, directory: Path, call: str, attempt: Callable[[Any], object]) -> None:
    order(directory, camera, f"error {call}")
    with pytest.raises(gentl.IoException):
        attempt(camera)
    attempt(camera)


def test_a_stop_can_take_its_time(camera: Any, directory: Path) -> None:
    order(directory, camera, "hang stop 300")
    begun = time.monotonic()
    camera.stop()
    assert time.monotonic() - begun >= 0.3


def test_a_file_of_faults_is_in_force_while_it_is_there(connect: Callable[..., Any], harvester: Any, directory: Path) -> None:
    file = directory / f"{MER}.faults"
    file.write_text("error open\nnoserial\n")
    harvester.update()
    assert [info.property_dict["serial_number"] for info in harvester.device_info_list] == [None, MQ]
    for _ in range(2):
        with pytest.raises(gentl.AccessDeniedException):
            connect(model="MER-131-75GC-P")
    file.write_text("hang update 300\nid 7\nnotime always\n")
    begun = time.monotonic()
    harvester.update()
    assert time.monotonic() - begun >= 0.3
    camera = connect(serial_number=MER)
    prepare(camera)
    camera.start()
    assert ids(camera, 1) == [7]
    file.unlink()


WHOLE_USE = """
import sys
from harvesters.core import Harvester
from drivers.simulated.scene import simulated_directory, tell

producer, serial, order = sys.argv[1:]
harvester = Harvester()
harvester.add_file(producer)
harvester.update()
camera = harvester.create({"serial_number": serial})
if order:
    tell(simulated_directory(), serial, order)
tell(simulated_directory(), serial, "clock 1000")
while camera.device.timestamp_frequency != 1000:
    pass
print("told", flush=True)
camera.start()
camera.fetch(timeout=10).queue()
camera.stop()
camera.destroy()
"""


@pytest.fixture
def whole_use(directory: Path) -> Iterator[Callable[[str, str], subprocess.Popen[bytes]]]:
    """Starts a process that opens a camera, gives it an order, fetches a frame and gives all back; waits until the order is obeyed."""
    started = []

    def start(serial: str, order: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WHOLE_USE, str(build()), serial, order]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[1])
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == b"told\n"
        return process

    assert directory
    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("profiles", "serial", "order"), [("", MER, "nullrevoke"), ("ximea", MQ, "")], indirect=["profiles"])
def test_a_buffer_given_back_as_null_stops_harvesters(
    whole_use: Callable[[str, str], subprocess.Popen[bytes]], profiles: str, serial: str, order: str
) -> None:
    assert profiles in ("", "ximea")
    errors = whole_use(serial, order).communicate(timeout=DEADLINE_S)[1]
    assert b"SystemError: <built-in function DataStream__revoke_buffer> returned NULL" in errors


@pytest.mark.parametrize("call", ["read", "write", "start", "queue", "fetch", "stop", "revoke", "close"])
def test_a_call_can_crash_the_process(whole_use: Callable[[str, str], subprocess.Popen[bytes]], call: str) -> None:
    assert whole_use(MER, f"crash {call}").wait(DEADLINE_S) == -signal.SIGSEGV


def test_a_call_can_hang_for_ever_and_only_the_process_ends_it(whole_use: Callable[[str, str], subprocess.Popen[bytes]]) -> None:
    process = whole_use(MER, "hang fetch")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)
    process.kill()
    assert process.wait(DEADLINE_S) == -signal.SIGKILL
