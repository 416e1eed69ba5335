"""What the station sees of a camera: `Camera` and the `Frame` it hands over.

Every camera keeps the same promises, whether it is a GenICam device, that device in a process of its own, or a recording: the contract
suite in `tests/test_camera_contract.py` runs over all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Feature = bool | int | float | str
"""The value of a GenICam feature, as SFNC types it. An enumeration is its entry's symbolic name."""


class CameraError(Exception):
    """The camera cannot do what was asked; the message says which camera, what failed and what to do."""


class CameraState(Enum):
    """Where a camera is on its way to streaming."""

    ABSENT = "absent"
    """Nothing is open, or nothing was found yet; a supervised camera looks again by itself."""
    OPENING = "opening"
    """A device was asked for and is being opened or configured."""
    STREAMING = "streaming"
    """Features are written and read back, acquisition runs."""
    LOST = "lost"
    """It streamed and does not any more; a supervised camera is on its way back."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One exposure as it arrived, its pixels unchanged while the frame is referenced. Only one without a flaw is a picture to judge.

    Attributes:
        pixels: read-only uint8 (8-bit formats) or uint16 (10- and 12-bit ones, right aligned), (height, width) for Mono and Bayer,
            (height, width, 3) for RGB8 and BGR8 in the order the format names.
        pixel_format: the PFNC name of this very frame, such as `BayerRG8`.
        frame_id: the camera's own count of this frame.
        missed: how many frames the camera counted between the previous frame handed over and this one; 0 when none was lost.
        captured_ns: when the exposure of this frame ended, on this machine's monotonic clock, as well as it is known and never early: late
            by the transfer where the device's clock is not mapped.
        flaw: why this is no picture of the part in front of the camera, in words: it is incomplete, of another size or taken otherwise than
            asked for, or the same bytes as the frame before; empty for a whole one. Only a repeated one has pixels then, others' are of
            shape (0, 0).
    """

    pixels: Pixels
    pixel_format: str
    frame_id: int
    missed: int
    captured_ns: int
    flaw: str = ""


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """What a camera says of itself. Counters count from the object's creation and survive a reconnect."""

    state: CameraState
    detail: str = ""
    """The cause in words when the state is ABSENT or LOST."""
    vendor: str = ""
    model: str = ""
    serial_number: str = ""
    features: Mapping[str, Feature] = field(default_factory=dict)
    """The features that were asked for, as read back from the device."""
    delivered: int = 0
    """Frames handed over without a flaw."""
    missed: int = 0
    incomplete: int = 0
    """Frames that were not as asked for: data was lost, the size was another one, or they were taken with other settings."""
    frozen: int = 0
    """Frames with the same bytes as the one before."""
    reconnects: int = 0
    temperature_c: float | None = None
    """SFNC DeviceTemperature, as last read; None where the device does not tell."""


class Camera(Protocol):
    """One camera. All calls come from one thread."""

    simulated: bool
    """True when no real part is in front of it; travels into every result as OPC 40100-1 `IsSimulated`."""

    def start(self, features: Mapping[str, Feature]) -> None:
        """Begins to stream with exactly these features, in this order; a camera that streams with the same ones is left alone.

        A supervised camera returns at once and reports through `status`; any other returns when it streams.

        Raises:
            CameraError: the device is not there, or a feature is unknown, out of range, or reads back differently. Supervised: only when
                the request itself is unusable; otherwise the state says so.
        """

    def status(self) -> CameraStatus:
        """Says how the camera is, within a millisecond, and never raises. A supervised camera looks after its process here."""

    def trigger(self) -> None:
        """Fires one exposure by software (SFNC `TriggerSoftware`). Frames from before this call are never handed over after it.

        Raises:
            CameraError: the camera does not stream, or its trigger is not `Software`.
        """

    def fetch(self, timeout_s: float) -> Frame | None:
        """The next frame in the camera's order, or None when none came within `timeout_s`.

        Every exposure is told once: as a frame, as one with a flaw, or in the next frame's `missed`. A duplicate, and a late frame that was
        told as missed before, are dropped.

        Raises:
            CameraError: the camera was lost; `status` says why.
        """

    def stop(self) -> None:
        """Ends streaming; frames handed over stay valid. Does nothing when not streaming, and never raises."""

    def close(self) -> None:
        """Gives the device and everything it took back. Never raises; calls after it raise `CameraError`."""
