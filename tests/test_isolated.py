"""`drivers.isolated`: the supervision, and the shared memory. The promises every camera keeps are in the contract suite."""

import ctypes
import functools
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from drivers.camera import Camera, CameraError, CameraState, CameraStatus, Feature, Frame
from drivers.camera_process import SLOTS
from drivers.isolated import (
    LAST_WORD_LIMIT_NS,
    LONGEST_BACK_OFF_NS,
    OPENING_LIMIT_NS,
    SHORTEST_BACK_OFF_NS,
    STREAMING_LIMIT_NS,
    IsolatedCamera,
)
from drivers.shared_ring import SharedRing, memory_file

# What only some tests need is imported there: every process that makes one of the cameras below imports this module.

FREE: dict[str, Feature] = {"Width": 320, "Height": 240, "PixelFormat": "Mono8", "ExposureTime": 1000.0, "TriggerMode": "Off"}
PATIENCE_S = 20.0


class Ordinary:
    """Counts; every frame is filled with its number. Knows nothing of shared memory."""

    simulated = True

    def __init__(self) -> None:
        self._features: dict[str, Feature] = {}
        self._count = 0

    def start(self, features: Mapping[str, Feature]) -> None:
        self._features = dict(features)

    def status(self) -> CameraStatus:
        return CameraStatus(CameraState.STREAMING, features=self._features, incomplete=self._count // 10)

    def trigger(self) -> None:
        raise NotImplementedError

    def fetch(self, timeout_s: float) -> Frame | None:
        time.sleep(timeout_s)
        size = int(self._features.get("Width", 64))
        self._count += 1
        return Frame(np.full((size, size), self._count % 256, np.uint8), "Mono8", self._count, 0, time.monotonic_ns())

    def stop(self) -> None: ...
    def close(self) -> None: ...


class Marking(Ordinary):
    """Sends all the time; every frame is filled with the number of triggers before it."""

    def __init__(self) -> None:
        super().__init__()
        self._triggers = 0

    def trigger(self) -> None:
        self._triggers += 1

    def fetch(self, timeout_s: float) -> Frame | None:
        frame = super().fetch(timeout_s)
        if frame is not None:
            np.copyto(frame.pixels, self._triggers)
        return frame


class Slow(Ordinary):
    """Takes its time to start."""

    def start(self, features: Mapping[str, Feature]) -> None:
        time.sleep(0.2)
        super().start(features)


class Hanging(Ordinary):
    """Hangs at its fourth frame, once."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self._marker = marker

    def fetch(self, timeout_s: float) -> Frame | None:
        if self._count == 3 and not self._marker.exists():
            self._marker.touch()
            threading.Event().wait()
        return super().fetch(timeout_s)


class HangingAtClose(Ordinary):
    """Is lost at its fourth frame, and does not let go of the device."""

    def fetch(self, timeout_s: float) -> Frame | None:
        if self._count == 3:
            raise CameraError("camera 7 was unplugged")
        return super().fetch(timeout_s)

    def close(self) -> None:
        threading.Event().wait()


class HangingAtStart(Ordinary):
    """Never opens, and says that it tries."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self._marker = marker

    def start(self, features: Mapping[str, Feature]) -> None:  # noqa: ARG002
        self._marker.touch()
        threading.Event().wait()


class Mute(Ordinary):
    """Streams, and is lost before its first frame."""

    def fetch(self, timeout_s: float) -> Frame | None:  # noqa: ARG002
        raise CameraError("camera 7 sent nothing")


class Crashing(Ordinary):
    """Crashes at its start, as a vendor's library does."""

    def start(self, features: Mapping[str, Feature]) -> None:  # noqa: ARG002
        ctypes.string_at(0)


class Absent(Ordinary):
    """Is not there."""

    def start(self, features: Mapping[str, Feature]) -> None:  # noqa: ARG002
        raise CameraError("camera 7 is not there")


class Broken(Ordinary):
    """Has a bug."""

    def start(self, features: Mapping[str, Feature]) -> None:
        raise ZeroDivisionError(f"{len(features)}")


class Clock:
    """The monotonic clock, and what a test adds to it."""

    def __init__(self) -> None:
        self.added_ns = 0

    def __call__(self) -> int:
        return time.monotonic_ns() + self.added_ns


Isolate = Callable[..., IsolatedCamera]


@pytest.fixture
def isolate() -> Iterator[Isolate]:
    made: list[IsolatedCamera] = []

    def camera_of(camera: Callable[[], Camera], clock: Callable[[], int] = time.monotonic_ns) -> IsolatedCamera:
        made.append(IsolatedCamera(camera, simulated=True, clock=clock))
        return made[-1]

    yield camera_of
    for camera in made:
        camera.close()


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Camera]:
    from drivers.genicam import GenicamCamera
    from drivers.simulated.build import PRODUCER, build

    build()
    monkeypatch.setenv("STATION_SIMULATED_DIR", str(tmp_path))
    return functools.partial(GenicamCamera, [PRODUCER], "SIM-MQ042", simulated=True)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def streaming(camera: IsolatedCamera) -> CameraStatus:
    until(lambda: camera.status().state is CameraState.STREAMING)
    return camera.status()


