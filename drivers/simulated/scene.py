"""What stands before a simulated camera, and what is done to the camera itself."""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SENSORS = {"SIM-MER131": (1280, 1024), "SIM-MQ042": (2048, 2048)}
"""The simulated cameras: width and height in pixels by serial number."""
LARGEST_NOISE = 127

_HEADER = struct.Struct("<8sII")  # magic, pictures, noise
_ENTRY = struct.Struct("<IIIIQ")  # width, height, channels, 0, offset of the pixels


def simulated_directory() -> Path:
    """Where producer and scenes meet: `$STATION_SIMULATED_DIR`, or `/tmp/station-simulated-<uid>`."""
    return Path(os.environ.get("STATION_SIMULATED_DIR") or f"/tmp/station-simulated-{os.getuid()}")


class Scene:
    """What one simulated camera sees, from any process. Without a scene it sees a moving test pattern."""

    def __init__(self, directory: Path, serial: str) -> None:
        """`directory` is the producer's (see `simulated_directory`) and is made if need be.

        Raises:
            ValueError: there is no simulated camera of that serial number.
            OSError: the directory cannot be made.
        """
        if serial not in SENSORS:
            raise ValueError(f"no simulated camera {serial!r}; there are {', '.join(SENSORS)}")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sensor = SENSORS[serial]
        self._path = directory / f"{serial}.scene"

    def show(self, pictures: Sequence[NDArray[np.uint8]], noise: int = 0) -> None:
        """Puts these pictures before the camera; every frame triggered after the return shows them, one a frame, in turn from the first.

        A frame shows one scene or the other, never both. A frame that is lost takes its picture with it.

        Args:
            pictures: uint8, (h, w) or (h, w, 3) RGB. Each is centred on the sensor (rounded down to an even pixel), on black, at its own
                size; one that is larger than the sensor is scaled down to fit.
            noise: amplitude of the noise the sensor adds to each pixel, uniform in -noise..noise grey levels, 0..127.

        Raises:
            ValueError: no picture, not a picture, or no such noise.
            OSError: the scene cannot be written.
        """
        if not pictures or not 0 <= noise <= LARGEST_NOISE:
            raise ValueError(f"a scene is at least one picture with noise 0..{LARGEST_NOISE}, not {len(pictures)} with noise {noise}")
        fitted = [self._fit(picture) for picture in pictures]
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with fresh.open("wb") as file:
            file.write(_HEADER.pack(b"STSCENE1", len(fitted), noise))
            offset = _HEADER.size + _ENTRY.size * len(fitted)
            for picture in fitted:
                file.write(_ENTRY.pack(picture.shape[1], picture.shape[0], 3 if picture.ndim == 3 else 1, 0, offset))
                offset += picture.nbytes
            for picture in fitted:
                file.write(picture.data)
        fresh.replace(self._path)

    def close(self) -> None:
        """Takes the scene away: the camera sees its test pattern again."""
        self._path.unlink(missing_ok=True)

    def _fit(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if picture.dtype != np.uint8 or picture.size == 0 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)):
            raise ValueError(f"a picture is uint8 (h, w) or (h, w, 3), not {picture.dtype} {picture.shape}")
        height, width = picture.shape[:2]
        scale = min(self._sensor[0] / width, self._sensor[1] / height)
        if scale < 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        return np.ascontiguousarray(picture)


def tell(directory: Path, serial: str, order: str) -> None:
    """Does something to a simulated camera, from any process; the camera follows within milliseconds.

    `order` is one of the words of docs/simulated-producer.md with its numbers. `line0` is a pulse on its input Line0. `lost` unplugs it: it
    answers nothing and sends nothing until it is plugged in with `back` and opened anew. The others make it go wrong: `drop 3`. Only `lost`
    and `back` are noticed when no process has the camera open; what is not an order is told on that process's standard error.

    Raises:
        OSError: the directory cannot be used.
    """
    marker = directory / f"{serial}.unplugged"
    if order == "lost":
        marker.touch()
    if order == "back":
        marker.unlink(missing_ok=True)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        _short(directory) as short,
        # Nobody listens when no process has the camera open, and a process that was killed leaves its socket behind.
        contextlib.suppress(FileNotFoundError, ConnectionRefusedError),
    ):
        sender.sendto(order.encode(), f"{short}/{serial}.sock")


def happened(directory: Path, serial: str) -> list[str]:
    """What was done to a simulated camera since its folder was made, oldest first, by whichever process had it open.

    `told ORDER` for each order it took but pulses on Line0, `struck WORD` for each frame that a counted fault struck, and `error CALL`,
    `hang CALL` or `crash CALL` for each call that went wrong.
    """
    file = directory / f"{serial}.happened"
    return file.read_text().splitlines() if file.exists() else []


@contextlib.contextmanager
def _short(directory: Path) -> Iterator[str]:
    """Another path to the directory, for a socket's path must not be longer than 107 bytes."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
