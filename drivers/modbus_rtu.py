"""The wire's version 1 over Modbus RTU, the station as client: it writes its whole block and reads the PLC's, in each exchange.

pymodbus frames the telegrams (Modbus over Serial Line V1.02); opening, waiting and recovering are done here, because it measures its
wait by the wall clock, which may step, and keeps the cause of a failed open to itself. The register map is `drivers.modbus_map`'s.
"""

import contextlib
import logging
import select
import time
from collections.abc import Callable

import serial
from pymodbus.client import ModbusSerialClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ExceptionResponse, ModbusPDU

from drivers.modbus_map import COMMAND_BLOCK, STATION_BLOCK, decode_command_block, encode_goodbye, encode_signals
from drivers.plc import PlcError, PlcInput, StationSignals
from drivers.serial_port import FIRST_REOPEN_S, LAST_REOPEN_S, PORT_ERRORS, open_port, rtu_silence_s

_QUIET_TIMEOUTS = 2
"""A lost answer may still come, and the next request would take it for its own: the line stays quiet this many timeouts."""
_EXCEPTIONS = {1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "server device failure", 6: "server busy"}
_ILLEGAL_FUNCTION = 1

# Every failure leaves here as a PlcError that says more; without this each one is printed a second time.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)


class ModbusRtuPlc:
    """A `Plc` that polls a Modbus RTU server: one FC16 over registers 0..23 and one FC3 over 32..45 an exchange, or one FC23 over both.

    Each telegram is answered within `timeout_s` or counts as lost, so `exchange` takes at most 2 * `timeout_s`, with FC23 one; count the
    bytes' own time in (69 ms for both at 19200 baud, 58 ms for FC23, silences included). An answer that comes too late is told from the
    next one by time alone, because nothing in an RTU telegram names its request: after a lost answer the line stays quiet for
    2 * `timeout_s`, during which `exchange` raises at once, and is flushed. A PLC that may answer later than 3 * `timeout_s` needs a
    larger one. A port that is gone is opened again with pauses from 0.1 s to 2 s.

    Attributes:
        simulated: True when the far end is no real PLC.
    """

    def __init__(
        self,
        port: str,
        *,
        unit: int = 1,
        baudrate: int = 19200,
        parity: str = "E",
        base: int = 0,
        fc23: bool = False,
        rs485: bool = False,
        timeout_s: float = 0.15,
        simulated: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens nothing yet: the first exchange does, exclusively.

        Args:
            base: the PLC's address of register 0.
            fc23: the PLC knows function 23, read/write multiple registers.
            rs485: the port's driver turns a half-duplex transceiver round by RTS; see `open_port`.
        """
        self.simulated = simulated
        self._unit = unit
        self._base = base
        self._timeout_s = timeout_s
        self._clock = clock
        self._fc23 = fc23
        self._wire = _Wire(port, baudrate, parity, rs485, timeout_s, clock)
        self._port = port
        self._told: StationSignals | None = None
        self._failure = ""
        self._quiet_until_s = clock()
        self._reopen_s = FIRST_REOPEN_S

    def exchange(self, signals: StationSignals) -> PlcInput:
        """See `Plc.exchange`; every telegram went through when it returns.

        Raises:
            PlcError: see `Plc.exchange`, or the line is kept quiet after such an error.
            ValueError: the signals cannot be told; see `encode_signals`.
        """
        words = encode_signals(signals)
        self._clear_line()
        if self._fc23:
            answer = self._write_and_read(words)
        else:
            self._write(words)
            answer = self._read()
        self._told = signals
        self._reopen_s = FIRST_REOPEN_S
        return answer

    def close(self) -> None:
        """See `Plc.close`: the last block says Preoperational, no recipe, no result, verdict FAIL."""
        if self._told is not None and not self._failure:
            say = self._write_and_read if self._fc23 else self._write
            with contextlib.suppress(PlcError):
                say(encode_goodbye(self._told))
        self._told = None
        with contextlib.suppress(*PORT_ERRORS):
            self._wire.close()

    def _clear_line(self) -> None:
        """Lets the line fall silent after a failure, and opens the port if need be."""
        if self._failure and (left_s := self._quiet_until_s - self._clock()) > 0:
            raise PlcError(f"{self._failure} (tried again in {left_s * 1000:.0f} ms)")
        try:
            self._wire.connect()
        except (*PORT_ERRORS, ValueError) as error:
            raise self._lost(f"cannot be opened ({error}); check that it is plugged in, free, and readable for this user") from error
        self._failure = ""

    def _write(self, words: list[int]) -> None:
        address = self._base + STATION_BLOCK.start
        what = f"FC16 to registers {self._span(STATION_BLOCK)}"
        answer = self._ask(what, lambda: self._wire.write_registers(address, words, device_id=self._unit))
        if answer.function_code != 16 or (answer.address, answer.count) != (address, len(words)):
            raise self._not_this(what)

    def _read(self) -> PlcInput:
        address = self._base + COMMAND_BLOCK.start
        what = f"FC3 of registers {self._span(COMMAND_BLOCK)}"
        answer = self._ask(what, lambda: self._wire.read_holding_registers(address, count=len(COMMAND_BLOCK), device_id=self._unit))
        return self._said(answer, 3, what)

    def _write_and_read(self, words: list[int]) -> PlcInput:
        what = f"FC23 to registers {self._span(STATION_BLOCK)} and of {self._span(COMMAND_BLOCK)}"
        answer = self._ask(
            what,
            lambda: self._wire.readwrite_registers(
                read_address=self._base + COMMAND_BLOCK.start,
                read_count=len(COMMAND_BLOCK),
                write_address=self._base + STATION_BLOCK.start,
                values=words,
                device_id=self._unit,
            ),
        )
        return self._said(answer, 23, what)

    def _said(self, answer: ModbusPDU, function: int, what: str) -> PlcInput:
        if answer.function_code != function or len(answer.registers) != len(COMMAND_BLOCK):
            raise self._not_this(what)
        return decode_command_block(answer.registers)

    def _span(self, block: range) -> str:
        return f"{self._base + block.start}..{self._base + block.stop - 1}"

    def _not_this(self, what: str) -> PlcError:
        return self._failed(f"unit {self._unit} answered something else than {what}; check that nobody else talks on this line")

    def _ask(self, what: str, request: Callable[[], ModbusPDU]) -> ModbusPDU:
        self._wire.deadline_s = self._clock() + self._timeout_s
        try:
            answer = request()
        except PORT_ERRORS as error:
            raise self._lost(f"was lost in {what} ({error}); check adapter and cable") from error
        except ModbusException as error:
            within = f"within {self._timeout_s * 1000:.0f} ms"
            fix = "check wiring, baud rate, parity and unit id, or allow a longer timeout"
            raise self._failed(f"no good answer from unit {self._unit} to {what} {within}; {fix}") from error
        if isinstance(answer, ExceptionResponse):
            meaning = _EXCEPTIONS.get(answer.exception_code, "see the PLC's manual")
            fix = "give the PLC registers 0..45 of the map or correct the base address"
            if self._fc23 and answer.exception_code == _ILLEGAL_FUNCTION:
                fix = "set plc.fc23 to false for a PLC that does not know this function"
            raise self._failed(f"unit {self._unit} refused {what} with exception {answer.exception_code}, {meaning}; {fix}")
        return answer

    def _failed(self, what: str) -> PlcError:
        return self._pause(what, _QUIET_TIMEOUTS * self._timeout_s)

    def _lost(self, what: str) -> PlcError:
        with contextlib.suppress(*PORT_ERRORS):
            self._wire.close()
        pause_s = self._reopen_s
        self._reopen_s = min(2 * pause_s, LAST_REOPEN_S)
        return self._pause(what, pause_s)

    def _pause(self, what: str, pause_s: float) -> PlcError:
        self._failure = f"{self._port}: {what}"
        self._quiet_until_s = self._clock() + pause_s
        return PlcError(self._failure)


class _Wire(ModbusSerialClient):
    """pymodbus' client on a port of our own opening: waits by one monotonic deadline a telegram and takes bytes as they come.

    Attributes:
        deadline_s: until when the telegram under way may be answered, on `clock`.
    """

    def __init__(self, port: str, baudrate: int, parity: str, rs485: bool, timeout_s: float, clock: Callable[[], float]) -> None:
        super().__init__(port, baudrate=baudrate, parity=parity, timeout=timeout_s, retries=0)
        self.deadline_s = 0.0
        self._rs485 = rs485
        self._clock = clock
        self._gap_s = rtu_silence_s(baudrate)
        self._heard_s = clock() - self._gap_s

    def connect(self) -> bool:
        """Opens the port if it is not open. Returns True, or raises as `open_port`."""
        if self.socket is None:
            line = self.comm_params
            self.socket = open_port(line.host, line.baudrate, line.parity, rs485=self._rs485, write_timeout_s=line.timeout_connect)
        return True

    def close(self) -> None:
        """Gives the port back.

        Raises:
            OSError: it is gone; it counts as closed all the same.
        """
        port, self.socket = self.socket, None
        if port is not None:
            port.close()

    def send(self, request: bytes, addr: tuple[object, ...] | None = None) -> int:  # noqa: ARG002
        """Writes one telegram after the silence that the PLC needs to see its beginning; what came before is no answer to it."""
        port = self._open_port()
        time.sleep(min(max(self._heard_s + self._gap_s - self._clock(), 0.0), self._gap_s))
        port.reset_input_buffer()
        return port.write(request) or 0

    def recv(self, size: int | None) -> bytes:  # noqa: ARG002
        """What came in as soon as something did; nothing once the deadline passed."""
        port = self._open_port()
        left_s = self.deadline_s - self._clock()
        if left_s <= 0 or not select.select([port], [], [], left_s)[0]:
            return b""
        data = port.read(max(port.in_waiting, 1))
        self._heard_s = self._clock()
        return data

    def _open_port(self) -> serial.Serial:
        if self.socket is None:
            raise serial.PortNotOpenError
        return self.socket
