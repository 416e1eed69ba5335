"""A line with scripted ends: a PLC, a camera and inspectors that do what a test says, and a clock that only the test moves."""

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from drivers.camera import CameraError, CameraState, CameraStatus, Feature, Frame
from drivers.plc import Command, PlcCommand, PlcError, PlcInput, StationSignals, Trigger
from station.inspection import Inspection, Result
from station.inspector import Inspector
from station.ledger import Ledger, audit
from station.line import Line, LineSettings
from station.recipe import LocalizationDocument, NetworkDocument, Recipe, RecipeDocument, RecipeError, SelfTestDocument
from station.state import State

MS = 1_000_000


@dataclass
class Clock:
    now_ns: int = 1_000 * MS

    def __call__(self) -> int:
        return self.now_ns


@dataclass
class ScriptedCamera:
    """Streams at once; each trigger takes the next of `frames`, a fresh one when there is none. Unasked it takes none but those."""

    clock: Clock
    state: CameraState = CameraState.STREAMING
    frames: deque[Frame | CameraError | None] = field(default_factory=deque)
    started: list[dict[str, Feature]] = field(default_factory=list)
    fired: int = 0
    simulated: bool = True
    refuses: str = ""

    def start(self, features: Mapping[str, Feature]) -> None:
        self.started.append(dict(features))
        if self.refuses and self.refuses in features:
            self.state = CameraState.ABSENT
        elif self.state is CameraState.ABSENT and self.refuses:
            self.state = CameraState.STREAMING

    def status(self) -> CameraStatus:
        return CameraStatus(self.state, "the cable is pulled" if self.state is not CameraState.STREAMING else "")

    def trigger(self) -> None:
        self.fired += 1

    def fetch(self, timeout_s: float) -> Frame | None:
        if not self.frames and timeout_s == 0:
            return None
        if not self.frames:
            return Frame(np.zeros((8, 8), np.uint8), "Mono8", self.fired, 0, self.clock())
        frame = self.frames.popleft()
        if isinstance(frame, CameraError):
            raise frame
        if frame is None:
            self.clock.now_ns += int(timeout_s * 1e9)
        return frame

    def stop(self) -> None:
        self.state = CameraState.ABSENT

    def close(self) -> None:
        self.stop()


@dataclass
class ScriptedPlc:
    """Says what the test writes into it; acknowledges at once unless told not to."""

    heartbeat: int = 0
    command: PlcCommand = field(default_factory=lambda: PlcCommand(0, 0, 0))
    trigger: Trigger = field(default_factory=lambda: Trigger(0))
    heard: list[StationSignals] = field(default_factory=list)
    broken: bool = False
    acknowledges: bool = True
    beats: bool = True
    tells: bool = True
    simulated: bool = True

    def exchange(self, signals: StationSignals) -> PlcInput:
        if self.broken:
            raise PlcError("port ttyX: no answer")
        self.heard.append(signals)
        self.heartbeat += self.beats
        acknowledged = signals.result.sequence if self.acknowledges else 0
        return PlcInput(self.heartbeat, self.command, acknowledged, (self.trigger,), self.tells)

    def close(self) -> None:
        self.broken = True

    @property
    def last(self) -> StationSignals:
        return self.heard[-1]


def recipe(number: int, **camera: Feature) -> Recipe:
    document = RecipeDocument(
        number=number,
        camera=camera,
        network=NetworkDocument(weights="w.safetensors", sha256="0" * 64),
        good=("good",),
        minimum_probability=0.9,
        deadline_ms=500,
        localization=LocalizationDocument(method="otsu"),
        self_test=tuple(SelfTestDocument.model_validate({"image": f"{name}.png", "class": name}) for name in ("good", "bad")),
    )
    return Recipe(f"product{number}", Path(), document, f"{number:064x}")


class ScriptedInspector:
    """Sees what it is told to see, after it is told to take that long."""

    def __init__(self, of: Recipe, clock: Clock) -> None:
        self.recipe = of
        self.sees = "good"
        self.takes_ns = 0
        self.raises: Exception | None = None
        self.engine = "scripted"
        self.warmed_ns: list[int] = []
        self._clock = clock

    def keep_warm(self) -> None:
        self.warmed_ns.append(self._clock.now_ns)
        if self.raises:
            raise self.raises

    def inspect(self, frame: Frame) -> Inspection:
        self._clock.now_ns += self.takes_ns
        if self.raises:
            raise self.raises
        index = 0 if self.sees == "good" else 1
        heat = np.zeros((8, 8), np.uint8)
        return Inspection(frame.frame_id, frame.captured_ns, self.recipe.hash, {self.sees: 0.99}, self.sees, index, 0.99, (), heat)


@dataclass
class Bench:
    """A line with everything around it."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    plc: ScriptedPlc = field(default_factory=ScriptedPlc)
    held: Future[Inspector] | None = None
    hold: bool = False
    settings: LineSettings = field(
        default_factory=lambda: LineSettings(frame_window_ns=100 * MS, acknowledge_ns=100 * MS, heartbeat_ns=1_500 * MS)
    )

    def __post_init__(self) -> None:
        self.camera = ScriptedCamera(self.clock)
        self.inspectors = {number: ScriptedInspector(recipe(number, Gain=float(number)), self.clock) for number in (1, 2)}
        self.ledger = Ledger(self.folder / "ledger.sqlite")
        self.wall_ns = 0
        self.line = self.a_line()

    def a_line(self) -> Line:
        return Line(
            camera=self.camera,
            plc=self.plc,
            ledger=self.ledger,
            prepare=self.prepare,
            settings=self.settings,
            clock=self.clock,
            wall_clock=self.wall,
        )

    def wall(self) -> int:
        self.wall_ns += 1
        return self.wall_ns

    def prepare(self, which: str | int) -> Future[Inspector]:
        future: Future[Inspector] = Future()
        if self.hold:
            self.held = future
        elif int(which) in self.inspectors:
            future.set_result(cast(Inspector, self.inspectors[int(which)]))
        else:
            future.set_exception(RecipeError(f"no recipe has number {which}"))
        return future

    def turn(self, times: int = 1, milliseconds: int = 5) -> list[Result]:
        results: list[Result] = []
        for _ in range(times):
            self.clock.now_ns += milliseconds * MS
            results += [result for result, _ in self.line.step()]
        return results

    def say(self, command: Command, argument: int = 0) -> None:
        self.plc.command = PlcCommand(command, argument, self.plc.command.sequence + 1)
        self.turn(4)

    def run(self, number: int = 1) -> None:
        self.turn(3)
        self.say(Command.PREPARE_RECIPE, number)
        self.say(Command.START_CONTINUOUS)
        assert self.line.state is State.CONTINUOUS_EXECUTION

    def part(self, sequence: int, part_id: str = "") -> Result:
        self.plc.trigger = Trigger(sequence, part_id)
        (result,) = self.turn(3)
        return result

    def audit(self) -> Any:
        return audit(self.folder / "ledger.sqlite", now_ns=self.wall())
