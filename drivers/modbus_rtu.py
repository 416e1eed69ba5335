"""The wire's version 1 over Modbus RTU, the station as client: it writes its whole block and reads the PLC's, one after the other.

pymodbus frames the telegrams (Modbus over Serial Line V1.02); opening, waiting and recovering are done here, because it measures its
wait by the wall clock, which may step, and keeps the cause of a failed open to itself. The register map is that of `docs/plc.md`.
"""

import contextlib
import logging
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import serial
from pymodbus.client import ModbusSerialClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ExceptionResponse, ModbusPDU

from drivers.plc import FAIL_WORD, NO_RESULT, PASS_WORD, WIRE_VERSION, PlcCommand, PlcError, PlcInput, StationSignals, Trigger
from drivers.serial_port import FIRST_REOPEN_S, LAST_REOPEN_S, PORT_ERRORS, parity_of

STATION_BLOCK = 0
STATION_REGISTERS = 24
COMMAND_BLOCK = 32
COMMAND_REGISTERS = 14
_PREOPERATIONAL = 1
_QUIET_TIMEOUTS = 2
"""A lost answer may still come, and the next request would take it for its own: the line stays quiet this many timeouts."""
_CHARACTER_BITS = 11
_EXCEPTIONS = {1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "server device failure", 6: "server busy"}

# Every failure leaves here as a PlcError that says more; without this each one is printed a second time.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)


def encode_signals(signals: StationSignals) -> list[int]:
    """The station block, registers 0..23, each 0..65535.

    Measures are clipped (a probability that is no number is 0) and the heartbeat wraps. The verdict is the code word for PASS only if
    `passed` is the very `True`; anything else is FAIL.

    Raises:
        ValueError: a state, sequence, recipe number or checksum does not fit a register. Clipped, it would name something else.
    """
    result = signals.result
    return [
        WIRE_VERSION,
        _exact("state", signals.state),
        signals.heartbeat % 0x10000,
        _exact("recipe number", signals.recipe_number),
        _exact("recipe checksum", signals.recipe_checksum),
        _exact("result sequence", result.sequence),
        PASS_WORD if result.passed is True else FAIL_WORD,
        _exact("reason", result.reason),
        _clipped(result.class_index),
        _clipped(round(result.probability * 10_000), 10_000) if result.probability > 0 else 0,
        _clipped(result.defects),
        _clipped(result.defect_area_px),
        *(_clipped(pixels) for pixels in result.largest_defect_px),
        _clipped(result.elapsed_ms),
        _exact("recipe number of the result", result.recipe_number),
        _exact("recipe checksum of the result", result.recipe_checksum),
        _exact("command echo", signals.command_echo),
        signals.command_status,
        _clipped(signals.error_code),
        _clipped(signals.failed_parts),
        result.sequence,
    ]


def decode_command_block(words: Sequence[int]) -> PlcInput:
    """What registers 32..45 say. The trigger that stands in them is always there, with sequence 0 when the PLC asks for nothing.

    Raises:
        ValueError: there are not 14 words.
    """
    if len(words) != COMMAND_REGISTERS:
        raise ValueError(f"the command block has {COMMAND_REGISTERS} registers, not {len(words)}")
    heartbeat, code, argument, command_sequence, acknowledged, trigger_sequence = words[:6]
    characters = b"".join(word.to_bytes(2, "big") for word in words[6:])
    part_id = "".join(chr(character) for character in characters if 0x20 <= character < 0x7F)
    return PlcInput(heartbeat, PlcCommand(code, argument, command_sequence), acknowledged, (Trigger(trigger_sequence, part_id),))


def _exact(name: str, value: int) -> int:
    if not 0 <= value <= 0xFFFF:
        raise ValueError(f"{name} {value} does not fit a register; it must be 0..65535")
    return value


def _clipped(value: int, largest: int = 0xFFFF) -> int:
    return min(max(int(value), 0), largest)


