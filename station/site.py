"""What stands at this site: the camera, the PLC and, where it is configured, the simulated line that station.yaml names.

The one module that names concrete drivers (`bench` measures them too). The camera's process imports it: nothing here may import PyTorch,
which would take two of the seconds in which a lost camera is back.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import cycle, islice

from drivers import discovery
from drivers.ascii_line import AsciiLinePlc
from drivers.camera import Camera, Feature
from drivers.discrete_lines import DiscreteLines
from drivers.genicam import GenicamCamera
from drivers.isolated import IsolatedCamera
from drivers.modbus_rtu import ModbusRtuPlc
from drivers.modbus_server import ModbusServerPlc
from drivers.plc import Plc
from drivers.simulated.line import BatchSpec, LineError, LineSpec, SimulatedLine
from station import recipe
from station.config import SIMULATED, BatchConfig, Home, StationConfig

_TURN_S = 0.005
"""So long a turn waits for the first byte where nothing else paces it."""
_ENDLESS = 1_000_000

__all__ = ["LineError", "StationError", "camera", "only_one", "only_plc", "plc", "simulated_line", "suggest_features", "with_recipe"]


class StationError(Exception):
    """The station cannot run in this home; the message says why and what to do."""


@contextmanager
def only_one(home: Home) -> Iterator[None]:
    """Within it this process alone has `home`; its end, whatever it is, gives the home back.

    Raises:
        StationError: a station runs in this home.
    """
    home.lock.parent.mkdir(parents=True, exist_ok=True)
    with home.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StationError(f"{home.lock}: another station runs in this home; stop it first, or give this one its own --home") from None
        yield


def camera(home: Home, config: StationConfig) -> Camera:
    """The configured camera, in a process of its own that `start` begins."""
    make = partial(_genicam, home, config)
    return IsolatedCamera(make, simulated=SIMULATED in config.camera.producers)


def _genicam(home: Home, config: StationConfig) -> GenicamCamera:
    simulated = SIMULATED in config.camera.producers
    if simulated:
        home.simulated.mkdir(parents=True, exist_ok=True)
        os.environ["STATION_SIMULATED_DIR"] = str(home.simulated)
    producers = discovery.producers(config.camera.producers, home.folder, os.environ)
    return GenicamCamera(producers, config.camera.serial_number, user_set=config.camera.user_set, simulated=simulated)


def with_recipe(home: Home, config: StationConfig, name: str, pictures: str | None) -> StationConfig:
    """The configuration that prepares this recipe at the start; a simulated line makes nothing but parts for it.

    Args:
        pictures: what the simulated line shows, see `BatchConfig`; by default what it shows for this recipe's number.

    Raises:
        RecipeError: there is no such recipe.
        StationError: the simulated line has no pictures for it.
    """
    found = recipe.find(home.recipes, name)
    if config.simulation is None:
        return config.model_copy(update={"prepare": found.name})
    known = [batch.pictures for batch in config.simulation.batches if batch.recipe == found.number]
    if not (pictures or known):
        raise StationError(
            f"recipe {name}: the simulated line makes no parts for it; add --pictures: bulb, iron, or a folder of pictures a class"
        )
    batch = BatchConfig(recipe=found.number, pictures=pictures or known[0], good=found.document.good, parts=_ENDLESS)
    simulation = config.simulation.model_copy(update={"batches": (batch,)})
    return config.model_copy(update={"prepare": found.name, "simulation": simulation})


def suggest_features(home: Home, config: StationConfig, width: int, height: int, colour: bool) -> dict[str, Feature]:
    """The camera features of a new recipe for parts that fill (width, height) px in the middle of the sensor.

    Raises:
        CameraError: no camera answers; one that inspects is not disturbed.
    """
    with closing(_genicam(home, config)) as camera:
        return camera.suggest(width, height, colour)


def plc(config: StationConfig, simulated: SimulatedLine | None) -> Plc:
    """The configured wire, at whose far end `simulated` is if there is one.

    Raises:
        PlcError: the port cannot be used at all.
    """
    dialect = _dialect(config, simulated)
    if not config.plc.lines_port:
        return dialect
    return DiscreteLines(dialect, config.plc.lines_port, valid_ns=config.plc.valid_ms * 1_000_000)


@contextmanager
def only_plc(home: Home, config: StationConfig) -> Iterator[Plc]:
    """The configured wire alone, for a test while no station runs in `home`.

    Raises:
        StationError: a station runs in this home.
        LineError: the simulated line cannot run.
    """
    with ExitStack() as opened:
        opened.enter_context(only_one(home))
        simulated = simulated_line(home, config, 1)
        if simulated:
            opened.callback(simulated.close)
        wire = plc(config, simulated)
        opened.callback(wire.close)
        yield wire


def _dialect(config: StationConfig, simulated: SimulatedLine | None) -> Plc:
    plc = config.plc
    port = str(simulated.port) if simulated else plc.port
    if plc.link == "ascii":
        return AsciiLinePlc(
            port,
            baudrate=plc.baudrate or 115_200,
            parity=plc.parity or "N",
            timeout_s=plc.timeout_ms / 1e3,
            acknowledge_s=plc.acknowledge_ms / 1e3,
            turn_s=_TURN_S,
            simulated=simulated is not None,
        )
    if plc.role == "server":
        return ModbusServerPlc(
            port,
            unit=plc.unit,
            baudrate=plc.baudrate or 19_200,
            parity=plc.parity or "E",
            base=plc.base,
            rs485=plc.rs485,
            timeout_s=plc.timeout_ms / 1e3,
            turn_s=_TURN_S,
            simulated=simulated is not None,
        )
    return ModbusRtuPlc(
        port,
        unit=plc.unit,
        fc23=plc.fc23,
        rs485=plc.rs485,
        baudrate=plc.baudrate or 19_200,
        parity=plc.parity or "E",
        base=plc.base,
        timeout_s=plc.timeout_ms / 1e3,
        simulated=simulated is not None,
    )


def simulated_line(home: Home, config: StationConfig, parts: int | None) -> SimulatedLine | None:
    """The PLC and the conveyor for so many parts, None for no end; None where a real PLC is configured."""
    simulation = config.simulation
    if config.plc.port != SIMULATED or simulation is None:
        return None
    known, _ = recipe.load_all(home.recipes)
    deadline_ms = max((found.document.deadline_ms for found in known.values()), default=1000)
    spec = LineSpec(
        port=home.simulated / "plc",
        directory=home.simulated,
        serial=config.camera.serial_number,
        batches=tuple(_batches(home, config, parts or _ENDLESS)),
        defective=simulation.defective,
        noise=simulation.noise,
        seed=simulation.seed,
        interval_s=simulation.interval_ms / 1e3,
        link="modbus-rtu-server" if config.plc.role == "server" else config.plc.link,
        counting=config.trigger,
        deadline_ms=deadline_ms,
        part_timeout_s=(deadline_ms + config.camera.frame_window_ms) / 1e3 + 1,
    )
    return SimulatedLine(spec)


def _batches(home: Home, config: StationConfig, parts: int) -> Iterable[BatchSpec]:
    """The configured batches over and over, until they make `parts` parts."""
    assert config.simulation is not None
    left = parts
    for batch in islice(cycle(config.simulation.batches), 10_000):
        if left <= 0:
            return
        pictures = batch.pictures if batch.pictures in ("bulb", "iron") else str(home.folder / batch.pictures)
        yield BatchSpec(batch.recipe, pictures, min(batch.parts, left), batch.good)
        left -= batch.parts
