"""`station plc watch`: what stands on the wire, in plain words, as the running station knows it.

A serial port belongs to one program, so the wire itself cannot be listened to beside the station. The station is asked instead, many times
a second, through its control socket; that takes nothing from its turn. What stood for less than a look is not seen.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from drivers.plc import Command, CommandStatus, ErrorCode
from station.control import ControlError

Says = Literal["station", "PLC", "wire"]
LOOK_S = 0.05
BEATS_WITHIN_S = 1.5
"""A heartbeat that was not seen to move for longer stands still."""
STATES: dict[int, str] = {
    1: "Preoperational: starting, or reset",
    2: "Halted: safe to power down",
    3: "Error",
    5: "Initialized: no recipe is ready",
    6: "Ready: waits for StartContinuous",
    7: "SingleExecution",
    8: "ContinuousExecution: inspects what is triggered",
}
REASONS = ("none", "good", "defect", "uncertain", "late", "missed frame", "inspection error", "not running", "wrong recipe")
COMMANDS: dict[int, str] = {
    Command.NONE: "no command",
    Command.PREPARE_RECIPE: "PrepareRecipe",
    Command.UNPREPARE_RECIPE: "UnprepareRecipe",
    Command.START_CONTINUOUS: "StartContinuous",
    Command.STOP: "Stop",
    Command.RESET: "Reset",
    Command.HALT: "Halt",
}
ERRORS: dict[int, str] = {
    ErrorCode.NONE: "no error",
    ErrorCode.CAMERA: "the camera is not there, was lost, or does not take the recipe's features",
    ErrorCode.WIRE: "the wire was cut or silent",
    ErrorCode.PLC_HEARTBEAT: "the PLC's heartbeat stood still while the line ran",
    ErrorCode.NOT_ACKNOWLEDGED: "the PLC did not acknowledge a result",
    ErrorCode.PLC_RESTARTED: "the PLC's numbers fell while the line ran, or it was restarted",
    ErrorCode.LEDGER: "the ledger cannot be written",
    ErrorCode.INSPECTION: "the network failed on its device",
    ErrorCode.COUNT: "frames and the PLC's counts do not belong together",
    ErrorCode.REJECTS: "too many parts in a row were not answered PASS: stop the line",
    ErrorCode.COMMAND_NOT_ALLOWED: "the command is not allowed in this state",
    ErrorCode.RECIPE_REFUSED: "the recipe was refused",
    ErrorCode.COMMAND_UNKNOWN: "there is no such command",
    ErrorCode.COMMAND_SUPERSEDED: "another command came before this one was done",
}


@dataclass(frozen=True, slots=True)
class Change:
    """Something on the wire that is another than before.

    Attributes:
        says: who put it there.
        where: the registers, or the line's word in the other dialect.
        words: what it is and means, for a person.
    """

    says: Says
    where: str
    words: str


def _as_is(value: int) -> str:
    return str(value)


def _or_none(value: int) -> str:
    return str(value) if value else "none"


def _named(names: Mapping[int, str]) -> Callable[[int], str]:
    return lambda value: f"{value}, {names.get(value, 'which the wire does not know')}"


def _recipe(value: list[int]) -> str:
    return f"{value[0]}, checksum 0x{value[1]:04X}" if value[0] else "none"


def _result(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "none: nothing stands, the part is a reject"
    x, y, width, height = value["largest_defect_px"]
    reason = REASONS[value["reason"]] if value["reason"] < len(REASONS) else str(value["reason"])
    defects = f", {value['defects']} defects, the largest {width} x {height} px at {x},{y}" if value["defects"] else ""
    return (
        f"part {value['sequence']} {'PASS' if value['passed'] is True else 'FAIL'}, {reason}; class {value['class_index']} "
        f"at {value['probability']:.4f}{defects}; recipe {value['recipe_number']}, checksum 0x{value['recipe_checksum']:04X}; "
        f"{value['elapsed_ms']} ms"
    )


def _trigger(value: Mapping[str, Any]) -> str:
    part_id = f", part id {value['part_id']}" if value["part_id"] else ""
    return f"part {value['sequence']}{part_id}" if value["sequence"] else "none: the numbering begins"


def _command(value: Mapping[str, Any]) -> str:
    name = COMMANDS.get(value["code"], "which the wire does not know")
    argument = f"({value['argument']})" if value["code"] == Command.PREPARE_RECIPE else ""
    return f"{value['code']}, {name}{argument}, sequence {value['sequence']}"


_STATUSES: dict[int, str] = {
    CommandStatus.IDLE: "idle",
    CommandStatus.EXECUTING: "executing",
    CommandStatus.DONE: "done",
    CommandStatus.FAILED: "failed",
}
_Row = tuple[str, str, str, str, Callable[[Any], str]]
"""Key of the reading, registers, word of the lines, name, and what a value means."""
_STATION: tuple[_Row, ...] = (
    ("state", "1", "STS", "state", _named(STATES)),
    ("recipe", "3-4", "STS", "recipe prepared", _recipe),
    ("result", "5-18,23", "RES", "result", _result),
    ("command_echo", "19", "ACK", "command taken, sequence", _or_none),
    ("command_status", "20", "DON/ERR", "command status", _named(_STATUSES)),
    ("error_code", "21", "STS", "error", _named(ERRORS)),
    ("failed_parts", "22", "-", "parts not passed since StartContinuous", _as_is),
)
_ASKED: tuple[_Row, ...] = (
    ("command", "33-35", "RCP...HLT", "command", _command),
    ("trigger", "37-45", "TRG", "trigger", _trigger),
)
_TAKEN: tuple[_Row, ...] = (("acknowledged", "36", "TAK", "result taken, sequence", _or_none),)
_IN_TURN: tuple[tuple[Says, tuple[_Row, ...]], ...] = (("PLC", _ASKED), ("station", _STATION), ("PLC", _TAKEN))
"""As it comes about in one turn: what is asked for, what is answered, what is taken."""
_BEATING: tuple[Says, ...] = ("station", "PLC")
WORKS = "the exchange with the PLC works"
FAILS = "the exchange with the PLC DOES NOT WORK: what the PLC said last is old, and what the station says does not reach it"


class Watch:
    """Tells what changed from one look to the next. The first look tells everything that stands."""

    def __init__(self) -> None:
        self._before: dict[str, Any] = {}
        self._beats = {"station": _Beat("2"), "PLC": _Beat("32")}

    def look(self, wire: Mapping[str, Any], now_s: float) -> Iterator[Change]:
        """What is another than at the last look. `wire` is the daemon's answer to `wire`, `now_s` the monotonic clock."""
        lines = wire["link"] == "ascii"
        reading = _reading(wire)
        if self._is_new("hears", wire["hears"]):
            yield Change("wire", wire["link"], WORKS if wire["hears"] else FAILS)
        for says, rows in _IN_TURN:
            for key, register, word, name, means in rows:
                if key in reading and self._is_new(key, reading[key]):
                    yield Change(says, word if lines else register, f"{name}: {means(reading[key])}")
        for says in _BEATING:
            count = reading.get(f"{says} heartbeat")
            if count is not None and (words := self._beats[says].see(count, now_s)):
                yield Change(says, "HBT" if lines else self._beats[says].register, words)

    def _is_new(self, key: str, value: object) -> bool:
        new = key not in self._before or self._before[key] != value
        self._before[key] = value
        return new


