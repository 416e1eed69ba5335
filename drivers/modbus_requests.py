"""A Modbus RTU server without the port: requests cut out of bytes and done on the wire's register map. No I/O, no time.

pymodbus knows the telegrams (Modbus Application Protocol V1.1b3); finding them in the bytes of a line is done here, by length and CRC
alone. A PC cannot see the 3.5 characters of silence between two telegrams, and pymodbus' own search throws a good telegram away with
the noise before it and waits for the rest of what was cut.
"""

from collections.abc import Sequence

from pymodbus.framer import FramerRTU
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    ReadInputRegistersRequest,
    ReadInputRegistersResponse,
    ReadWriteMultipleRegistersRequest,
    ReadWriteMultipleRegistersResponse,
    WriteMultipleRegistersRequest,
    WriteMultipleRegistersResponse,
    WriteSingleRegisterRequest,
    WriteSingleRegisterResponse,
)

from drivers.modbus_map import ACKNOWLEDGE, COMMAND_BLOCK, RESULT_SEQUENCE, STATION_BLOCK, TRIGGER_SEQUENCE, VERDICT, decode_command_block
from drivers.plc import PlcInput, Trigger

_BROADCAST = 0
_SHORTEST, _LONGEST = 4, 256
"""Bytes of a telegram, unit and CRC included."""
_SERVED = (3, 4, 6, 16, 23)
_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS, _ILLEGAL_VALUE = 1, 2, 3
_ESSENTIAL = range(COMMAND_BLOCK.start, TRIGGER_SEQUENCE + 1)
"""What the PLC must have written before it counts as heard; a part id is optional."""
_REQUESTS, _ANSWERS = DecodePDU(True), DecodePDU(False)
_FRAMER = FramerRTU(_REQUESTS)