def frame_of(camera: IsolatedCamera) -> Frame:
    frame = camera.fetch(PATIENCE_S)
    assert frame is not None, camera.status()
    return frame


def why_lost(camera: IsolatedCamera) -> str:
    """What a fetch raises; empty when it gives a frame."""
    try:
        frame_of(camera)
    except CameraError as error:
        return str(error)
    return ""


def child_pid() -> int:
    (child,) = multiprocessing.active_children()
    assert child.pid is not None
    return child.pid


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- supervision ----------------------------------------------------------------------------------------------------------------------


def test_a_killed_process_is_a_lost_camera_that_comes_back(isolate: Isolate, device: Callable[[], Camera]) -> None:
    camera = isolate(device)
    camera.start(FREE)
    streaming(camera)
    held = [frame_of(camera) for _ in range(5)]
    copies = [frame.pixels.copy() for frame in held]
    os.kill(child_pid(), signal.SIGKILL)
    until(lambda: why_lost(camera) != "")
    status = camera.status()
    assert status.state is CameraState.LOST
    assert "SIGKILL" in status.detail
    with pytest.raises(CameraError, match="SIGKILL"):
        camera.fetch(PATIENCE_S)
    before = status.delivered
    status = streaming(camera)
    assert dict(status.features) == FREE
    assert (status.reconnects, status.delivered) == (1, before)
    assert frame_of(camera).missed == 0
    assert camera.status().delivered == before + 1 >= 6
    assert all(np.array_equal(frame.pixels, copy) for frame, copy in zip(held, copies, strict=True))


def test_a_hanging_camera_is_killed_and_comes_back(isolate: Isolate, tmp_path: Path) -> None:
    clock = Clock()
    camera = isolate(functools.partial(Hanging, tmp_path / "hangs"), clock)
    camera.start({})
    streaming(camera)
    until((tmp_path / "hangs").exists)
    pid = child_pid()
    assert camera.status().state is CameraState.STREAMING
    clock.added_ns += STREAMING_LIMIT_NS
    status = camera.status()
    assert status.state is CameraState.LOST
    assert "silent for 2." in status.detail
    until(lambda: not alive(pid))
    assert streaming(camera).reconnects == 1
    for _ in range(5):
        frame_of(camera)


def test_a_camera_that_hangs_while_opening_is_given_longer(isolate: Isolate, tmp_path: Path) -> None:
    clock = Clock()
    camera = isolate(functools.partial(HangingAtStart, tmp_path / "hangs"), clock)
    camera.start({})
    until((tmp_path / "hangs").exists)
    pid = child_pid()
    camera.status()
    clock.added_ns += OPENING_LIMIT_NS // 2
    assert camera.status().state is CameraState.OPENING
    clock.added_ns += OPENING_LIMIT_NS // 2
    status = camera.status()
    assert status.state is CameraState.ABSENT
    assert "silent for 3" in status.detail
    until(lambda: not alive(pid))


def test_a_lost_camera_that_is_not_let_go_of_is_killed_and_its_cause_stays(isolate: Isolate) -> None:
    clock = Clock()
    camera = isolate(HangingAtClose, clock)
    camera.start({})
    streaming(camera)
    pid = child_pid()
    until(lambda: camera.status().state is CameraState.LOST)
    clock.added_ns += LAST_WORD_LIMIT_NS
    until(lambda: camera.status().state is CameraState.LOST and not alive(pid))
    assert camera.status().detail == "camera 7 was unplugged"


