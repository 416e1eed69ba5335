"""A whole simulated line: the PLC at the far end of a pseudo terminal, its conveyor, and the camera's scene, in a process of its own.

SimulatedLine (in the station's process)  --pipe-->  Line: Terminal - Rtu(Server|Client) | AsciiPlc - PlcProgram - PictureConveyor --> Scene
"""

import contextlib
import copy
import multiprocessing
import os
import select
import signal
import sys
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import cv2
import numpy as np

from drivers.simulated.ascii_plc import AsciiPlc
from drivers.simulated.conveyor import Image, Picture, PictureConveyor, folder_pictures, synthetic_pictures
from drivers.simulated.judge import STATION_REGISTERS
from drivers.simulated.parts import CLASSES
from drivers.simulated.plc import COMMAND_REGISTERS, Batch, PlcProgram
from drivers.simulated.rtu_client import RtuClient
from drivers.simulated.rtu_server import RtuServer
from drivers.simulated.scene import Scene, tell

SCAN_S = 0.01
START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 30.0
Link = Literal["modbus-rtu", "modbus-rtu-server", "ascii"]
Counting = Literal["plc", "hardware", "free"]


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """So many parts for a recipe. `pictures` is a product that can be made, or a folder with a folder of pictures a class."""

    recipe: int
    pictures: str
    parts: int
    good: tuple[str, ...] = ("good",)
    """Which classes of a folder are good."""
    keep_running: bool = False
    """Feed parts of the batch before until this one's recipe is prepared."""


@dataclass(frozen=True, slots=True)
class LineSpec:
    """A simulated line.

    Attributes:
        port: the path at which the station finds its serial port; a link that the line makes and removes.
        directory, serial: where the camera's scene is, and the camera's serial number.
        link: the dialect: `modbus-rtu`, in which the station polls, `modbus-rtu-server`, in which it is polled, or `ascii`.
        counting: who counts the parts: the PLC, and the station fires the camera; the PLC, and a sensor fires it (Line0); or nobody, and a
            sensor fires it.
        deadline_ms: the recipes' deadline, by which the PLC judges the heartbeat.
        part_timeout_s: from the trigger to the answer; after it the part is rejected without one.
        interval_s: from a part's end to the next part.
        defective: probability of a defect in a made part. A folder's pictures come as they are.
        seed: of parts and shuffling. shuffle: False takes a folder's pictures sorted.
        noise: amplitude of the camera's noise, grey levels.
    """

    port: Path
    directory: Path
    serial: str
    batches: tuple[BatchSpec, ...]
    deadline_ms: int
    part_timeout_s: float
    link: Link = "modbus-rtu"
    counting: Counting = "plc"
    interval_s: float = 0.05
    defective: float = 0.08
    seed: int = 1
    shuffle: bool = True
    noise: int = 0


