"""The serial side of a simulated PLC that polls: a Modbus RTU client which writes its command registers and reads the station's.

It judges the station's server, so it shares no line with it: its telegrams are those of Modbus Application Protocol V1.1b3. It stands
where `rtu_server` stands when the station is the client.
"""

import struct

from drivers.simulated.judge import STATION_REGISTERS
from drivers.simulated.rtu_server import crc

POLL_S = 0.01
"""From an answer to the next cycle of requests."""
PATIENCE_S = 0.5
"""A request that was not answered for so long is given up. A station that inspects answers no sooner than it is done."""
_COMMANDS = range(32, 46)
_READ, _WRITE, _READ_WRITE = 3, 16, 23


class RtuClient:
    """Polls one unit: FC16 over 32..45 and FC3 over 0..23 in turn, or one FC23. Does no I/O.

    Attributes:
        registers: the 46 registers of the wire; whoever owns the client reads 0..23 and writes 32..45 between two calls.
        lost: how many requests were not answered as they must be.
    """

    def __init__(self, registers: list[int], *, unit: int = 1, base: int = 0, fc23: bool = False, patience_s: float = PATIENCE_S) -> None:
        """`base` is the station's address of register 0."""
        self.registers = registers
        self.lost = 0
        self._unit = unit
        self._base = base
        self._cycle = (_READ_WRITE,) if fc23 else (_WRITE, _READ)
        self._patience_s = patience_s
        self._asked: int | None = None
        self._asked_s = 0.0
        self._next = 0
        self._rests_until_s = 0.0
        self._pending = b""

    def receive(self, data: bytes, now_s: float) -> bytes:
        """Takes bytes from the line at `now_s` and returns what is to be sent; any bytes at all are bearable."""
        if self._asked is None:
            return self.speak(now_s)
        self._pending += data
        length = self._answer_length(self._asked)
        if len(self._pending) >= length:
            answer, self._pending = self._pending[:length], b""
            if self._take(self._asked, answer):
                self._next = (self._next + 1) % len(self._cycle)
                self._asked = None
                self._rests_until_s = now_s + (0.0 if self._next else POLL_S)
        return self.speak(now_s)

    def speak(self, now_s: float) -> bytes:
        """The next request, when its time has come."""
        if self._asked is not None:
            if now_s - self._asked_s <= self._patience_s:
                return b""
            self.lost += 1
            self._next = 0
        elif now_s < self._rests_until_s:
            return b""
        self._pending = b""
        self._asked, self._asked_s = self._cycle[self._next], now_s
        return self._request(self._asked)

    def _request(self, function: int) -> bytes:
        words = self.registers[_COMMANDS.start : _COMMANDS.stop]
        write = struct.pack(f">HHB{len(words)}H", self._base + _COMMANDS.start, len(words), 2 * len(words), *words)
        read = struct.pack(">HH", self._base, len(STATION_REGISTERS))
        telegram = bytes([self._unit, function]) + {_READ: read, _WRITE: write, _READ_WRITE: read + write}[function]
        return telegram + crc(telegram).to_bytes(2, "little")

    def _answer_length(self, function: int) -> int:
        """How long the answer is; an exception has 5 bytes."""
        if self._pending[1:2] == bytes([function | 0x80]):
            return 5
        return 8 if function == _WRITE else 5 + 2 * len(STATION_REGISTERS)

    def _take(self, function: int, answer: bytes) -> bool:
        """Whether this is the answer; the station's registers are then as it says."""
        if crc(answer) or answer[:2] != bytes([self._unit, function]):
            return False
        if function == _WRITE:
            return answer[2:6] == struct.pack(">HH", self._base + _COMMANDS.start, len(_COMMANDS))
        if answer[2] != 2 * len(STATION_REGISTERS):
            return False
        self.registers[: STATION_REGISTERS.stop] = struct.unpack(f">{len(STATION_REGISTERS)}H", answer[3:-2])
        return True
