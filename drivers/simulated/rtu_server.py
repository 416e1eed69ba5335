"""The serial side of the simulated PLC: a Modbus RTU server over its holding registers, written from the specification alone.

It judges the station's client, so it shares no line with it: framing, CRC and limits are those of Modbus Application Protocol V1.1b3
and Modbus over Serial Line V1.02.
"""

import struct

GAP_S = 0.02
"""A silence this long ends a telegram: what was begun before it is thrown away. A PC cannot see the 3.5 characters of the standard."""
_LONGEST_FRAME = 256
_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS, _ILLEGAL_VALUE = 1, 2, 3
_READ, _WRITE_ONE, _WRITE_MANY, _READ_WRITE = 3, 6, 16, 23


class RtuServer:
    """Answers FC3, FC6, FC16 and FC23 for one unit, other functions with exception 1, and other units with silence. Does no I/O.

    Attributes:
        registers: the holding registers; whoever owns the server reads and writes them between two calls.
    """

    def __init__(self, registers: list[int], *, writable: range, unit: int = 1, base: int = 0) -> None:
        """`writable` are the registers a client may write; the wire's address of register 0 is `base`."""
        self.registers = registers
        self._writable = writable
        self._unit = unit
        self._base = base
        self._pending = b""
        self._heard_s = 0.0

    def receive(self, data: bytes, now_s: float) -> bytes:
        """Takes bytes from the line at `now_s` and returns what is to be sent back; any bytes at all are bearable.

        A telegram may come in pieces. One with a wrong CRC is not answered, and nothing after it until the line was silent for `GAP_S`.
        """
        if now_s - self._heard_s > GAP_S:
            self._pending = b""
        self._heard_s = now_s
        self._pending = (self._pending + data)[-_LONGEST_FRAME:]
        answers = b""
        while frame := self._take_frame():
            answers += self._answer(frame)
        return answers

    def speak(self, now_s: float) -> bytes:  # noqa: ARG002 - as `AsciiPlc.speak`
        """What is to be said unasked: nothing, a server only answers."""
        return b""

    def _take_frame(self) -> bytes:
        length = _request_length(self._pending)
        if not 4 <= length <= len(self._pending) or crc(self._pending[:length]) != 0:
            return b""
        frame, self._pending = self._pending[:length], self._pending[length:]
        return frame

    def _answer(self, frame: bytes) -> bytes:
        if frame[0] != self._unit:
            return b""
        function = frame[1]
        try:
            body = self._execute(function, frame[2:-2])
        except _RefusedError as refused:
            function, body = function | 0x80, bytes([refused.code])
        telegram = bytes([self._unit, function]) + body
        return telegram + crc(telegram).to_bytes(2, "little")

    def _execute(self, function: int, body: bytes) -> bytes:
        if function == _READ:
            return self._read(*struct.unpack(">HH", body))
        if function == _WRITE_ONE:
            address, value = struct.unpack(">HH", body)
            self._write(address, [value])
            return body
        if function == _WRITE_MANY:
            address, count, size = struct.unpack(">HHB", body[:5])
            self._write(address, _words(body[5:], count, size, largest=123))
            return body[:4]
        if function == _READ_WRITE:
            read_address, read_count, address, count, size = struct.unpack(">HHHHB", body[:9])
            words = _words(body[9:], count, size, largest=121)
            self._span(read_address, read_count)
            self._write(address, words)
            return self._read(read_address, read_count)
        raise _RefusedError(_ILLEGAL_FUNCTION)

    def _read(self, address: int, count: int) -> bytes:
        span = self._span(address, count)
        return bytes([2 * count]) + struct.pack(f">{count}H", *self.registers[span.start : span.stop])

    def _write(self, address: int, words: list[int]) -> None:
        span = self._span(address, len(words))
        if span.start not in self._writable or span[-1] not in self._writable:
            raise _RefusedError(_ILLEGAL_ADDRESS)
        self.registers[span.start : span.stop] = words

    def _span(self, address: int, count: int) -> range:
        if not 1 <= count <= 125:
            raise _RefusedError(_ILLEGAL_VALUE)
        first = address - self._base
        if first < 0 or first + count > len(self.registers):
            raise _RefusedError(_ILLEGAL_ADDRESS)
        return range(first, first + count)


class _RefusedError(Exception):
    """A request that is answered with an exception."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def crc(data: bytes) -> int:
    """The Modbus checksum of `data`; 0 over a telegram that ends in its own, low byte first."""
    register = 0xFFFF
    for bit in range(8 * len(data)):
        feedback = (register ^ data[bit // 8] >> bit % 8) & 1
        register = register >> 1 ^ 0xA001 * feedback
    return register


def _request_length(pending: bytes) -> int:
    """How long the request at the start of `pending` is, CRC included; 0 while that cannot be known."""
    if len(pending) < 2:
        return 0
    function = pending[1]
    if function in {_READ, _WRITE_ONE}:
        return 8
    if function in {_WRITE_MANY, _READ_WRITE}:
        size_at = 6 if function == _WRITE_MANY else 10
        return size_at + 1 + pending[size_at] + 2 if len(pending) > size_at else 0
    return len(pending)


def _words(data: bytes, count: int, size: int, *, largest: int) -> list[int]:
    if not 1 <= count <= largest or size != 2 * count:
        raise _RefusedError(_ILLEGAL_VALUE)
    return list(struct.unpack(f">{count}H", data))
