"""The lines of the ASCII dialect, wire version 1: framing, checksum, what a PLC may say and what the station says. No I/O, no state but
the line that has begun.

A line is `BODY*HH` CR: fields separated by commas, HH the XOR of all BODY characters in two upper-case hex digits. LF is ignored, and so
is an empty line. A line that cannot be taken changes nothing and is answered with one word that says why:

    NAK,CHK   the checksum is wrong, missing or in lower case, or the line has more than 64 characters
    NAK,CMD   the first field is none of RCP RUN STP RST HLT UNP TRG TAK STS HBT, in upper case
    NAK,ARG   a field is missing, too much, or cannot be that; or its sequence already belongs to another part or command
    NAK,BSY   eight commands wait already

A `NAK` is never answered, so that two ends cannot complain to each other for ever.
"""

import re
from dataclasses import dataclass
from typing import Literal

from drivers.plc import Command, CommandStatus, PlcCommand, PlcResult, StationSignals, Trigger
from drivers.wire_words import clipped, exact, ten_thousandths

LONGEST_LINE = 64
"""Characters without CR. The longest line of the wire has 55."""
VERBS = {
    "RCP": Command.PREPARE_RECIPE,
    "UNP": Command.UNPREPARE_RECIPE,
    "RUN": Command.START_CONTINUOUS,
    "STP": Command.STOP,
    "RST": Command.RESET,
    "HLT": Command.HALT,
}
_NUMBER = re.compile("[0-9]{1,5}")
_PART_ID = re.compile("[ -)+./0-9:-_-]{0,16}")
"""Printable upper-case ASCII but the comma and the asterisk, as many characters as the registers of the other dialect hold."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """A command line: `RCP,recipe,sequence`, or another verb with its sequence (1..65535)."""

    verb: str
    command: PlcCommand


@dataclass(frozen=True, slots=True)
class Taken:
    """`TAK,sequence`: the PLC has the result of that part (1..65535)."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Beat:
    """`HBT,count`: the PLC's own heartbeat."""

    count: int


@dataclass(frozen=True, slots=True)
class StatusWanted:
    """`STS`."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that cannot be taken; see the module."""

    word: Literal["CHK", "CMD", "ARG", "BSY"]


Said = Ordered | Trigger | Taken | Beat | StatusWanted
"""What a PLC may say. `TRG,sequence` with or without a part id is a `Trigger`; with sequence 0 a new numbering begins."""