class RequestServer:
    """Does what a client asks of registers 0..45: FC3, FC4, FC6, FC16 and FC23, all on the same registers.

    Other functions are refused with exception 1, and one that pymodbus does not know is noise.

    Registers 0..23 are the station's and cannot be written; 24..31 read as zero. What stands in 0..23 changes by `publish` only, never
    inside a telegram. Requests for other units, and their answers, are stepped over; a broadcast (unit 0) is done and not answered.

    A client has one request under way. Of several that came together each is done, in order, but only the last is answered: the client
    has given the others up, and their answers would be taken for the last one's. Nor is any answered behind which another began.
    """

    def __init__(self, unit: int, base: int) -> None:
        """`base` is the address of register 0."""
        self._unit = unit
        self._units = (unit, _BROADCAST)
        self._base = base
        self._registers = [0] * COMMAND_BLOCK.stop
        self._pending = b""
        self._owed: ModbusPDU | None = None
        self._owed_span = range(0)
        self._asked = self._polled = self._seen = self._heard = False
        self._acknowledged = 0
        self._unread: set[int] = set()
        self._written: set[int] = set()
        self._triggers: list[Trigger] = []

    def publish(self, words: list[int]) -> None:
        """Sets registers 0..23."""
        result = slice(RESULT_SEQUENCE, RESULT_SEQUENCE + 14)
        if words[result] != self._registers[result]:
            self._unread = {RESULT_SEQUENCE, VERDICT}
            if self._acknowledged == words[RESULT_SEQUENCE]:
                self._acknowledged = 0
        self._registers[: STATION_BLOCK.stop] = words

    def receive(self, data: bytes) -> None:
        """Takes bytes from the line, however they come in pieces, and does what they ask; any bytes at all are bearable."""
        self._pending += data
        start = at = 0
        while at + _SHORTEST <= len(self._pending):
            # After noise only requests for this server are searched for: whatever else begins there is noise as well.
            may_begin = at == start or self._pending[at] in self._units
            length, is_request = self._telegram(self._pending[at : at + _LONGEST]) if may_begin else (0, False)
            if length:
                self._owed = None
                if is_request:
                    self._take(self._pending[at : at + length])
                start = at = at + length
            else:
                at += 1
        self._pending = self._pending[start:][-_LONGEST:]

    @property
    def owes(self) -> bool:
        """True when the client waits for an answer."""
        # Turning a transceiver round often leaves a byte or two that nobody sent.
        return self._owed is not None and len(self._pending) < _SHORTEST

    def answer(self) -> bytes:
        """The telegram that the client waits for, once; nothing when it waits for none."""
        if self._owed is None or not self.owes:
            return b""
        owed, self._owed = self._owed, None
        if self._owed_span and self._owed_span.start in STATION_BLOCK:
            self._polled = self._seen = True
            self._unread -= set(self._owed_span)
        return _FRAMER.buildFrame(owed)

    def asked(self) -> bool:
        """True when anything was asked of this server since the last call."""
        asked, self._asked = self._asked, False
        return asked

    def polled(self) -> bool:
        """True when registers of the station's block were read since the last call."""
        polled, self._polled = self._polled, False
        return polled

    @property
    def read(self) -> bool:
        """True when the result that stands was read, its sequence and its verdict."""
        return not self._unread

    def said(self) -> PlcInput | None:
        """What the PLC has written: each trigger sequence since the last call, in order, and everything else as it stands.

        None until registers 32..37 have been written and some of 0..23 read; of the triggers before that only the last one counts. A
        result's sequence acknowledges it only when it was written after registers 5 and 6 were read with that result in them.
        """
        if not self._heard:
            self._heard = self._seen and self._written.issuperset(_ESSENTIAL)
            self._triggers.clear()
            if not self._heard:
                return None
        said = decode_command_block(self._registers[COMMAND_BLOCK.start : COMMAND_BLOCK.stop])
        triggers = (*self._triggers[:-1], *said.triggers)
        self._triggers.clear()
        return PlcInput(said.heartbeat, said.command, self._acknowledged, triggers)

    def forget(self) -> None:
        """The PLC was silent: what it wrote says nothing any more, and all of 32..37 must be written again, and 0..23 read."""
        self._registers[COMMAND_BLOCK.start : COMMAND_BLOCK.stop] = [0] * len(COMMAND_BLOCK)
        self._written.clear()
        self._pending = b""
        self._owed = None
        self._asked = self._polled = self._seen = self._heard = False

    def _telegram(self, data: bytes) -> tuple[int, bool]:
        """How long the whole telegram at the start of `data` is, and whether it is a request for this server; 0 when there is none."""
        for decoder in (_REQUESTS, _ANSWERS):
            kind = decoder.lookupPduClass(data)
            length = kind.calculateRtuFrameSize(data) if kind else 0
            if 0 < length <= len(data) and FramerRTU.check_CRC(data[: length - 2], int.from_bytes(data[length - 2 : length], "big")):
                is_request = decoder is _REQUESTS and data[1] < 0x80
                return length, is_request and data[0] in self._units
        return 0, False

    def _take(self, telegram: bytes) -> None:
        function = telegram[1]
        self._asked = True
        self._owed_span = range(0)
        try:
            if function not in _SERVED:
                raise _RefusedError(_ILLEGAL_FUNCTION)
            answer = self._do(_REQUESTS.decode(telegram[1:-2]))
        except _RefusedError as refused:
            answer = ExceptionResponse(function, refused.code)
        answer.dev_id = self._unit
        self._owed = None if telegram[0] == _BROADCAST else answer

    def _do(self, request: ModbusPDU | None) -> ModbusPDU:
        match request:
            case ReadInputRegistersRequest():
                return ReadInputRegistersResponse(registers=self._read(request.address, request.count))
            case ReadHoldingRegistersRequest():
                return ReadHoldingRegistersResponse(registers=self._read(request.address, request.count))
            case WriteSingleRegisterRequest():
                self._write(request.address, 1, 2, request.registers)
                return WriteSingleRegisterResponse(address=request.address, registers=request.registers)
            case WriteMultipleRegistersRequest():
                self._write(request.address, request.count, request.byte_count, request.registers)
                return WriteMultipleRegistersResponse(address=request.address, count=request.count)
            case ReadWriteMultipleRegistersRequest():
                self._span(request.read_address, request.read_count)
                size, words = request.write_byte_count, request.write_registers
                self._write(request.write_address, request.write_count, size, words)
                return ReadWriteMultipleRegistersResponse(registers=self._read(request.read_address, request.read_count))
        raise _RefusedError(_ILLEGAL_VALUE)

    def _read(self, address: int, count: int) -> list[int]:
        self._owed_span = self._span(address, count)
        return self._registers[self._owed_span.start : self._owed_span.stop]

    def _write(self, address: int, count: int, size: int | None, words: Sequence[int]) -> None:
        if size != 2 * count:
            raise _RefusedError(_ILLEGAL_VALUE)
        span = self._span(address, count)
        if span.start not in COMMAND_BLOCK:
            raise _RefusedError(_ILLEGAL_ADDRESS)
        before = self._registers[TRIGGER_SEQUENCE]
        self._registers[span.start : span.stop] = words
        self._written.update(span)
        if ACKNOWLEDGE in span:
            taken = self._registers[ACKNOWLEDGE]
            self._acknowledged = 0 if self._unread and taken == self._registers[RESULT_SEQUENCE] else taken
        if self._registers[TRIGGER_SEQUENCE] != before:
            self._triggers += decode_command_block(self._registers[COMMAND_BLOCK.start : COMMAND_BLOCK.stop]).triggers

    def _span(self, address: int, count: int) -> range:
        if not count:
            raise _RefusedError(_ILLEGAL_VALUE)
        first = address - self._base
        if first < 0 or first + count > COMMAND_BLOCK.stop:
            raise _RefusedError(_ILLEGAL_ADDRESS)
        return range(first, first + count)


class _RefusedError(Exception):
    """A request that is answered with an exception."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
