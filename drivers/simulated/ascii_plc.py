"""The serial side of the simulated PLC in ASCII lines: says what its command registers hold, and keeps what the station says in the others.

It stands where `rtu_server` stands in the other dialect, so that program, judge and conveyor are the same. It judges the station's driver,
so it shares no line with it: the lines are written from the wire's page alone.
"""

import re
from functools import reduce
from operator import xor

from drivers.simulated.judge import FAIL_WORD, PASS_WORD, WIRE_VERSION

BEAT_S = 0.1
"""How often heartbeat and status are asked for; the station is dead after 0.5 s and more."""
REPEAT_S = 0.5
"""A command that was not acknowledged for so long is said again."""
_LONGEST_LINE = 256
_VERBS = {1: "RCP", 2: "UNP", 3: "RUN", 4: "STP", 5: "RST", 6: "HLT"}
_EXECUTING, _DONE, _FAILED = 1, 2, 3
_LINES = {
    verb: re.compile(f"{verb},{fields}", re.ASCII)
    for verb, fields in {
        "RES": r"(\d{5}),([PF]),(\d+),(\d+),([01]\d{4}),(\d+),(\d+),([0-9A-F]{4}),(\d{4,5})",
        "STS": r"(\d),(\d+),(\d+),([0-9A-F]{4}),(\d{5}),HB(\d+)",
        "HBT": r"(\d+)",
        "ACK": r"([A-Z]{3}),(\d+)",
        "DON": r"([A-Z]{3}),(\d+),(\d+),([0-9A-F]{4})",
        "ERR": r"([A-Z]{3}),(\d+),(\d+)",
        "NAK": r"([A-Z]{3})",
    }.items()
}


class AsciiPlc:
    """The PLC's end of the lines. Does no I/O; whoever owns it reads registers 0..23 and writes 32..45 between two calls.

    What the lines do not carry stays 0: registers 11 to 15 and 22.

    Attributes:
        registers: the 46 registers of the wire.
        refusals: what the station refused, each word as often as it came.
        broken: how many lines could not be understood.
    """

    def __init__(self, registers: list[int]) -> None:
        self.registers = registers
        self.refusals: list[str] = []
        self.broken = 0
        self._pending = b""
        self._said_command = 0
        self._said_command_s = 0.0
        self._said_trigger = (0, "")
        self._said_acknowledge = 0
        self._beat_s = 0.0

    def receive(self, data: bytes, now_s: float) -> bytes:
        """Takes bytes from the line at `now_s` and returns what is to be sent; any bytes at all are bearable."""
        *lines, self._pending = (self._pending + data.replace(b"\n", b"")).split(b"\r")
        self._pending = self._pending[-_LONGEST_LINE:]
        for line in lines:
            body, mark, digits = line.rpartition(b"*")
            if not mark or digits != f"{reduce(xor, body, 0):02X}".encode():
                self.broken += bool(line)
            else:
                self._take(body.decode("latin-1"))
        return self.speak(now_s)

    def speak(self, now_s: float) -> bytes:
        """What the command registers say and was not said yet."""
        words = self.registers
        lines = b""
        if words[35] not in (self._said_command, 0):
            self._said_command = words[35]
            self._said_command_s = now_s
            lines += self._command()
        elif self._unacknowledged() and now_s - self._said_command_s > REPEAT_S:
            self._said_command_s = now_s
            lines += self._command()
        if not words[33] and words[20] in (_DONE, _FAILED):
            words[20] = 0
        if self._trigger() != self._said_trigger:
            self._said_trigger = self._trigger()
            lines += self._trigger_line()
        if words[36] not in (self._said_acknowledge, 0):
            self._said_acknowledge = words[36]
            lines += _line("TAK", f"{words[36]:05d}")
        if now_s - self._beat_s >= BEAT_S:
            self._beat_s = now_s
            lines += _line("HBT", str(words[32])) + _line("STS")
        return lines

    def _unacknowledged(self) -> bool:
        return self.registers[33] != 0 and self.registers[19] != self._said_command

    def _command(self) -> bytes:
        code, argument, sequence = self.registers[33:36]
        return _line(_VERBS[code], *([str(argument)] if code == 1 else []), str(sequence)) if code else b""

    def _trigger(self) -> tuple[int, str]:
        characters = b"".join(word.to_bytes(2, "big") for word in self.registers[38:46])
        return self.registers[37], characters.rstrip(b"\0").decode("ascii")

    def _trigger_line(self) -> bytes:
        sequence, part_id = self._said_trigger
        return _line("TRG", f"{sequence:05d}", *([part_id] if part_id else []))

    def _take(self, body: str) -> None:
        verb = body[:3]
        told = _LINES[verb].fullmatch(body) if verb in _LINES else None
        if told is None:
            self.broken += 1
            return
        words = self.registers
        words[0] = WIRE_VERSION
        if verb == "RES":
            self._take_result(told)
        elif verb == "STS":
            words[1:5] = int(told[1]), int(told[6]), int(told[3]), int(told[4], 16)
            words[21] = int(told[2])
        elif verb == "HBT":
            words[2] = int(told[1])
        elif verb == "NAK":
            self._take_refusal(told[1])
        else:
            self._take_progress(verb, told)

    def _take_progress(self, verb: str, told: re.Match[str]) -> None:
        words = self.registers
        if int(told[2]) != words[35] or (verb == "ACK" and words[19] == words[35]):
            return  # of a command before, or of one whose repetition met its end
        words[19:21] = words[35], {"ACK": _EXECUTING, "DON": _DONE, "ERR": _FAILED}[verb]
        if verb == "DON":
            words[3:5] = int(told[3]), int(told[4], 16)
        if verb == "ERR":
            words[21] = int(told[3])
        if verb != "ACK":
            self._beat_s = 0.0

    def _take_result(self, told: re.Match[str]) -> None:
        words = self.registers
        sequence, reason, class_index, probability, defects, recipe = (int(told[at]) for at in (1, 3, 4, 5, 6, 7))
        words[5:11] = sequence, PASS_WORD if told[2] == "P" else FAIL_WORD, reason, class_index, probability, defects
        words[16:19] = int(told[9]), recipe, int(told[8], 16)
        words[23] = sequence
        if sequence == self._said_acknowledge:  # it has not heard that this one was taken
            self._said_acknowledge = 0

    def _take_refusal(self, word: str) -> None:
        """Whatever was broken on its way is said again; the station knows a repetition when it hears one."""
        self.refusals.append(word)
        if word != "CHK":
            return
        if self._unacknowledged():
            self._said_command_s = 0.0
        if self.registers[5] != self._said_trigger[0]:
            self._said_trigger = (0, "")
        self._said_acknowledge = 0


def _line(*fields: str) -> bytes:
    body = ",".join(fields).encode("ascii")
    return body + b"*%02X\r" % reduce(xor, body, 0)
