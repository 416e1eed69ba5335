"""`station.yaml`: this machine. What is true of a product belongs in its recipe; what is true of this place stands here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from station.document import DocumentError, Model, read

SIMULATED = "simulated"
"""Said in place of a producer's path or a serial port's: the simulator that comes with the drivers."""


@dataclass(frozen=True)
class Home:
    """A folder with station.yaml, recipes/, weights/ and data/: everything of one station."""

    folder: Path

    @property
    def recipes(self) -> Path:
        return self.folder / "recipes"

    @property
    def weights(self) -> Path:
        return self.folder / "weights"

    @property
    def ledger(self) -> Path:
        return self.folder / "data" / "ledger.sqlite"

    @property
    def recordings(self) -> Path:
        return self.folder / "data" / "recordings"

    @property
    def socket(self) -> Path:
        return self.folder / "data" / "control.sock"

    @property
    def simulated(self) -> Path:
        return self.folder / "data" / "simulated"

    @property
    def engines(self) -> Path:
        return self.folder / "data" / "engines"

    @property
    def references(self) -> Path:
        return self.folder / "data" / "references"

    @property
    def lock(self) -> Path:
        return self.folder / "data" / "lock"


class CameraConfig(Model):
    """Which camera, and how long a part waits for its frame."""

    producers: tuple[str, ...] = Field(min_length=1)
    """Paths of the vendors' GenTL producers (`.cti`), `auto` for those that are installed, or `simulated`."""
    serial_number: str = ""
    """Empty takes the only camera there is."""
    trigger_source: str | None = None
    """SFNC TriggerSource where a sensor fires the camera, by default Line0; empty lets the camera run freely, the default of `free`."""
    user_set: str = ""
    """SFNC UserSetSelector: a set in the camera's memory that is loaded before the recipe's features are written, such as Default."""
    frame_window_ms: int = Field(default=500, ge=1, le=2_000)
    """So long may a trigger wait for its camera, and then again for its frame; later is FAIL / missed frame."""


class PlcConfig(Model):
    """The wire, version 1, and what is watched on it."""

    link: Literal["modbus-rtu", "ascii"] = "modbus-rtu"
    port: str
    """`/dev/serial/by-id/...`, or `simulated`."""
    unit: int = Field(default=1, ge=1, le=247)
    baudrate: int | None = Field(default=None, ge=1_200, le=921_600)
    """By default 19200 with Modbus RTU, 115200 with ASCII lines."""
    parity: Literal["N", "E", "O"] | None = None
    """By default E with Modbus RTU, N with ASCII lines."""
    base: int = Field(default=0, ge=0, le=65_000)
    timeout_ms: int = Field(default=150, ge=10, le=250)
    """How long the PLC may take for one telegram. The loop waits so long, twice in a turn; one lost answer must not cut the wire."""
    acknowledge_ms: int = Field(default=100, ge=10, le=10_000)
    """How long the PLC may take to acknowledge a result before it is sent again, three times."""
    heartbeat_ms: int = Field(default=1_500, ge=0, le=60_000)
    """How long the PLC's heartbeat may stand still while the line runs; 0 does not watch it."""
    count_delay_ms: int = Field(default=50, ge=0, le=1_000)
    """With `trigger: hardware`: by how much later than the exposure the PLC's count can be read; its scan time, and its polling period."""
    role: Literal["client", "server"] = "client"
    """Modbus RTU: the client polls the PLC, the server is polled by it."""
    fc23: bool = False
    """Modbus RTU client: one telegram that writes and reads, for a PLC that knows function 23."""
    rs485: bool = False
    """The driver of a half-duplex RS-485 port switches direction by RTS; refused where the port's driver cannot."""
    lines_port: str = ""
    """A serial port whose RTS says PASS and whose DTR says READY, by its /dev/serial/by-id path; empty without discrete lines."""
    valid_ms: int = Field(default=50, ge=5, le=1_000)
    """How long RTS stands for a part that passed."""


