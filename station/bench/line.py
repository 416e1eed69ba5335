"""The station's own line, stage by stage: simulated camera under Harvesters, inspector, gate, ledger, publisher, Modbus RTU over a pty.

Composition root of `station bench`: the same `Line` as in `station run`, with a stopwatch around what stands at its ends. What is inside an
inspection is measured by its own functions on the frames that the line saw. Nothing in production code knows that it is measured.
"""

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import cv2
import numpy as np
import torch

from drivers.camera import Feature, Frame
from drivers.genicam import GenicamCamera
from drivers.isolated import IsolatedCamera
from drivers.modbus_rtu import ModbusRtuPlc
from drivers.plc import Command
from drivers.simulated.build import PRODUCER, build
from drivers.simulated.line import BatchSpec, LineSpec, SimulatedLine
from station import inspector
from station.bench import network, report, timing
from station.bench.engines import in_its_own_process
from station.bench.report import Shown
from station.bench.stopwatch import Stopwatch, Timed
from station.config import Home, StationConfig
from station.inspection import Result
from station.inspector import Inspector
from station.ledger import Ledger
from station.line import Line, LineSettings
from station.publisher import Publisher
from station.recipe import Recipe
from station.vision import weights
from station.vision.engine import grey
from station.vision.preprocess import preprocess, rgb_from_file
from station.vision.segment import Threshold, segment

MS = 1_000_000
WARM_UP_PARTS = 3
LOOKS = 15
"""So often is each piece of an inspection measured."""
CHANGEOVERS = 3
PATIENCE_NS = 60_000_000_000
PARTS_FOR_A_SLOPE = 1000
"""Of fewer parts the growth is noise, and nothing is wanted of it."""
NOT_TRUNK = (
    "camera: end of exposure to frame in hand",
    "inspection: demosaic, resize, normalise",
    "inspection: pooling, head, heat map",
    "inspection: segmentation of a defect",
    "judging and the rest of the turn",
    "ledger: row committed and synced",
    "ledger: everything else",
    "publisher: offered",
)
"""The stages whose medians together are everything that is not trunk. The wire's exchange, which waits for the PLC, stands beside them."""


class BenchError(Exception):
    """The line could not be measured; the message says why."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """A simulated camera at full size, and what everything but the trunks may take of a part."""

    serial: str
    width: int
    height: int
    pixel_format: str
    limit_ms: float

    @property
    def name(self) -> str:
        return f"{self.width} x {self.height} {self.pixel_format}"

    @property
    def features(self) -> dict[str, Feature]:
        """The whole sensor."""
        size: dict[str, Feature] = {"Width": self.width, "Height": self.height, "OffsetX": 0, "OffsetY": 0}
        return {"PixelFormat": self.pixel_format, **size, "ExposureTime": 1000.0}


SENSORS = (Sensor("SIM-MQ042", 2048, 2048, "BayerGB8", 25.0), Sensor("SIM-MER131", 1280, 1024, "Mono8", 10.0))


@dataclass
class Measured:
    """What a sensor's parts gave: milliseconds of each part by stage, resident memory after each, changeovers, the last frame."""

    stages_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    resident_mb: list[float] = field(default_factory=list)
    changeover_ms: list[float] = field(default_factory=list)
    frame: Frame | None = None