def test_a_camera_that_streams_and_sends_nothing_is_looked_for_less_and_less_often(isolate: Isolate) -> None:
    now_ns = 0
    camera = isolate(Mute, lambda: now_ns)
    camera.start({})
    for back_off_ns in (SHORTEST_BACK_OFF_NS, 2 * SHORTEST_BACK_OFF_NS, 4 * SHORTEST_BACK_OFF_NS):
        until(lambda: camera.status().state is CameraState.LOST and not multiprocessing.active_children())
        camera.status()  # sees the end of the process
        now_ns += back_off_ns - 1
        camera.status()
        assert not multiprocessing.active_children()
        now_ns += 1
        camera.status()
        assert multiprocessing.active_children()


def test_a_crashing_camera_is_only_absent(isolate: Isolate) -> None:
    camera = isolate(Crashing)
    camera.start({})
    until(lambda: camera.status().state is CameraState.ABSENT)
    assert "SIGSEGV" in camera.status().detail


def test_a_camera_with_a_bug_says_so(isolate: Isolate, capfd: pytest.CaptureFixture[str]) -> None:
    camera = isolate(Broken)
    camera.start({"Width": 64})
    until(lambda: camera.status().state is CameraState.ABSENT)
    assert "ZeroDivisionError in the camera process: 1" in camera.status().detail
    until(lambda: "Traceback" in capfd.readouterr().err)


def test_an_absent_camera_is_looked_for_less_and_less_often(isolate: Isolate) -> None:
    now_ns = 0
    camera = isolate(Absent, lambda: now_ns)
    camera.start({})
    for back_off_ns in (
        SHORTEST_BACK_OFF_NS,
        2 * SHORTEST_BACK_OFF_NS,
        4 * SHORTEST_BACK_OFF_NS,
        8 * SHORTEST_BACK_OFF_NS,
        LONGEST_BACK_OFF_NS,
    ):
        until(lambda: camera.status().detail == "camera 7 is not there" and not multiprocessing.active_children())
        camera.status()  # sees the end of the process
        now_ns += back_off_ns - 1
        assert camera.status().state is CameraState.ABSENT
        assert not multiprocessing.active_children()
        now_ns += 1
        camera.status()
        assert multiprocessing.active_children()


def test_nothing_but_fetch_waits_for_the_camera(isolate: Isolate, tmp_path: Path) -> None:
    camera = isolate(functools.partial(HangingAtStart, tmp_path / "hangs"))
    for call in (lambda: camera.start({}), camera.status, camera.stop, lambda: camera.start({"Width": 1}), lambda: camera.fetch(0.0)):
        begun = time.perf_counter()
        call()
        assert time.perf_counter() - begun < 0.5


def test_an_interrupt_from_the_keyboard_does_not_reach_the_camera(isolate: Isolate, device: Callable[[], Camera]) -> None:
    camera = isolate(device)
    camera.start(FREE)
    streaming(camera)
    frame_of(camera)
    os.kill(child_pid(), signal.SIGINT)
    for _ in range(50):
        frame_of(camera)
    assert camera.status().reconnects == 0


def test_an_unplugged_camera_is_lost_with_the_cause_and_comes_back(isolate: Isolate, device: Callable[[], Camera], tmp_path: Path) -> None:
    from drivers.simulated.scene import tell

    camera = isolate(device)
    camera.start(FREE)
    streaming(camera)
    frame_of(camera)
    tell(tmp_path, "SIM-MQ042", "lost")
    until(lambda: camera.status().state is CameraState.LOST)
    assert "SIM-MQ042" in camera.status().detail
    with pytest.raises(CameraError, match="SIM-MQ042"):
        camera.fetch(0.0)
    until(lambda: "cannot be opened" in camera.status().detail)
    assert camera.status().state is CameraState.LOST
    tell(tmp_path, "SIM-MQ042", "back")
    assert streaming(camera).reconnects == 1
    frame_of(camera)


