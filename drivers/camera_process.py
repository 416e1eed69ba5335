"""What runs in the process of an `isolated.IsolatedCamera`, and the messages that the two exchange.

They talk over one SOCK_SEQPACKET socket: a message is whole or not there, can carry a file descriptor, and the end of either side shows at
once. Pixels go through a `SharedRing`; a frame without a whole picture takes a slot too, which bounds what is on its way to a parent that
does not look. The heartbeat, the counts and the temperature stand in a page of their own, because nobody may be there to read a message.
"""

import ctypes
import math
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from drivers.camera import Camera, CameraError, CameraStatus, Feature, Frame, Pixels
from drivers.shared_ring import SharedRing, memory_file

SLOTS = 16
LARGEST_MESSAGE = 65536
PULSE = struct.Struct("=QQQd")
"""The shared page: beats, incomplete frames and frozen ones so far; temperature in degrees Celsius, not a number when it is not known."""
BEAT_S = 0.1
LOOK_S = 0.001
"""How long the camera is asked for a frame before the next look for a command, which bounds how late a trigger is."""
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Start:
    """To the process: stream with these features. Every command raises the generation; its frames carry it."""

    features: dict[str, Feature]
    generation: int


@dataclass(frozen=True, slots=True)
class Trigger:
    """To the process: fire one exposure."""

    generation: int


@dataclass(frozen=True, slots=True)
class Stop:
    """To the process: end streaming and keep the device."""

    generation: int


@dataclass(frozen=True, slots=True)
class Pulse:
    """From the process, once, with the descriptor of the page that `PULSE` describes."""


@dataclass(frozen=True, slots=True)
class Ring:
    """From the process, with the descriptor of the ring in which all frames from now on lie."""

    slots: int
    slot_bytes: int


@dataclass(frozen=True, slots=True)
class Streaming:
    """From the process: a `Start` is carried out."""

    status: CameraStatus
    generation: int


@dataclass(frozen=True, slots=True)
class Captured:
    """From the process: a `Frame` whose pixels lie in a slot, which is the receiver's until it gives it back."""

    slot: int
    shape: tuple[int, ...]
    dtype: str
    pixel_format: str
    frame_id: int
    missed: int
    captured_ns: int
    flaw: str
    generation: int


@dataclass(frozen=True, slots=True)
class Failed:
    """From the process, as its last word: why it ends."""

    cause: str


@runtime_checkable
class CopiesOut(Protocol):
    """A camera that copies pixels to where it is told, so that they go straight into a slot; any other camera's are copied once more."""

    allocate: Callable[[tuple[int, ...], npt.DTypeLike], Pixels | None]


def serve(make_camera: Callable[[], Camera], connection: socket.socket, parent: int) -> None:
    """The whole life of the process: it ends with its parent, with the connection, or with the first failure of its camera."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    camera: Camera | None = None
    try:
        camera = make_camera()
        with suppress(ConnectionError):  # the parent has gone
            _Server(camera, connection).run()
    except CameraError as error:
        _say_last(connection, str(error))
    except BaseException as error:
        _say_last(connection, f"{type(error).__name__} in the camera process: {error}")
        raise
    finally:
        if camera is not None:
            camera.close()


def _say_last(connection: socket.socket, cause: str) -> None:
    with suppress(OSError):
        connection.send(pickle.dumps(Failed(cause[:1000])))


class _Server:
    """The loop of the process: one camera, one connection, one thread."""

    def __init__(self, camera: Camera, connection: socket.socket) -> None:
        self._camera = camera
        self._connection = connection
        self._streaming = False
        self._generation = 0
        self._ring: SharedRing | None = None
        self._slot: int | None = None
        self._dropped = 0
        self._beats = 0
        self._beat_due = 0.0
        file = memory_file(PULSE.size)
        self._pulse = mmap.mmap(file, PULSE.size)
        self._send_file(Pulse(), file)
        if isinstance(camera, CopiesOut):
            camera.allocate = self._allocate

    def run(self) -> None:
        """Returns when the parent has closed its end.

        Raises:
            CameraError: the camera failed.
        """
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        while True:
            self._beat()
            if poll.poll(0 if self._streaming else BEAT_S * 1e3):
                command = self._connection.recv(LARGEST_MESSAGE)
                if not command:
                    return
                self._obey(pickle.loads(command))
            elif self._streaming and (frame := self._camera.fetch(LOOK_S)):
                self._hand_over(frame)

    def _beat(self) -> None:
        now = time.monotonic()
        if now >= self._beat_due:
            self._beats += 1
            self._beat_due = now + BEAT_S
            self._tell()

    def _tell(self) -> None:
        status = self._camera.status()
        temperature_c = math.nan if status.temperature_c is None else status.temperature_c
        PULSE.pack_into(self._pulse, 0, self._beats, status.incomplete, status.frozen, temperature_c)

    def _obey(self, command: object) -> None:
        match command:
            case Start(features, generation):
                self._camera.start(features)
                self._streaming, self._dropped, self._generation = True, 0, generation
                self._send(Streaming(self._camera.status(), generation))
            case Trigger(generation):
                self._camera.trigger()
                self._dropped, self._generation = 0, generation
            case Stop(generation):
                self._camera.stop()
                self._streaming, self._generation = False, generation

    def _hand_over(self, frame: Frame) -> None:
        if self._slot is None:
            pixels = self._allocate(frame.pixels.shape, frame.pixels.dtype)
            if self._slot is None or pixels is None:
                self._dropped += 1 + frame.missed
                return
            np.copyto(pixels, frame.pixels)
        slot, self._slot = self._slot, None
        missed, self._dropped = frame.missed + self._dropped, 0
        shape, dtype, number = frame.pixels.shape, frame.pixels.dtype.str, frame.frame_id
        if frame.flaw:
            self._tell()  # so that who has the frame finds it counted
        self._send(Captured(slot, shape, dtype, frame.pixel_format, number, missed, frame.captured_ns, frame.flaw, self._generation))

    def _allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Pixels | None:
        """Memory in a free slot, which becomes `_slot`; None when the parent holds them all."""
        slot_bytes = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        if self._ring is None or self._ring.slot_bytes < slot_bytes:
            file = memory_file(SharedRing.size(SLOTS, slot_bytes))
            self._ring = SharedRing(file, SLOTS, slot_bytes)
            self._send_file(Ring(SLOTS, slot_bytes), file)
        self._slot = self._ring.take()
        return None if self._slot is None else self._ring.picture(self._slot, shape, dtype)

    def _send(self, message: object) -> None:
        self._connection.send(pickle.dumps(message))

    def _send_file(self, message: object, file: int) -> None:
        socket.send_fds(self._connection, [pickle.dumps(message)], [file])
        os.close(file)