class RecordingConfig(Model):
    """What is kept of the pictures."""

    keep: Literal["all", "failed", "none"] = "failed"
    max_gb: float = Field(default=20.0, gt=0)
    """The oldest recordings go beyond this."""


class BatchConfig(Model):
    """What the simulated line makes before it asks for another recipe."""

    recipe: int = Field(ge=1, le=65_535)
    pictures: str
    """`bulb` or `iron` for parts made on the fly, or a folder with a folder of pictures a class."""
    good: tuple[str, ...] = ("good",)
    """Which classes of a folder are good."""
    parts: int = Field(ge=1)


class SimulationConfig(Model):
    """The simulated line: its parts and its pace."""

    batches: tuple[BatchConfig, ...] = Field(min_length=1)
    defective: float = Field(default=0.08, ge=0, le=1)
    noise: int = Field(default=2, ge=0, le=50)
    """Amplitude of the simulated sensor's noise, grey levels."""
    interval_ms: int = Field(default=50, ge=0)
    """Between an answer and the next trigger."""
    seed: int = 1


class StationConfig(Model):
    """The whole of `station.yaml`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    camera: CameraConfig
    plc: PlcConfig
    trigger: Literal["plc", "hardware", "free"] = "plc"
    """Who counts the parts: the PLC, which asks for each; the PLC, while a sensor fires the camera; or nobody (PLC.md, rule 10)."""
    rejects_in_a_row: int = Field(default=0, ge=0, le=65_535)
    """After so many parts in a row without PASS the station goes to Error and asks for a line stop; 0 never does."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    prepare: str = ""
    """A recipe to prepare at start; empty leaves it to the PLC or the operator."""
    resume: Literal["command", "automatic"] = "command"
    """After an error's cause is gone: wait for StartContinuous, or go on by itself."""
    recording: RecordingConfig = RecordingConfig()
    simulation: SimulationConfig | None = None

    @model_validator(mode="after")
    def _keys_go_together(self) -> "StationConfig":
        if self.camera.trigger_source is not None and self.trigger == "plc":
            raise ValueError("camera.trigger_source stands with trigger: hardware or free; with plc it is Software: remove it")
        if self.camera.trigger_source == "" and self.trigger == "hardware":
            raise ValueError("camera.trigger_source: a freely running camera cannot be counted; name the input, such as Line0, or use free")
        server = self.plc.role == "server"
        if self.plc.link == "ascii" and (server or self.plc.fc23):
            raise ValueError("plc.role and plc.fc23 are Modbus RTU's; remove them, or use link: modbus-rtu")
        if self.plc.link == "ascii" and self.plc.rs485:
            raise ValueError("plc.rs485 is Modbus RTU's: in ASCII lines both ends speak at any time, on a full-duplex port; remove it")
        if self.simulation and self.plc.port == SIMULATED and self.trigger == "free" and not self.camera.trigger_source:
            raise ValueError("the simulated line fires its camera by a sensor: with trigger: free add camera.trigger_source: Line0")
        if server and self.plc.fc23:
            raise ValueError("plc.fc23 is the client's; a server answers function 23 whenever the PLC asks with it: remove it")
        return self

    @model_validator(mode="after")
    def _a_simulated_plc_makes_something(self) -> "StationConfig":
        if self.plc.port == SIMULATED and self.simulation is None:
            raise ValueError("plc.port is simulated, so say what the simulated line makes: add the section simulation with its batches")
        return self


def load(home: Home) -> StationConfig:
    """The configuration of the home folder `home`.

    Raises:
        DocumentError: the file is missing or wrong; the message says where and what to write.
    """
    path = home.folder / "station.yaml"
    if not path.is_file():
        raise DocumentError(
            f"{path}: not there; a home folder holds station.yaml, recipes/ and weights/: name it with --home or STATION_HOME"
        )
    return read(path, StationConfig)