class ModbusRtuPlc:
    """A `Plc` that polls a Modbus RTU server: one FC16 over registers 0..23 and one FC3 over 32..45 an exchange.

    Each of the two telegrams is answered within `timeout_s` or counts as lost, so `exchange` takes at most 2 * `timeout_s`; count the
    bytes' own time in (65 ms for both at 19200 baud, silences included). After a lost answer the line stays quiet for 2 * `timeout_s`,
    during which `exchange` raises at once, and is flushed: a PLC that may answer later than 3 * `timeout_s` needs a larger one. A port
    that is gone is opened again with pauses from 0.1 s to 2 s.

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
        timeout_s: float = 0.15,
        simulated: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens nothing yet: the first exchange does, exclusively. `base` is the PLC's address of register 0."""
        self.simulated = simulated
        self._unit = unit
        self._base = base
        self._timeout_s = timeout_s
        self._clock = clock
        self._wire = _Wire(port, baudrate, parity, timeout_s, clock)
        self._port = port
        self._told: StationSignals | None = None
        self._failure = ""
        self._quiet_until_s = clock()
        self._reopen_s = FIRST_REOPEN_S

    def exchange(self, signals: StationSignals) -> PlcInput:
        """See `Plc.exchange`; both telegrams went through when it returns.

        Raises:
            PlcError: see `Plc.exchange`, or the line is kept quiet after such an error.
            ValueError: the signals cannot be told; see `encode_signals`.
        """
        words = encode_signals(signals)
        self._clear_line()
        self._write(words)
        self._told = signals
        answer = self._read()
        self._reopen_s = FIRST_REOPEN_S
        return answer

    def close(self) -> None:
        """See `Plc.close`: the last block says Preoperational, no recipe, no result, verdict FAIL."""
        if self._told is not None and not self._failure:
            goodbye = replace(self._told, state=_PREOPERATIONAL, recipe_number=0, recipe_checksum=0, result=NO_RESULT)
            with contextlib.suppress(PlcError):
                self._write(encode_signals(goodbye))
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
        address = self._base + STATION_BLOCK
        what = f"FC16 to registers {address}..{address + len(words) - 1}"
        answer = self._ask(what, lambda: self._wire.write_registers(address, words, device_id=self._unit))
        if answer.function_code != 16 or (answer.address, answer.count) != (address, len(words)):
            raise self._failed(f"unit {self._unit} acknowledged something else than {what}; check that nobody else talks on this line")

    def _read(self) -> PlcInput:
        address = self._base + COMMAND_BLOCK
        what = f"FC3 of registers {address}..{address + COMMAND_REGISTERS - 1}"
        answer = self._ask(what, lambda: self._wire.read_holding_registers(address, count=COMMAND_REGISTERS, device_id=self._unit))
        if answer.function_code != 3 or len(answer.registers) != COMMAND_REGISTERS:
            raise self._failed(f"unit {self._unit} answered something else than {what}; check that nobody else talks on this line")
        return decode_command_block(answer.registers)

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

    def __init__(self, port: str, baudrate: int, parity: str, timeout_s: float, clock: Callable[[], float]) -> None:
        super().__init__(port, baudrate=baudrate, parity=parity, timeout=timeout_s, retries=0)
        self.deadline_s = 0.0
        self._clock = clock
        # Modbus over Serial Line V1.02, 2.5.1.1: 3.5 characters between telegrams, and 1.75 ms above 19200 baud.
        self._gap_s = 3.5 * _CHARACTER_BITS / baudrate if baudrate <= 19_200 else 0.00175
        self._heard_s = clock() - self._gap_s

    def connect(self) -> bool:
        """Opens the port exclusively; True when it is open.

        Raises:
            OSError: it cannot be opened.
            ValueError: it cannot have this rate or parity.
        """
        if self.socket is None:
            line = self.comm_params
            self.socket = serial.Serial(
                line.host,
                baudrate=line.baudrate,
                parity=parity_of(line.host, line.parity),
                timeout=0,
                write_timeout=line.timeout_connect,
                exclusive=True,
            )
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