class LineBuffer:
    """Cuts a stream of bytes into lines, however it comes in pieces. Keeps 65 bytes at most of a line that has not ended."""

    def __init__(self) -> None:
        self._begun = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that end in `data`, without CR; one that is too long comes cut, but never shorter than 65 bytes."""
        *lines, begun = (self._begun + data.replace(b"\n", b"")).split(b"\r")
        self._begun = begun[: LONGEST_LINE + 1]
        return [line for line in lines if line]

    def clear(self) -> None:
        """Forgets the line that has begun."""
        self._begun = b""


def checksum(body: bytes) -> int:
    """The XOR of all bytes of `body`, as NMEA 0183 has it."""
    value = 0
    for byte in body:
        value ^= byte
    return value


def parse(line: bytes) -> Said | Refused | None:
    """What a line without its CR says; any bytes are bearable. None for a `NAK`, which asks for no answer."""
    body = line[:-3]
    if len(line) > LONGEST_LINE or line[-3:] != b"*%02X" % checksum(body):
        return Refused("CHK")
    verb, *fields = body.decode("latin-1").split(",")
    if verb == "NAK":
        return None
    if verb not in VERBS and verb not in ("TRG", "TAK", "STS", "HBT"):
        return Refused("CMD")
    try:
        return _said(verb, fields)
    except ValueError:
        return Refused("ARG")


def _said(verb: str, fields: list[str]) -> Said:
    match [verb, *fields]:
        case ["TRG", sequence]:
            return Trigger(_number(sequence))
        case ["TRG", sequence, part_id] if _PART_ID.fullmatch(part_id):
            return Trigger(_number(sequence), part_id)
        case ["TAK", sequence]:
            return Taken(_number(sequence, smallest=1))
        case ["HBT", count]:
            return Beat(_number(count))
        case ["STS"]:
            return StatusWanted()
        case ["RCP", recipe, sequence]:
            return Ordered(verb, PlcCommand(VERBS[verb], _number(recipe), _number(sequence, smallest=1)))
        case ["RUN" | "STP" | "RST" | "HLT" | "UNP", sequence]:
            return Ordered(verb, PlcCommand(VERBS[verb], 0, _number(sequence, smallest=1)))
    raise ValueError(fields)


def _number(text: str, smallest: int = 0) -> int:
    if not _NUMBER.fullmatch(text) or not smallest <= int(text) <= 0xFFFF:
        raise ValueError(text)
    return int(text)


def line(*fields: object) -> bytes:
    """A whole line of these fields, with checksum and CR."""
    body = ",".join(map(str, fields)).encode("ascii")
    return b"%b*%02X\r" % (body, checksum(body))


def refusal_line(refused: Refused) -> bytes:
    """`NAK` and why."""
    return line("NAK", refused.word)


def acknowledge_line(ordered: Ordered) -> bytes:
    """`ACK`: the command was understood; how it ends is said later."""
    return line("ACK", ordered.verb, ordered.command.sequence)


def outcome_line(ordered: Ordered, signals: StationSignals) -> bytes:
    """How a command ended: `DON` with the recipe that is prepared now and its checksum, or `ERR` with the error code.

    Raises:
        ValueError: as `status_line`.
    """
    if signals.command_status is not CommandStatus.DONE:
        return error_line(ordered, signals.error_code)
    number = exact("recipe number", signals.recipe_number)
    return line("DON", ordered.verb, ordered.command.sequence, number, f"{exact('recipe checksum', signals.recipe_checksum):04X}")


def error_line(ordered: Ordered, code: int) -> bytes:
    """`ERR`: the command was not done, and why."""
    return line("ERR", ordered.verb, ordered.command.sequence, clipped(code))


def heartbeat_line(signals: StationSignals) -> bytes:
    """`HBT` with the station's heartbeat, which wraps."""
    return line("HBT", signals.heartbeat % 0x10000)


def status_line(signals: StationSignals) -> bytes:
    """`STS`: state, error, recipe prepared, its checksum, sequence of the last result, heartbeat.

    Raises:
        ValueError: a state, sequence, recipe number or checksum is not 0..65535. Clipped, it would name something else.
    """
    return line(
        "STS",
        exact("state", signals.state),
        clipped(signals.error_code),
        exact("recipe number", signals.recipe_number),
        f"{exact('recipe checksum', signals.recipe_checksum):04X}",
        f"{exact('result sequence', signals.result.sequence):05}",
        f"HB{signals.heartbeat % 0x10000}",
    )


def result_line(result: PlcResult) -> bytes:
    """`RES`: sequence, P or F, reason, class, probability x 10000, defects, recipe that judged, its checksum, ms from trigger to answer.

    P only if `passed` is the very `True`. Measures are clipped; a probability that is no number is 0. The area of the defects and the
    box of the largest have no place in the line.

    Raises:
        ValueError: as `status_line`.
    """
    return line(
        "RES",
        f"{exact('result sequence', result.sequence):05}",
        "P" if result.passed is True else "F",
        exact("reason", result.reason),
        clipped(result.class_index),
        f"{ten_thousandths(result.probability):05}",
        clipped(result.defects),
        exact("recipe number of the result", result.recipe_number),
        f"{exact('recipe checksum of the result', result.recipe_checksum):04X}",
        f"{clipped(result.elapsed_ms):04}",
    )