@pytest.mark.parametrize("looked", [True, False])
def test_no_frame_from_before_a_trigger_is_left_on_the_way(isolate: Isolate, looked: bool) -> None:
    camera = isolate(Marking)
    camera.start({"TriggerMode": "On", "TriggerSource": "Software"})
    streaming(camera)
    for triggers in range(1, 3 * SLOTS):
        frame_of(camera)
        if triggers <= 3:
            time.sleep(0.1)  # long enough for frames to fill all slots
        if looked:
            camera.status()
        camera.trigger()
        assert frame_of(camera).pixels[0, 0] == triggers
    assert camera.status().missed == 0


def test_the_features_of_the_last_start_are_restored(isolate: Isolate) -> None:
    camera = isolate(Slow)
    camera.start({"Width": 64})
    camera.start({"Width": 32})
    assert dict(streaming(camera).features) == {"Width": 32}
    os.kill(child_pid(), signal.SIGKILL)
    until(lambda: camera.status().state is CameraState.LOST)
    streaming(camera)
    assert frame_of(camera).pixels.shape == (32, 32)


def test_a_stopped_camera_is_not_brought_back(isolate: Isolate) -> None:
    clock = Clock()
    camera = isolate(Ordinary, clock)
    camera.start({})
    streaming(camera)
    camera.stop()
    os.kill(child_pid(), signal.SIGKILL)
    until(lambda: not multiprocessing.active_children())
    clock.added_ns += 10 * LONGEST_BACK_OFF_NS
    assert camera.status().state is CameraState.ABSENT
    assert camera.status().detail == "stopped"
    assert not multiprocessing.active_children()
    camera.start({})
    streaming(camera)
    frame_of(camera)


def test_incomplete_frames_are_counted_across_processes(isolate: Isolate) -> None:
    camera = isolate(Ordinary)
    camera.start({})
    streaming(camera)

    def fetched_until(incomplete: int) -> bool:
        frame_of(camera)
        return camera.status().incomplete >= incomplete

    until(lambda: fetched_until(2))
    os.kill(child_pid(), signal.SIGKILL)
    until(lambda: camera.status().state is CameraState.LOST)
    before = camera.status().incomplete
    assert before >= 2
    streaming(camera)
    until(lambda: fetched_until(before + 1))


@pytest.mark.parametrize("value", [None, [1], {"On": 1}])
def test_a_request_that_is_none_is_refused_at_once(isolate: Isolate, value: Feature) -> None:
    with pytest.raises(CameraError, match="feature Gain"):
        isolate(Ordinary).start({"Gain": value})


def test_the_process_dies_with_its_parent(tmp_path: Path) -> None:
    program = f"""
        import multiprocessing, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from drivers.isolated import IsolatedCamera
        from test_isolated import HangingAtStart
        import functools, pathlib
        if __name__ == "__main__":
            camera = IsolatedCamera(functools.partial(HangingAtStart, pathlib.Path({str(tmp_path / "hangs")!r})), simulated=True)
            camera.start({{}})
            print(multiprocessing.active_children()[0].pid, flush=True)
            sys.stdin.read()
        """
    path = tmp_path / "parent.py"
    path.write_text(textwrap.dedent(program))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        until((tmp_path / "hangs").exists)
        assert alive(pid)
        parent.kill()
    until(lambda: not alive(pid))


# -- shared memory --------------------------------------------------------------------------------------------------------------------


def test_frames_that_are_held_keep_their_slots_and_what_found_none_is_missed(isolate: Isolate, device: Callable[[], Camera]) -> None:
    for camera in (isolate(device), isolate(Ordinary)):
        camera.start(FREE)
        streaming(camera)
        held = [frame_of(camera) for _ in range(SLOTS)]
        copies = [frame.pixels.copy() for frame in held]
        last_id = held[-1].frame_id
        assert camera.fetch(0.2) is None
        assert all(np.array_equal(frame.pixels, copy) for frame, copy in zip(held, copies, strict=True))
        releaser = threading.Thread(target=held.clear)
        releaser.start()
        releaser.join()
        frame = frame_of(camera)
        assert frame.missed > 0
        assert frame.frame_id == last_id + 1 + frame.missed
        assert camera.status().missed == frame.missed
        camera.close()