class _Beat:
    """A heartbeat is no news while it moves."""

    def __init__(self, register: str) -> None:
        self.register = register
        self._count: int | None = None
        self._moved_s = 0.0
        self._moves: bool | None = None

    def see(self, count: int, now_s: float) -> str:
        """What there is to say; mostly nothing."""
        if self._count is None or count != self._count:
            moves = None if self._count is None else True
            self._count, self._moved_s = count, now_s
        else:
            moves = False if now_s - self._moved_s > BEATS_WITHIN_S else self._moves
        changed, self._moves = moves != self._moves, moves
        if not changed or moves is None:
            return ""
        return f"heartbeat: moves, now at {count}" if moves else f"heartbeat: STANDS STILL at {count} for {now_s - self._moved_s:.1f} s"


def _reading(wire: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of the daemon by what belongs together."""
    signals, heard = wire["signals"], wire["heard"]
    reading = {key: signals[key] for key in ("state", "command_echo", "command_status", "error_code", "failed_parts")}
    reading |= {"recipe": [signals["recipe_number"], signals["recipe_checksum"]], "station heartbeat": signals["heartbeat"]}
    reading["result"] = signals["result"] if signals["result"]["sequence"] else None
    if heard is not None:
        reading |= {"command": heard["command"], "acknowledged": heard["acknowledged"], "PLC heartbeat": heard["heartbeat"]}
        if heard["triggers"]:
            reading["trigger"] = heard["triggers"][-1]
    return reading


def follow(
    ask: Callable[[], Mapping[str, Any]],
    tell: Callable[[Change], None],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Tells each change for `seconds`, as `ask` says what stands on the wire.

    Raises:
        ControlError: the station does not say.
    """
    watch = Watch()
    until_s = clock() + seconds
    while (now_s := clock()) < until_s:
        wire = ask()
        if not wire["ok"]:
            raise ControlError(f"the running station does not tell what stands on the wire: {wire['error']}")
        for change in watch.look(wire, now_s):
            tell(change)
        time.sleep(LOOK_S)