def bench(home: Home, config: StationConfig, found: Recipe, frames: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """COMMANDS.md's document for one recipe: its network against the peers, and under `line` this station's line with it.

    Args:
        frames: of the network's distribution, and parts on each simulated camera.

    Raises:
        RecipeError, EngineError, WeightsError, CameraError, LineError: as what runs here.
        BenchError: the line did not come to its end.
    """
    progress(f"the line with {found.name}, {frames} parts on each of {len(SENSORS)} simulated cameras")
    line = measure(home, config, found, frames)
    file = home.weights / found.document.network.weights
    library, device, precision = line["engine"].split("-")
    progress(f"the network of {found.name} against the peers")
    words = f"the network of recipe {found.name}, {file.name}; `make bench` measures the paper's full width"
    document: dict[str, Any] = in_its_own_process(network.measure, file, device, precision, frames, words, 1.0, library)
    return document | {"line": line}


def lines(document: Mapping[str, Any]) -> str:
    """What `bench` gives, for people."""
    return f"{report.network_lines(document)}\n\n{report.line_lines(document['line'])}"


def measure(home: Home, config: StationConfig, found: Recipe, parts: int) -> dict[str, Any]:
    """The line with one recipe on each simulated camera at full size; `report.line_lines` says it in words. See `bench`."""
    build()
    prepare_s: list[float] = []
    sensors: dict[str, Any] = {}
    shown: list[Shown] = []
    slopes: list[float] = []
    changeovers: list[float] = []
    for sensor in SENSORS:
        judges = [_prepare(home, config, one, prepare_s) for one in _at(found, sensor)]
        with _folder(home) as folder:
            measured = _run(sensor, folder, config, judges, parts)
        assert measured.frame is not None
        pieces = _pieces(home.weights / found.document.network.weights, measured.frame, judges[0].threshold)
        stages = {stage: median(times) for stage, times in measured.stages_ms.items()} | pieces
        not_trunk = sum(stages[stage] for stage in NOT_TRUNK)
        sensors[sensor.name] = {
            "parts": parts,
            "not_trunk_ms": round(not_trunk, 3),
            "not_trunk": NOT_TRUNK,
            "stages_ms": report.rounded(stages),
        }
        shown.append(Shown(f"everything but the trunks at {sensor.name}", not_trunk, "ms", at_most=sensor.limit_ms))
        slopes.append(slope_mb_per_1000(measured.resident_mb))
        changeovers += measured.changeover_ms
    shown += [
        Shown(f"memory's growth over {parts} parts", max(slopes), "MB/1000", at_most=1.0 if parts >= PARTS_FOR_A_SLOPE else None),
        Shown("changeover to a prepared recipe", median(changeovers), "ms", at_most=50.0),
        Shown("cold prepare: load, verify, warm, self-test", prepare_s[0], "s", at_most=10.0),
    ]
    return {
        "recipe": found.name,
        "engine": judges[0].engine,
        "shown": [one.document() for one in shown],
        "sensors": sensors,
        "memory_mb_per_1000": round(max(slopes), 3),
        "changeover_ms": round(median(changeovers), 3),
        "prepare_s": round(prepare_s[0], 3),
    }


def slope_mb_per_1000(resident_mb: list[float]) -> float:
    """How much memory grows in a thousand parts, by least squares; 0 of fewer than two."""
    if len(resident_mb) < 2:
        return 0.0
    return 1000 * float(np.polynomial.polynomial.polyfit(np.arange(len(resident_mb)), resident_mb, 1)[1])


def _at(found: Recipe, sensor: Sensor) -> list[Recipe]:
    """The recipe for the whole of that sensor, and the same under another number, to change over to."""
    own = found.document.model_copy(update={"camera": sensor.features})
    other = own.model_copy(update={"number": own.number % 65_535 + 1})
    return [replace(found, document=document) for document in (own, other)]


def _prepare(home: Home, config: StationConfig, found: Recipe, seconds: list[float]) -> Inspector:
    begun = time.perf_counter()
    judge = inspector.prepare(found, home.weights, home.engines, config.device)
    seconds.append(time.perf_counter() - begun)
    return judge


@contextmanager
def _folder(home: Home) -> Iterator[Path]:
    """On the disk that the station's own ledger is on."""
    home.ledger.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=home.ledger.parent) as folder:
        yield Path(folder)


def _run(sensor: Sensor, folder: Path, config: StationConfig, judges: Sequence[Inspector], parts: int) -> Measured:
    """The line with this sensor until so many parts and those of the warm-up are answered, and some changeovers after them."""
    watch = Stopwatch(time.monotonic_ns)
    found = judges[0].recipe
    pictures = _pictures(folder / "pictures", found, sensor)
    with ExitStack() as opened:
        far = SimulatedLine(_spec(folder, sensor, found, pictures, parts + WARM_UP_PARTS))
        opened.callback(far.close)
        publisher = _publisher(folder / "recordings")
        opened.callback(publisher.close)
        line = _line(sensor, folder, config, far, judges, watch)
        opened.callback(line.close)
        measured = _parts(line, publisher, watch, parts)
        for judge in [*reversed(judges)] * CHANGEOVERS:
            measured.changeover_ms.append(_changeover(line, judge.recipe.number, watch.clock))
    return measured


def _parts(line: Line, publisher: Publisher, watch: Stopwatch, parts: int) -> Measured:
    measured = Measured()
    answered = 0
    heard_ns = watch.clock()
    while answered < parts + WARM_UP_PARTS or not line.settled:
        watch.spent_ms()
        begun_ns = watch.clock()
        answers = line.step()
        turn_ms = (watch.clock() - begun_ns) / MS
        for result, frame in answers:
            watch.call("publisher", publisher.offer, result, frame)
            answered += 1
            heard_ns = watch.clock()
            if answered > WARM_UP_PARTS:
                _note(measured, result, frame, turn_ms, watch)
        if watch.clock() - heard_ns > PATIENCE_NS:
            raise BenchError(f"no part came for {PATIENCE_NS // 1_000_000_000} s: {'; '.join(line.causes.values()) or line.state.words}")
    return measured


def _note(measured: Measured, result: Result, frame: Frame | None, turn_ms: float, watch: Stopwatch) -> None:
    """One part's stages, as they stand after its turn."""
    if frame is None or result.inspection is None:
        raise BenchError(f"part {result.sequence} was not inspected: {result.detail}; is this machine busy with something else?")
    spent = watch.spent_ms()
    measured.frame = frame
    measured.resident_mb.append(_resident_mb())
    known = sum(spent.get(stage, 0.0) for stage in ("camera", "inspect", "row", "ledger", "exchange"))
    for stage, milliseconds in {
        "whole turn: trigger heard to PLC told": turn_ms,
        "camera: fired to frame in hand, exposure and simulation included": spent["camera"],
        "camera: end of exposure to frame in hand": (watch.ended_ns["camera"] - frame.captured_ns) / MS,
        "inspection": spent["inspect"],
        "ledger: row committed and synced": spent["row"],
        "ledger: everything else": spent.get("ledger", 0.0),
        "PLC: one exchange, its silences included": spent["exchange"],
        "judging and the rest of the turn": turn_ms - known,
        "publisher: offered": spent["publisher"],
    }.items():
        measured.stages_ms[stage].append(milliseconds)