def test_larger_frames_move_to_larger_slots_and_leave_the_old_ones_alone(isolate: Isolate) -> None:
    camera = isolate(Ordinary)
    camera.start({"Width": 32})
    streaming(camera)
    held = frame_of(camera)
    level = int(held.pixels[0, 0])
    camera.start({"Width": 512})
    streaming(camera)
    for _ in range(2 * SLOTS):
        frame = frame_of(camera)
        assert frame.pixels.shape == (512, 512)
        assert np.all(frame.pixels == frame.frame_id % 256)
    assert np.all(held.pixels == level)


def test_nothing_is_left_over(isolate: Isolate, device: Callable[[], Camera]) -> None:
    first = isolate(Absent)
    first.start({})  # multiprocessing keeps a process and a pipe of its own from the first time on
    first.close()
    files, shared = [*Path("/proc/self/fd").iterdir()], [*Path("/dev/shm").iterdir()]
    camera = isolate(device)
    camera.start(FREE)
    streaming(camera)
    frame_of(camera)
    os.kill(child_pid(), signal.SIGKILL)
    until(lambda: camera.status().state is CameraState.LOST)
    streaming(camera)
    frame_of(camera)
    camera.close()
    gc.collect()
    assert not multiprocessing.active_children()
    assert [*Path("/proc/self/fd").iterdir()] == files
    assert [*Path("/dev/shm").iterdir()] == shared
    assert "memfd:camera" not in Path("/proc/self/maps").read_text()


@pytest.fixture
def both_ends() -> tuple[SharedRing, SharedRing]:
    file = memory_file(SharedRing.size(3, 5000))
    try:
        return SharedRing(file, 3, 5000), SharedRing(file, 3, 5000)
    finally:
        os.close(file)


def test_a_slot_is_given_back_when_no_part_of_its_picture_is_referenced(both_ends: tuple[SharedRing, SharedRing]) -> None:
    writer, reader = both_ends
    assert [writer.take() for _ in range(4)] == [0, 1, 2, None]
    picture = reader.lend(1, (50, 50), np.uint16)
    part = picture[10:20, ::2]
    del picture
    assert writer.take() is None
    del part
    assert writer.take() == 1


def test_what_one_end_writes_the_other_reads_and_cannot_change(both_ends: tuple[SharedRing, SharedRing]) -> None:
    writer, reader = both_ends
    for slot in range(3):
        writer.take()
        writer.picture(slot, (40, 40, 3), np.uint8)[...] = slot + 1
    for slot in range(3):
        picture = reader.lend(slot, (40, 40, 3), np.uint8)
        assert np.all(picture == slot + 1)
        with pytest.raises(ValueError, match="read-only"):
            picture[0] = 0


def test_a_ring_that_is_given_up_is_emptied_a_slot_at_a_time_but_for_what_is_looked_at(both_ends: tuple[SharedRing, SharedRing]) -> None:
    writer, reader = both_ends
    for slot in range(3):
        writer.take()
        writer.picture(slot, (5000,), np.uint8)[...] = slot + 1
    held = reader.lend(1, (5000,), np.uint8)
    for slot in (0, 2):
        reader.give_back(slot)
    emptied = reader.emptied()

    def levels() -> list[int]:
        return [int(writer.picture(slot, (5000,), np.uint8)[-1]) for slot in range(3)]

    seen = [levels() for _ in emptied]
    assert seen == [[0, 2, 3], [0, 2, 3], [0, 2, 0]]
    assert np.all(held == 2)


def test_the_memory_of_a_killed_camera_goes_back_but_for_a_picture_that_is_held(isolate: Isolate, device: Callable[[], Camera]) -> None:
    camera = isolate(device)
    camera.start(FREE)
    streaming(camera)
    held = frame_of(camera)
    before = held.pixels.copy()
    camera.stop()
    pid = child_pid()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))
    for _ in range(SLOTS + 2):  # the first sees its end, the last lets the mapping go to whoever still looks at a picture
        camera.status()
        assert np.array_equal(held.pixels, before)
    assert "memfd:camera" in Path("/proc/self/maps").read_text()
    del held
    gc.collect()

    def is_gone() -> bool:
        camera.status()  # a thread of the dead process may have held its end for a moment
        return "memfd:camera" not in Path("/proc/self/maps").read_text()

    until(is_gone)