class Terminal:
    """A pseudo terminal whose far end is found at a path of our choice. Bytes that the far end does not take are lost, as on a wire."""

    def __init__(self, link: Path) -> None:
        """Makes the terminal and the link; an older link is replaced.

        Raises:
            OSError: the path cannot be written.
        """
        self._near, self._far = os.openpty()  # the far end stays open here, so that the station may come and go
        tty.setraw(self._far)
        os.set_blocking(self._near, False)
        self._target = os.ttyname(self._far)
        self._link = link
        link.parent.mkdir(parents=True, exist_ok=True)
        fresh = link.with_name(f".{link.name}.{os.getpid()}")
        fresh.symlink_to(self._target)
        fresh.replace(link)

    def fileno(self) -> int:
        """The near end, to wait on."""
        return self._near

    def read(self) -> bytes:
        """What came, possibly nothing."""
        try:
            return os.read(self._near, 4096)
        except BlockingIOError:
            return b""

    def write(self, data: bytes) -> None:
        """Sends as much as the far end takes."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._near, data)

    def close(self) -> None:
        """Pulls the cable and removes the link if it is still ours."""
        with contextlib.suppress(OSError):
            if str(self._link.readlink()) == self._target:
                self._link.unlink()
        os.close(self._near)
        os.close(self._far)


class Line:
    """The PLC of a simulated line with all that it moves; it lives by being turned."""

    def __init__(self, spec: LineSpec, show: Callable[[Image], None]) -> None:
        """`show` brings a picture before the camera.

        Raises:
            ValueError: a batch's pictures are neither a product nor a usable folder.
            OSError: the port cannot be made.
        """
        sources: dict[tuple[str, tuple[str, ...]], Iterator[Picture]] = {}
        streams = [sources.setdefault((batch.pictures, batch.good), pictures(batch, spec)) for batch in spec.batches]
        self._conveyor = PictureConveyor(streams, show)
        self._program = PlcProgram(
            [Batch(batch.recipe, batch.parts, batch.keep_running) for batch in spec.batches],
            self._conveyor,
            deadline_ms=spec.deadline_ms,
            part_timeout_s=spec.part_timeout_s,
            interval_s=spec.interval_s,
            fire=None if spec.counting == "plc" else lambda: tell(spec.directory, spec.serial, "line0"),
            announces=spec.counting != "free",
        )
        self._registers = [0] * COMMAND_REGISTERS.stop
        self._dialect = _dialect(spec.link, self._registers)
        self._terminal = Terminal(spec.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def finished(self) -> bool:
        """The schedule is through or was given up; the PLC goes on all the same."""
        return self._program.finished

    def turn(self, also: Sequence[Connection] = ()) -> None:
        """Waits for bytes, for one of `also` or for the next scan, answers what came, and scans once."""
        select.select([self._terminal.fileno(), *(pipe.fileno() for pipe in also)], [], [], SCAN_S)
        if answer := self._dialect.receive(self._terminal.read(), time.monotonic()):
            self._terminal.write(answer)
        station = self._registers[STATION_REGISTERS.start : STATION_REGISTERS.stop]
        self._registers[COMMAND_REGISTERS.start : COMMAND_REGISTERS.stop] = self._program.scan(station, time.monotonic())
        if said := self._dialect.speak(time.monotonic()):
            self._terminal.write(said)

    def counts(self) -> dict[str, Any]:
        """What was counted so far, fit for JSON. `latency_ms` has `p50`, `p99` and `max`, and is empty before the first answer."""
        seen = vars(self._program.counts) | vars(self._conveyor.truth)
        latencies_s = seen.pop("latencies_s")
        seen["recipes"] = {str(number): answered for number, answered in seen["recipes"].items()}
        return copy.deepcopy(seen) | {"latency_ms": _percentiles_ms(latencies_s), "finished": self.finished}

    def close(self) -> None:
        """Pulls the cable and stops the conveyor."""
        self._terminal.close()
        self._conveyor.close()


def _dialect(link: Link, registers: list[int]) -> AsciiPlc | RtuClient | RtuServer:
    if link == "ascii":
        return AsciiPlc(registers)
    return RtuServer(registers, writable=STATION_REGISTERS) if link == "modbus-rtu" else RtuClient(registers)


def pictures(batch: BatchSpec, spec: LineSpec) -> Iterator[Picture]:
    """The pictures of a batch, without end.

    Raises:
        ValueError: they are neither a product nor a folder.
    """
    if batch.pictures in CLASSES:
        return synthetic_pictures(batch.pictures, spec.defective, spec.seed)
    if Path(batch.pictures).is_dir():
        return folder_pictures(Path(batch.pictures), batch.good, spec.seed if spec.shuffle else None)
    raise ValueError(f"pictures {batch.pictures!r} of recipe {batch.recipe}: neither a folder nor one of {', '.join(sorted(CLASSES))}")


def _percentiles_ms(latencies_s: Sequence[float]) -> dict[str, float]:
    if not latencies_s:
        return {}
    p50, p99, longest = np.percentile(latencies_s, [50, 99, 100]) * 1000
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "max": round(float(longest), 1)}


class LineError(Exception):
    """The simulated line cannot run; the message says why."""


class SimulatedLine:
    """A `Line` in a process of its own, which ends with this object or with the process that made it."""

    def __init__(self, spec: LineSpec) -> None:
        """Starts the process and returns at once."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(spec, theirs), name="simulated line", daemon=True)
        self._process.start()
        theirs.close()
        self._link = spec.port
        self._started = False

    @property
    def port(self) -> Path:
        """The path of the serial port, once it is there.

        Raises:
            LineError: the line cannot run.
        """
        if not self._started:
            self._receive(START_TIMEOUT_S)
            self._started = True
        return self._link

    def counts(self) -> dict[str, Any]:
        """What was counted so far, as `Line.counts`.

        Raises:
            LineError: the line ended, or cannot run.
        """
        _ = self.port
        try:
            self._pipe.send("counts")
        except OSError as error:
            raise LineError(f"the simulated line has ended ({error})") from error
        counts: dict[str, Any] = self._receive(ANSWER_TIMEOUT_S)
        return counts

    def finish(self, timeout_s: float) -> dict[str, Any]:
        """Waits up to `timeout_s` for the schedule's end and returns the counts; `finished` in them says whether it came.

        Raises:
            LineError: the line ended, or cannot run.
        """
        until_s = time.monotonic() + timeout_s
        while not (counts := self.counts())["finished"] and time.monotonic() < until_s:
            time.sleep(0.05)
        return counts

    def close(self) -> None:
        """Ends the process, which takes its port with it. Never raises."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self, timeout_s: float) -> Any:
        try:
            if not self._pipe.poll(timeout_s):
                raise LineError(f"the simulated line said nothing for {timeout_s:.0f} s")
            message = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise LineError("the simulated line has ended") from error
        if isinstance(message, Exception):
            raise LineError(f"the simulated line cannot run: {message}")
        return message


def _run(spec: LineSpec, pipe: Connection) -> None:
    """The process: turns the line and answers each request for counts, until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the station, which ends this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            with open_line(spec) as line:
                pipe.send("ready")
                while True:
                    line.turn([pipe])
                    if pipe.poll():
                        pipe.recv()
                        pipe.send(line.counts())
        except (OSError, ValueError) as error:
            pipe.send(error)


@contextlib.contextmanager
def open_line(spec: LineSpec) -> Iterator[Line]:
    """A line whose pictures go to the camera's scene. Takes this process for itself: pictures are made on one core.

    Raises:
        ValueError: a batch's pictures are neither a product nor a usable folder, or there is no such camera.
        OSError: port or scene cannot be made.
    """
    cv2.setNumThreads(1)
    scene = Scene(spec.directory, spec.serial)
    with contextlib.closing(scene), Line(spec, lambda image: scene.show([image], spec.noise)) as line:
        yield line