def _changeover(line: Line, number: int, clock: Callable[[], int]) -> float:
    """Milliseconds from the command to a line that inspects by the other recipe, prepared before."""
    outcome: list[str] = []
    begun_ns = clock()
    line.command(Command.PREPARE_RECIPE, number, lambda _code, why: outcome.append(why))
    while not outcome:
        line.step()
    if outcome[0]:
        raise BenchError(f"recipe {number} was not prepared: {outcome[0]}")
    return (clock() - begun_ns) / MS


def _pieces(file: Path, frame: Frame, threshold: Threshold) -> dict[str, float]:
    """Milliseconds of what is inside an inspection, by its own functions; the network's on torch in fp32, whatever the recipe's engine."""
    built = weights.load(file).network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = preprocess(frame.pixels, frame.pixel_format, built.description)
    size = (frame.pixels.shape[1], frame.pixels.shape[0])
    with torch.inference_mode():
        f_a, f_b = built.features(x)
        heat_map = grey(built.see(f_a, f_b)[1][0].numpy())

        def head() -> None:
            logits, heat = built.see(f_a, f_b)
            logits[0].softmax(dim=0).numpy()
            grey(heat[0].numpy())

        works: dict[str, Callable[[], object]] = {
            "inspection: demosaic, resize, normalise": lambda: preprocess(frame.pixels, frame.pixel_format, built.description),
            "inspection: trunks and 1x1 convolutions, torch fp32": lambda: built.features(x),
            "inspection: pooling, head, heat map": head,
            "inspection: segmentation of a defect": lambda: segment(heat_map, size, threshold),
        }
        timing.interleaved([*works.items()], 1)
        times = timing.interleaved([*works.items()], LOOKS)
    return {stage: 1e3 * median(seconds) for stage, seconds in times.items()}


def _pictures(folder: Path, found: Recipe, sensor: Sensor) -> Path:
    """The recipe's self-test pictures, drawn out over the whole sensor: a folder a class, as a simulated line takes them."""
    for test in found.document.self_test:
        rgb = cv2.resize(rgb_from_file(found.folder / test.image), (sensor.width, sensor.height))
        (folder / test.class_name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / test.class_name / f"{Path(test.image).stem}.bmp"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return folder


def _spec(folder: Path, sensor: Sensor, found: Recipe, pictures: Path, parts: int) -> LineSpec:
    return LineSpec(
        port=folder / "simulated" / "plc",
        directory=folder / "simulated",
        serial=sensor.serial,
        batches=(BatchSpec(found.number, str(pictures), parts, found.document.good),),
        deadline_ms=found.document.deadline_ms,
        part_timeout_s=60.0,
        interval_s=0.0,
        shuffle=False,
    )


def _line(sensor: Sensor, folder: Path, config: StationConfig, far: SimulatedLine, judges: Sequence[Inspector], watch: Stopwatch) -> Line:
    """The real line, timed at its ends. Its PLC is the simulated one, whatever the station's own is."""
    timed = {judge.recipe.number: Timed(judge, watch, {"inspect": "inspect"}) for judge in judges}

    def prepared(which: str | int) -> "Future[Inspector]":
        future: Future[Inspector] = Future()
        future.set_result(cast(Inspector, timed[int(which)]))
        return future

    camera = IsolatedCamera(partial(_camera, folder / "simulated", sensor.serial), simulated=True)
    plc = ModbusRtuPlc(str(far.port), baudrate=config.plc.baudrate or 19_200, timeout_s=1.0, simulated=True)
    kept = {"append": "row", "acknowledge": "ledger", "writable": "ledger", "note": "ledger"}
    return Line(
        camera=cast(IsolatedCamera, Timed(camera, watch, {"trigger": "camera", "fetch": "camera"})),
        plc=cast(ModbusRtuPlc, Timed(plc, watch, {"exchange": "exchange"})),
        ledger=cast(Ledger, Timed(Ledger(folder / "ledger.sqlite"), watch, kept)),
        prepare=prepared,
        settings=LineSettings(frame_window_ns=2_000 * MS, acknowledge_ns=2_000 * MS, heartbeat_ns=0),
        clock=watch.clock,
        wall_clock=time.time_ns,
    )


def _camera(directory: Path, serial: str) -> GenicamCamera:
    """In the camera's own process."""
    os.environ["STATION_SIMULATED_DIR"] = str(directory)
    return GenicamCamera((PRODUCER,), serial, simulated=True)


def _publisher(folder: Path) -> Publisher:
    return Publisher(folder, dict, keep="all", pictures=8, file_bytes=1_000_000_000, max_bytes=1_000_000_000, free_bytes=100_000_000)


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
