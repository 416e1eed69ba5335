"""`IsolatedCamera`: any `Camera` in a process of its own, because vendors' native code crashes, hangs and lets no other thread run."""

import math
import mmap
import multiprocessing
import os
import pickle
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from drivers.camera import Camera, CameraError, CameraState, CameraStatus, Feature, Frame
from drivers.camera_process import LARGEST_MESSAGE, PULSE, Captured, Failed, Pulse, Ring, Start, Stop, Streaming, Trigger, serve
from drivers.shared_ring import SharedRing

OPENING_LIMIT_NS = 30_000_000_000
STREAMING_LIMIT_NS = LAST_WORD_LIMIT_NS = 2_000_000_000
"""A process that shows no sign of life for longer is killed."""
SHORTEST_BACK_OFF_NS = 200_000_000
LONGEST_BACK_OFF_NS = 2_000_000_000
CLOSE_S = 2.0


class IsolatedCamera:
    """A supervised `Camera`: its process is watched in `status`, and killed and started again when it dies or hangs.

    `start`, `status`, `trigger` and `stop` return within milliseconds, whatever the device does. A frame's pixels stay in shared memory
    until nothing refers to them any more, in whichever thread that happens; while all slots are taken, new frames are dropped and count as
    missed. A generation, raised by every start, trigger and stop, tells the frames from before from those after. The process dies with the
    thread that started it, so the one thread that makes all calls must live as long as the camera.
    """

    def __init__(self, camera: Callable[[], Camera], *, simulated: bool, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Starts nothing yet.

        Args:
            camera: makes the camera, in its process; picklable, such as a `functools.partial` of a class.
            simulated: what `simulated` says; the camera itself is not asked.
            clock: monotonic ns; decides when a silent process is killed and a dead one started again.
        """
        self.simulated = simulated
        self._make_camera = camera
        self._clock = clock
        self._process: _Process | None = None
        self._wanted: dict[str, Feature] | None = None
        self._generation = 0
        self._frames: deque[Frame] = deque()
        self._emptying: deque[Iterator[None]] = deque()
        self._status = CameraStatus(CameraState.ABSENT, "not started")
        self._has_streamed = self._closed = False
        self._back_off_ns = SHORTEST_BACK_OFF_NS
        self._retry_at_ns = 0

    def start(self, features: Mapping[str, Feature]) -> None:
        """See `Camera.start`. The process keeps trying until `stop`."""
        if self._closed:
            raise CameraError("the camera is closed")
        for name, value in features.items():
            if not isinstance(value, bool | int | float | str):
                raise CameraError(f"feature {name} cannot be {value!r}: write true or false, a number, or a text")
        if self._wanted is not None and [*self._wanted.items()] == [*features.items()]:
            return
        self._wanted = dict(features)
        self._back_off_ns = SHORTEST_BACK_OFF_NS
        self._leave(CameraState.OPENING, "")
        if self._process is None:
            self._spawn(self._wanted)
        else:
            self._send(self._process, Start(self._wanted, self._generation))

    def status(self) -> CameraStatus:
        """See `Camera.status`."""
        self._receive()
        self._empty()
        now_ns = self._clock()
        if self._process is None:
            if self._wanted is not None and now_ns >= self._retry_at_ns:
                self._spawn(self._wanted)
        elif (silent_ns := self._process.silent_ns(now_ns)) > self._patience_ns(self._process):
            cause = f"the camera process was silent for {silent_ns / 1e9:.1f} s and was killed"
            self._bury(self._process, self._process.cause or cause)
        return self._counted(self._process) if self._process else self._status

    def trigger(self) -> None:
        """See `Camera.trigger`. Returns when the process was told; a failure to fire shows as a lost camera."""
        self._receive()
        if self._process is None or self._wanted is None or self._status.state is not CameraState.STREAMING:
            raise CameraError(f"the camera does not stream: {self._status.detail}")
        if (self._wanted.get("TriggerMode"), self._wanted.get("TriggerSource")) != ("On", "Software"):
            raise CameraError('a software trigger needs the features TriggerMode "On" and TriggerSource "Software"')
        self._raise_generation()
        if not self._send(self._process, Trigger(self._generation)):
            raise CameraError(self._status.detail)

    def fetch(self, timeout_s: float) -> Frame | None:
        """See `Camera.fetch`. Waits without using the processor."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._receive()
            if self._process is None or self._status.state in (CameraState.LOST, CameraState.ABSENT):
                raise CameraError(f"the camera does not stream: {self._status.detail}")
            if self._frames:
                frame = self._frames.popleft()
                self._back_off_ns = SHORTEST_BACK_OFF_NS  # one that streams and sends nothing may be lost again at once
                status = self._status
                self._status = replace(status, delivered=status.delivered + (not frame.flaw), missed=status.missed + frame.missed)
                return frame
            if not self._process.wait(deadline - time.monotonic()):
                return None

    def stop(self) -> None:
        """See `Camera.stop`. The process keeps the device open."""
        if self._wanted is None:
            return
        self._wanted = None
        self._leave(CameraState.ABSENT, "stopped")
        if self._process is not None:
            self._send(self._process, Stop(self._generation))

    def close(self) -> None:
        """See `Camera.close`. Leaves the process `CLOSE_S` to give the device back, then kills it."""
        self._wanted = None
        self._leave(CameraState.ABSENT, "closed")
        if self._process is not None:
            self._status = self._counted(self._process)
            self._process.close()
        self._process = None
        self._emptying.clear()
        self._closed = True

    def _patience_ns(self, process: "_Process") -> int:
        if process.cause:  # it only gives the device back, which no other can have meanwhile
            return LAST_WORD_LIMIT_NS
        return STREAMING_LIMIT_NS if self._status.state is CameraState.STREAMING else OPENING_LIMIT_NS

    def _leave(self, state: CameraState, detail: str) -> None:
        """Turns from what was streamed to something else, which frames and failures from before do not concern."""
        self._raise_generation()
        self._has_streamed = False
        self._status = replace(self._status, state=state, detail=detail, features={})
        if self._process is not None:
            self._process.heard_ns = self._clock()

    def _raise_generation(self) -> None:
        self._generation += 1
        self._frames.clear()

    def _spawn(self, features: dict[str, Feature]) -> None:
        try:
            self._process = _Process(self._make_camera, self._clock())
        except OSError as error:  # out of memory, processes or descriptors
            self._retry_later(f"no camera process can be started: {error}")
        else:
            self._send(self._process, Start(features, self._generation))

    def _send(self, process: "_Process", command: Start | Trigger | Stop) -> bool:
        try:
            return process.socket.send(pickle.dumps(command)) > 0
        except OSError as error:  # gone, or so far behind that the socket is full
            self._bury(process, process.cause or f"the camera process takes no commands: {error}")
            return False

    def _receive(self) -> None:
        """Takes in all that the process said, without waiting."""
        while (process := self._process) is not None:
            try:
                message, files, _, _ = socket.recv_fds(process.socket, LARGEST_MESSAGE, 1)
            except BlockingIOError:
                return
            except ConnectionResetError:
                message = b""
            if not message:
                self._bury(process, process.cause or process.how_it_ended())
                return
            try:
                self._heed(process, pickle.loads(message), files)
            except (OSError, IndexError) as error:  # its descriptor did not come: this process has no room for another file
                self._bury(process, f"the camera process's memory did not arrive: {error}")
                return

    def _heed(self, process: "_Process", message: object, files: list[int]) -> None:
        match message:
            case Pulse():
                process.pulse = mmap.mmap(files[0], PULSE.size)
            case Ring(slots, slot_bytes):
                self._give_up(process.ring)
                process.ring = SharedRing(files[0], slots, slot_bytes)
            case Captured() if process.ring is not None:
                if message.generation == self._generation:
                    self._frames.append(_frame(process.ring, message))
                else:
                    process.ring.give_back(message.slot)
            case Streaming(status, generation) if generation == self._generation:
                self._streams(status)
            case Failed(cause):
                process.cause = cause
                self._lose(cause)
        for file in files:
            os.close(file)

    def _streams(self, told: CameraStatus) -> None:
        self._status = replace(
            self._status,
            state=CameraState.STREAMING,
            detail="",
            vendor=told.vendor,
            model=told.model,
            serial_number=told.serial_number,
            features=told.features,
            reconnects=self._status.reconnects + self._has_streamed,
        )
        self._has_streamed = True

    def _lose(self, cause: str) -> None:
        self._frames.clear()
        if self._wanted is not None:
            state = CameraState.LOST if self._has_streamed else CameraState.ABSENT
            self._status = replace(self._status, state=state, detail=cause)

    def _bury(self, process: "_Process", cause: str) -> None:
        self._status = self._counted(process)
        process.kill()
        self._process = None
        self._retry_later(cause)
        self._give_up(process.ring)
        process.ring = None

    def _give_up(self, ring: SharedRing | None) -> None:
        if ring is not None:
            self._emptying.append(ring.emptied())

    def _empty(self) -> None:
        """One slot of what was given up, so that no turn waits for all of it."""
        if self._emptying and next(self._emptying[0], self) is self:
            self._emptying.popleft()

    def _counted(self, process: "_Process") -> CameraStatus:
        """The status with what this process counted and measured."""
        incomplete, frozen, temperature_c = process.told()
        status = self._status
        return replace(status, incomplete=status.incomplete + incomplete, frozen=status.frozen + frozen, temperature_c=temperature_c)

    def _retry_later(self, cause: str) -> None:
        self._lose(cause)
        self._retry_at_ns = self._clock() + self._back_off_ns
        self._back_off_ns = min(2 * self._back_off_ns, LONGEST_BACK_OFF_NS)


class _Process:
    """The parent's end of one camera process."""

    def __init__(self, make_camera: Callable[[], Camera], now_ns: int) -> None:
        self.heard_ns = now_ns
        self.cause = ""
        self.pulse: mmap.mmap | None = None
        self.ring: SharedRing | None = None
        self._beats = 0
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        spawn = multiprocessing.get_context("spawn")
        self._process = spawn.Process(target=serve, args=(make_camera, theirs, os.getpid()), name="camera", daemon=True)
        with theirs:
            self._process.start()
        self.socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)

    def wait(self, timeout_s: float) -> bool:
        """Whether there is something to receive within `timeout_s`."""
        return timeout_s > 0 and bool(self._poll.poll(timeout_s * 1e3))

    def silent_ns(self, now_ns: int) -> int:
        """For how long the heartbeat is seen to stand still."""
        beats = PULSE.unpack_from(self.pulse)[0] if self.pulse else 0
        if beats != self._beats:
            self._beats, self.heard_ns = beats, now_ns
        return now_ns - self.heard_ns

    def told(self) -> tuple[int, int, float | None]:
        """The incomplete and the frozen frames this process counted, and the temperature it read."""
        if self.pulse is None:
            return 0, 0, None
        _, incomplete, frozen, temperature_c = PULSE.unpack_from(self.pulse)
        return incomplete, frozen, None if math.isnan(temperature_c) else temperature_c

    def how_it_ended(self) -> str:
        """Its exit code or signal in words."""
        self._process.join(0.005)
        code = self._process.exitcode
        if code is None:
            return "the camera process closed its connection"
        return (
            f"the camera process was killed by {signal.Signals(-code).name}" if code < 0 else f"the camera process ended with code {code}"
        )

    def kill(self) -> None:
        """Ends it now, whatever it does."""
        self._process.kill()
        self.socket.close()

    def close(self) -> None:
        """Ends it, if possible by its own hand, and takes it off the books."""
        self.socket.close()
        self._process.join(CLOSE_S)
        self._process.kill()
        self._process.join(CLOSE_S)
        with suppress(ValueError):  # not even SIGKILL ends a process that waits in the kernel
            self._process.close()


def _frame(ring: SharedRing, message: Captured) -> Frame:
    pixels = ring.lend(message.slot, message.shape, message.dtype)
    return Frame(pixels, message.pixel_format, message.frame_id, message.missed, message.captured_ns, message.flaw)
