"""`GenicamCamera`: one GenICam device behind any vendor's GenTL producer, through Harvesters.

The genicam wheel holds the GIL in every native call, and vendors' producers crash and hang: a line runs this class inside
`isolated.IsolatedCamera`.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from drivers.camera import CameraError, CameraState, CameraStatus, Feature, Frame, Pixels
from drivers.device_clock import DeviceClock
from drivers.frame_numbers import FrameNumbers, Place
from drivers.genicam_chunks import Chunks
from drivers.genicam_device import NUM_BUFFERS, GenicamDevice
from drivers.genicam_features import DEVICE_ERRORS, LIVE_FEATURES, words
from drivers.gentl_buffer import FORMATS, Allocate, Layout, device_ns, frame_id, handed_over_as, layout, sample, why_not_whole

QUIET_NS = 500_000_000
"""So long without a frame, and the device is asked whether it is still there."""
PATIENCE_S = 0.1
"""The longest wait for a frame between two such looks."""
TEMPERATURE_NS = 5_000_000_000
"""How often the temperature is read."""
INCOMPLETE = "incomplete: data was lost on the way from the camera; check cable, network card or USB port, and that nothing else uses them"
FROZEN = "frozen: the same bytes as the frame before, in every row that is compared; switch the camera off and on"
NO_PICTURE: Pixels = np.empty((0, 0), np.uint8)
NO_PICTURE.flags.writeable = False


class GenicamCamera:
    """A `Camera` that opens its device at the first `start` and keeps it until `close`. Not supervised: `start` after a loss opens anew.

    Features are written in the order given, except OffsetX and OffsetY, which come last because their range depends on the size; all are
    read back before a frame is handed over. A feature that is not named keeps the device's value, but offsets go to 0 with a new size:
    they come back by name. When only features of
    `genicam_features.LIVE_FEATURES` differ they are written while streaming: a frame being exposed at that moment may have the old value.
    RGBa8 is handed over as RGB8, a packed format unpacked and under the name of the format that it unpacks to. A frame is frozen when it
    agrees with the frame before in some 64 whole rows. A feature goes by its SFNC name where `genicam_features.CANDIDATES` knows the
    vendor's. With ChunkModeActive, a frame that tells of another ExposureTime, Gain or BlackLevel than was asked for has a flaw.

    Attributes:
        allocate: gives the memory that a frame of (shape, dtype) is copied into, or None when there is none; the frame is then dropped and
            counts as missed.
    """

    def __init__(self, producers: Sequence[Path], serial_number: str = "", *, user_set: str = "", simulated: bool = False) -> None:
        """Describes the device and opens nothing.

        Args:
            producers: the GenTL producers (.cti) to look behind; the first one that sees the device opens it.
            serial_number: the device's serial number or user-defined name; empty for the only device there is. For a device that does
                not tell its serial number before it is opened, also a part of its id or display name, such as the MAC address.
            user_set: a set in the device's memory (SFNC UserSetSelector) that is loaded before features are written, such as `Default`.
            simulated: whether the producers are simulators.
        """
        self.simulated = simulated
        self.allocate: Allocate = np.empty
        self._user_set = user_set
        self._producers = tuple(producers)
        self._serial_number = serial_number
        self._device: GenicamDevice | None = None
        self._broken = self._closed = False
        self._state, self._detail = CameraState.ABSENT, "not started"
        self._identity: dict[str, str] = {}
        self._asked: dict[str, Feature] = {}
        self._features: dict[str, Feature] = {}
        self._delivered = self._missed = self._incomplete = self._frozen = self._reconnects = 0
        self._asked_layout = Layout("", 0, 0, 0, 0)
        self._device_clock, self._numbers = DeviceClock(), FrameNumbers()
        self._chunks: Chunks | None = None
        self._sample: Pixels | None = None
        self._swallowed = self._dropped = 0
        self._exposure_awaited = False
        self._heard_ns = self._warmth_due_ns = 0
        self._temperature_c: float | None = None

    def start(self, features: Mapping[str, Feature]) -> None:
        """See `Camera.start`."""
        if self._closed:
            raise CameraError(f"{self._name} is closed")
        if self._state is CameraState.STREAMING and [*features.items()] == [*self._asked.items()]:
            return
        was_lost = self._state is CameraState.LOST
        try:
            if self._state is not CameraState.STREAMING or not self._change_live(features):
                self._state = CameraState.OPENING
                self._restart(features)
        except (CameraError, *DEVICE_ERRORS) as error:
            self._give_back()
            cause = str(error) if isinstance(error, CameraError) else words(error)
            raise self._fail(cause, CameraState.LOST if was_lost else CameraState.ABSENT) from error
        self._reconnects += was_lost
        self._asked = dict(features)
        self._state, self._detail = CameraState.STREAMING, ""

    def suggest(self, width: int, height: int, colour: bool) -> dict[str, Feature]:
        """Features for pictures of (width, height) px in the middle of the sensor; opens the device for the question.

        The size is rounded up to the device's increments and cut to its sensor, the offsets are rounded down. The 8-bit PixelFormat is the
        first the device has: a Bayer pattern, RGB or BGR for colour, Mono8 for grey. What the device has no feature for is left out.

        Raises:
            CameraError: no device answers.
        """
        try:
            self._device = self._open()
            return self._device.features.suggest(width, height, colour)
        except DEVICE_ERRORS as error:
            raise CameraError(f"{self._name}: {words(error)}") from error
        finally:
            self._give_back()

    def status(self) -> CameraStatus:
        """See `Camera.status`."""
        return CameraStatus(
            self._state,
            self._detail,
            **self._identity,
            features=self._features,
            delivered=self._delivered,
            missed=self._missed,
            incomplete=self._incomplete,
            frozen=self._frozen,
            reconnects=self._reconnects,
            temperature_c=self._temperature_c,
        )

    def trigger(self) -> None:
        """See `Camera.trigger`. Costs a restart of the stream, some 60 ms, when the frame of the trigger before is still on its way."""
        device = self._streaming_device()
        if (self._asked.get("TriggerMode"), self._asked.get("TriggerSource")) != ("On", "Software"):
            raise CameraError(f'{self._name}: a software trigger needs the features TriggerMode "On" and TriggerSource "Software"')
        try:
            self._forget_frames(device)
            if self._exposure_awaited:
                device.end()
                self._begin(device)
            device.features.execute("TriggerSoftware")
        except DEVICE_ERRORS as error:
            raise self._lose(f"TriggerSoftware failed: {words(error)}") from error
        self._exposure_awaited = True
        self._heard_ns = time.monotonic_ns()

    def fetch(self, timeout_s: float) -> Frame | None:
        """See `Camera.fetch`."""
        device = self._streaming_device()
        deadline = time.monotonic() + timeout_s
        try:
            self._take_temperature(device)
            while True:
                buffer = device.try_fetch(min(PATIENCE_S, max(0.0, deadline - time.monotonic())))
                frame = self._take(buffer) if buffer is not None else self._swallow()
                if frame is not None:
                    return frame
                if time.monotonic_ns() - self._heard_ns > QUIET_NS:
                    device.probe()
                    self._heard_ns = time.monotonic_ns()
                if time.monotonic() >= deadline:
                    return None
        except DEVICE_ERRORS as error:
            raise self._lose(f"lost: {words(error)}") from error

    def stop(self) -> None:
        """See `Camera.stop`. The device stays open."""
        self._halt()
        self._asked, self._features = {}, {}
        self._state, self._detail = CameraState.ABSENT, "closed" if self._closed else "stopped"

    def close(self) -> None:
        """See `Camera.close`."""
        self._closed = True
        self.stop()
        self._give_back()

    @property
    def _name(self) -> str:
        return f"camera {self._serial_number or self._identity.get('serial_number', '')}".rstrip()

    def _streaming_device(self) -> GenicamDevice:
        if self._device is None or self._state is not CameraState.STREAMING:
            raise CameraError(f"{self._name} does not stream: {self._detail}")
        return self._device

    def _fail(self, cause: str, state: CameraState) -> CameraError:
        self._asked, self._features = {}, {}
        self._state, self._detail = state, f"{self._name}: {cause}"
        return CameraError(self._detail)

    def _lose(self, cause: str) -> CameraError:
        """Notes that the device is gone. Giving it back can take seconds and is left to the next start, stop or close."""
        self._broken = True
        return self._fail(cause, CameraState.LOST)

    def _halt(self) -> None:
        """Ends the acquisition; a device that refuses, or is broken, is given back."""
        ended = False
        with suppress(Exception):
            if self._device is not None and not self._broken:
                self._device.end()
                ended = True
        if not ended:
            self._give_back()

    def _give_back(self) -> None:
        if self._device is not None:
            self._device.close()
        self._device, self._broken = None, False

    def _open(self) -> GenicamDevice:
        return GenicamDevice(self._producers, self._serial_number, self._note_incomplete)

    def _restart(self, features: Mapping[str, Feature]) -> None:
        self._halt()
        device = self._device = self._device or self._open()
        self._identity = device.identity
        if self._user_set:
            device.features.load_user_set(self._user_set)
        device.features.write(features)
        self._features = device.features.read_back(features)
        pixel_format = device.features.read("PixelFormat") or ""
        if pixel_format and pixel_format not in FORMATS:
            raise CameraError(f"PixelFormat {pixel_format} is not supported; use one of {', '.join(FORMATS)}")
        width, height = (int(device.features.read(name) or 0) for name in ("Width", "Height"))
        self._asked_layout = Layout(pixel_format, width, height, 0, 0)
        self._warmth_due_ns = 0
        self._chunks = device.chunks()
        self._begin(device)

    def _change_live(self, features: Mapping[str, Feature]) -> bool:
        """Writes what differs from the running features if all of it can be written while streaming."""
        device = self._streaming_device()
        changed = {name: value for name, value in features.items() if value != self._asked.get(name)}
        if list(features) != list(self._asked) or not device.features.writable_live([*changed]):
            return False
        device.features.write(changed)
        self._features = device.features.read_back(features)
        self._forget_frames(device)
        self._device_clock = DeviceClock()
        return True

    def _begin(self, device: GenicamDevice) -> None:
        device.begin()
        self._device_clock, self._numbers = DeviceClock(), FrameNumbers()
        self._sample = None
        self._swallowed = self._dropped = 0
        self._exposure_awaited = False
        self._heard_ns = time.monotonic_ns()

    def _take_temperature(self, device: GenicamDevice) -> None:
        """Reads the temperature when it is time to, and no triggered frame has to wait for the answer."""
        if not self._exposure_awaited and time.monotonic_ns() >= self._warmth_due_ns:
            self._warmth_due_ns = time.monotonic_ns() + TEMPERATURE_NS
            try:
                told = device.features.read_anew("DeviceTemperature")
            except DEVICE_ERRORS:
                device.probe()  # a device that is there and does not tell its temperature is not asked again
                told, self._warmth_due_ns = None, sys.maxsize
            self._temperature_c = None if told is None else float(told)

    def _forget_frames(self, device: GenicamDevice) -> None:
        """Takes out what waits in the buffers; nothing more, however fast the next ones come."""
        for _ in range(NUM_BUFFERS):
            buffer = device.try_fetch(0.0)
            if buffer is not None:
                try:
                    self._placed(buffer, time.monotonic_ns())
                finally:
                    buffer.parent.queue_buffer(buffer)
            elif self._swallow() is None:
                break
        self._dropped = 0

    def _note_incomplete(self) -> None:
        """Harvesters has queued such a buffer again, and tells nothing of it but that."""
        self._swallowed += 1
        self._incomplete += 1

    def _swallow(self) -> Frame | None:
        """The frame of a buffer that arrived incomplete; None when there was none."""
        if not self._swallowed:
            return None
        self._swallowed -= 1
        self._exposure_awaited = False
        self._heard_ns = time.monotonic_ns()
        return self._flawed(self._numbers.without_number(), self._asked_layout.pixel_format, self._heard_ns, INCOMPLETE)

    def _placed(self, buffer: Any, received_ns: int) -> tuple[Place | None, int | None]:
        """Where the buffer's frame stands in the order, None when it was told before; and its time on the device's clock."""
        number, stamp_ns = frame_id(buffer), device_ns(buffer)
        place = self._numbers.without_number() if number is None else self._numbers.place(number, stamp_ns, received_ns)
        if place is not None:
            self._heard_ns = received_ns
            self._exposure_awaited = False
        return place, stamp_ns

    def _take(self, buffer: Any) -> Frame | None:
        """Copies one buffer out and queues it again; None when its frame was told before or there is no memory for it."""
        steady_ns, received_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW), time.monotonic_ns()
        try:
            place, stamp_ns = self._placed(buffer, received_ns)
            if place is None:
                return None
            found = layout(buffer, self._asked_layout)
            if found.pixel_format not in FORMATS:
                cause = f"sent a frame in {found.pixel_format}, which is not supported; set PixelFormat to one of {', '.join(FORMATS)}"
                raise self._lose(cause)
            # Of an age, because NTP slews the clock that everybody else goes by.
            captured_ns = received_ns - (steady_ns - self._device_clock.captured_ns(stamp_ns, steady_ns))
            if flaw := place.flaw or why_not_whole(buffer, found, self._asked_layout):
                self._incomplete += 1
                return self._flawed(place, found.pixel_format, captured_ns, flaw)
            if flaw := self._taken_otherwise(buffer):
                self._incomplete += 1
                return self._flawed(place, found.pixel_format, captured_ns, flaw)
            pixels = self.allocate(found.shape, FORMATS[found.pixel_format][1])
            if pixels is None:
                self._dropped += 1 + place.missed
                return None
            found.copy(buffer.raw_buffer, pixels)
        finally:
            buffer.parent.queue_buffer(buffer)
        pixels.flags.writeable = False
        return self._whole(pixels, self._name_of(found.pixel_format), place, captured_ns)

    def _taken_otherwise(self, buffer: Any) -> str:
        asked = {name: value for name, value in self._features.items() if name in LIVE_FEATURES}
        return self._chunks.taken_otherwise(buffer, asked) if self._chunks else ""

    def _whole(self, pixels: Pixels, pixel_format: str, place: Place, captured_ns: int) -> Frame:
        before, self._sample = self._sample, sample(pixels)
        frozen = before is not None and np.array_equal(before, self._sample)
        self._frozen += frozen
        self._delivered += not frozen
        return Frame(pixels, pixel_format, place.frame_id, self._missed_before(place), captured_ns, FROZEN if frozen else "")

    def _flawed(self, place: Place, pixel_format: str, captured_ns: int, flaw: str) -> Frame:
        return Frame(NO_PICTURE, self._name_of(pixel_format), place.frame_id, self._missed_before(place), captured_ns, flaw)

    def _missed_before(self, place: Place) -> int:
        missed, self._dropped = place.missed + self._dropped, 0
        self._missed += missed
        return missed

    def _name_of(self, pixel_format: str) -> str:
        """The name that pixels are handed over under; that of the features, where the device's stands for another."""
        asked = str(self._features.get("PixelFormat", pixel_format))
        return handed_over_as(asked if pixel_format == self._asked_layout.pixel_format else pixel_format)
