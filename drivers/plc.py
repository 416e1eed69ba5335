"""What the station sees of a PLC: the signals of the wire, version 1, and `Plc`, which carries them.

The signals and their numbers are the same in every dialect. `docs/plc.md` is the page for whoever programs the other end.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

WIRE_VERSION = 1
PASS_WORD = 0x5AA5
FAIL_WORD = 0x0000
LAST_SEQUENCE = 65535
"""Sequences run 1..65535 and then 1 again; 0 says that there is none yet."""


class PlcError(Exception):
    """The wire to the PLC does not work; the message says which port, what failed and what to do."""


class Command(IntEnum):
    """What a PLC can command, by its number on the wire."""

    NONE = 0
    PREPARE_RECIPE = 1
    UNPREPARE_RECIPE = 2
    START_CONTINUOUS = 3
    STOP = 4
    RESET = 5
    HALT = 6


class CommandStatus(IntEnum):
    """How far the last command got, by its number on the wire."""

    IDLE = 0
    EXECUTING = 1
    DONE = 2
    FAILED = 3


class ErrorCode(IntEnum):
    """Why the station is in state Error (below 20), or why the last command failed, by its number on the wire."""

    NONE = 0
    CAMERA = 1
    WIRE = 2
    PLC_HEARTBEAT = 3
    NOT_ACKNOWLEDGED = 4
    PLC_RESTARTED = 5
    LEDGER = 6
    INSPECTION = 7
    COUNT = 8
    """Frames and the PLC's counts do not belong together (PLC.md, rule 10)."""
    REJECTS = 9
    """So many parts in a row were not answered PASS that the line should be stopped."""
    COMMAND_NOT_ALLOWED = 20
    RECIPE_REFUSED = 21
    COMMAND_UNKNOWN = 22
    COMMAND_SUPERSEDED = 23


@dataclass(frozen=True, slots=True)
class PlcCommand:
    """A command as the PLC wrote it. `sequence` tells one command from the next; `code` is 0 between commands and may be unknown."""

    code: int
    argument: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Trigger:
    """The PLC asks for (or, hardware triggered, announces) one inspection. `sequence` 1..65535; `part_id` up to 16 ASCII characters."""

    sequence: int
    part_id: str = ""


@dataclass(frozen=True, slots=True)
class PlcInput:
    """What the PLC said in one exchange.

    Attributes:
        heartbeat: the PLC's own counter, 0..65535.
        command: what stands in its command words.
        acknowledged: the sequence of the last result it took; 0 when none.
        triggers: the triggers standing or received, oldest first. A register dialect repeats the standing one in every exchange, with
            sequence 0 for none; whoever counts parts tells new from known.
        told: the PLC has the signals of this exchange; False where it polls, and has not read since they stand.
    """

    heartbeat: int
    command: PlcCommand
    acknowledged: int
    triggers: tuple[Trigger, ...]
    told: bool = True


@dataclass(frozen=True, slots=True)
class PlcResult:
    """The answer to one part. All numbers are clipped to what the wire can say; boxes are (x, y, width, height) in camera pixels."""

    sequence: int
    passed: bool
    reason: int
    class_index: int
    probability: float
    defects: int
    defect_area_px: int
    largest_defect_px: tuple[int, int, int, int]
    elapsed_ms: int
    recipe_number: int
    recipe_checksum: int
    judged_ns: int = 0
    """When it was judged, on the monotonic clock; said in no dialect, but a discrete PASS is not begun long after it."""


NO_RESULT = PlcResult(0, False, 0, 0, 0.0, 0, 0, (0, 0, 0, 0), 0, 0, 0)


@dataclass(frozen=True, slots=True)
class StationSignals:
    """Everything the station tells the PLC in one exchange. States are OPC 40100-1's numbers."""

    state: int
    heartbeat: int
    recipe_number: int
    recipe_checksum: int
    result: PlcResult
    command_echo: int
    command_status: CommandStatus
    error_code: int
    failed_parts: int


class Plc(Protocol):
    """The wire to one PLC. All calls come from one thread."""

    simulated: bool
    """True when the far end is no real PLC."""

    def exchange(self, signals: StationSignals) -> PlcInput:
        """One turn of the wire: tells the PLC all signals as one consistent block and returns what it says.

        Returns or raises within the link's configured timeout; after an error the next call starts from a clean line.

        Raises:
            PlcError: the port is gone, or the PLC did not answer, or answered something that is not this wire.
        """

    def close(self) -> None:
        """Leaves the far end at reject as far as it can still be reached, and gives the port back. Never raises."""


def crc16_modbus(data: bytes) -> int:
    """CRC-16/MODBUS of `data` (polynomial 0x8005 reflected, initial value 0xFFFF); 0x4B37 for `b"123456789"`."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc
