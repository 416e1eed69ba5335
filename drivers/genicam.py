"""`GenicamCamera`: one GenICam device behind any vendor's GenTL producer, through Harvesters.

The genicam wheel holds the GIL in every native call, and vendors' producers crash and hang: a line runs this class inside
`isolated.IsolatedCamera`.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drivers.camera import CameraError, CameraState, CameraStatus, Feature, Frame, Pixels
from drivers.device_clock import DeviceClock
from drivers.genicam_device import DEVICE_ERRORS, NUM_BUFFERS, GenicamDevice, words

with warnings.catch_warnings():  # importing harvesters replaces the filters of the whole process
    from genicam import gentl
    from harvesters.util.pfnc import dict_by_ints

Allocate = Callable[[tuple[int, ...], npt.DTypeLike], Pixels | None]

QUIET_NS = 500_000_000
"""So long without a frame, and the device is asked whether it is still there."""
PATIENCE_S = 0.1
"""The longest wait for a frame between two such looks."""
LAST_16_BIT_ID = 65535
FORMATS: dict[str, tuple[int, type[np.uint8] | type[np.uint16]]] = {
    f"{colour}{bits}": (1, np.uint8 if bits == 8 else np.uint16)
    for colour in ("Mono", "BayerRG", "BayerGR", "BayerGB", "BayerBG")
    for bits in (8, 10, 12, 16)
} | {"RGB8": (3, np.uint8), "BGR8": (3, np.uint8), "RGBa8": (4, np.uint8)}
"""PFNC name: values per pixel, and how each is stored. Packed formats are not here: unpacking them cannot keep up with the cameras."""


class GenicamCamera:
    """A `Camera` that opens its device at the first `start` and keeps it until `close`. Not supervised: `start` after a loss opens anew.

    Features are written in the order given, except OffsetX and OffsetY, which come last because their range depends on the size; all are
    read back before a frame is handed over. A feature that is not named keeps the value the device has. When only features of
    `genicam_device.LIVE_FEATURES` differ they are written while streaming: a frame being exposed at that moment may have the old value.
    RGBa8 is handed over as RGB8.

    Attributes:
        allocate: gives the memory that a frame of (shape, dtype) is copied into, or None when there is none; the frame is then dropped and
            counts as missed.
    """

    def __init__(self, producers: Sequence[Path], serial_number: str = "", *, simulated: bool = False) -> None:
        """Describes the device and opens nothing.

        Args:
            producers: the GenTL producers (.cti) to look behind; the first one that sees the device opens it.
            serial_number: the device's serial number or user-defined name; empty for the only device there is. For a device that does
                not tell its serial number before it is opened, also a part of its id, such as the MAC address.
            simulated: whether the producers are simulators.
        """
        self.simulated = simulated
        self.allocate: Allocate = np.empty
        self._producers = tuple(producers)
        self._serial_number = serial_number
        self._device: GenicamDevice | None = None
        self._broken = self._closed = False
        self._state, self._detail = CameraState.ABSENT, "not started"
        self._identity: dict[str, str] = {}
        self._asked: dict[str, Feature] = {}
        self._features: dict[str, Feature] = {}
        self._delivered = self._missed = self._incomplete = self._reconnects = 0
        self._device_clock = DeviceClock()
        self._last_id: int | None = None
        self._exposure_awaited = False
        self._heard_ns = 0

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
            self._device = GenicamDevice(self._producers, self._serial_number, self._count_incomplete)
            return self._device.suggest(width, height, colour)
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
            reconnects=self._reconnects,
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
            device.execute("TriggerSoftware")
        except DEVICE_ERRORS as error:
            raise self._lose(f"TriggerSoftware failed: {words(error)}") from error
        self._exposure_awaited = True
        self._heard_ns = time.monotonic_ns()

    def fetch(self, timeout_s: float) -> Frame | None:
        """See `Camera.fetch`."""
        device = self._streaming_device()
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                buffer = device.try_fetch(min(PATIENCE_S, max(0.0, deadline - time.monotonic())))
                if buffer is not None and (frame := self._take(buffer)):
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

    def _restart(self, features: Mapping[str, Feature]) -> None:
        self._halt()
        device = self._device = self._device or GenicamDevice(self._producers, self._serial_number, self._count_incomplete)
        self._identity = device.identity
        device.write(features)
        self._features = device.read_back(features)
        pixel_format = device.read("PixelFormat")
        if pixel_format and pixel_format not in FORMATS:
            raise CameraError(f"PixelFormat {pixel_format} is not supported; use one of {', '.join(FORMATS)}")
        self._begin(device)

    def _change_live(self, features: Mapping[str, Feature]) -> bool:
        """Writes what differs from the running features if all of it can be written while streaming."""
        device = self._streaming_device()
        changed = {name: value for name, value in features.items() if value != self._asked.get(name)}
        if list(features) != list(self._asked) or not device.writable_live([*changed]):
            return False
        device.write(changed)
        self._features = device.read_back(features)
        self._forget_frames(device)
        self._device_clock = DeviceClock()
        return True

    def _begin(self, device: GenicamDevice) -> None:
        device.begin()
        self._device_clock = DeviceClock()
        self._last_id = None
        self._exposure_awaited = False
        self._heard_ns = time.monotonic_ns()

    def _forget_frames(self, device: GenicamDevice) -> None:
        """Takes out what waits in the buffers; nothing more, however fast the next ones come."""
        for _ in range(NUM_BUFFERS):
            incomplete = self._incomplete
            buffer = device.try_fetch(0.0)
            if buffer is not None:
                self._last_id = buffer.frame_id
                self._exposure_awaited = False
                buffer.parent.queue_buffer(buffer)
            elif self._incomplete == incomplete:
                return

    def _count_incomplete(self) -> None:
        self._incomplete += 1
        self._exposure_awaited = False
        self._heard_ns = time.monotonic_ns()

    def _take(self, buffer: Any) -> Frame | None:
        """Copies one buffer out and queues it again; None when it is short of data or there is no memory for it."""
        self._heard_ns = received_ns = time.monotonic_ns()
        self._exposure_awaited = False
        try:
            frame_id, device_ns = int(buffer.frame_id), _device_ns(buffer)
            pixel_format = dict_by_ints.get(buffer.pixel_format, f"0x{buffer.pixel_format:08X}")
            pixels = self._copy(buffer, pixel_format)
        finally:
            buffer.parent.queue_buffer(buffer)
        if pixels is None:
            return None
        missed = 0 if self._last_id is None else missed_between(self._last_id, frame_id)
        if missed is None:
            raise self._lose(f"counted frame {frame_id} after frame {self._last_id}: what was lost between cannot be told")
        self._last_id = frame_id
        self._missed += missed
        self._delivered += 1
        captured_ns = self._device_clock.captured_ns(device_ns, received_ns)
        return Frame(pixels, pixel_format.replace("RGBa", "RGB"), frame_id, missed, captured_ns)

    def _copy(self, buffer: Any, pixel_format: str) -> Pixels | None:
        if pixel_format not in FORMATS:
            raise self._lose(f"sent a frame in {pixel_format}, which is not supported; set PixelFormat to one of {', '.join(FORMATS)}")
        values, dtype = FORMATS[pixel_format]
        height, width, item = buffer.height, buffer.width, np.dtype(dtype).itemsize
        offset, padding = _told(buffer, "image_offset"), _told(buffer, "padding_x")
        row = width * values * item + padding
        if min(buffer.size_filled, len(buffer.raw_buffer)) < offset + row * height - padding:
            self._count_incomplete()
            return None
        picture: Pixels = np.ndarray((height, width, values), dtype, buffer.raw_buffer, offset, (row, values * item, item))
        picture = picture[:, :, 0] if values == 1 else picture[:, :, :3]
        pixels = self.allocate(picture.shape, dtype)
        if pixels is not None:
            np.copyto(pixels, picture)
            pixels.flags.writeable = False
        return pixels


def missed_between(last_id: int, frame_id: int) -> int | None:
    """How many frames a device counted between two; None when it counts backwards. Gaps are the only loss that every producer shows."""
    if frame_id > last_id:
        return frame_id - last_id - 1
    if last_id <= LAST_16_BIT_ID and last_id - frame_id > LAST_16_BIT_ID // 2:
        return max(0, frame_id + LAST_16_BIT_ID - last_id - 1)  # GigE Vision 1 counts in 16 bits: after 65535 comes 1
    return None


def _told(buffer: Any, name: str) -> int:
    """What a producer need not tell about a buffer; 0 when it does not."""
    with suppress(gentl.GenericException):
        return int(getattr(buffer, name))
    return 0


def _device_ns(buffer: Any) -> int | None:
    """The device's time stamp in its own clock's nanoseconds, or None when it has none."""
    with suppress(gentl.GenericException):
        return int(buffer.timestamp_ns) or None
    with suppress(gentl.GenericException, ZeroDivisionError):
        return int(buffer.timestamp) * 1_000_000_000 // int(buffer.parent.parent.timestamp_frequency) or None
    return None
