"""The wire's version 1 over Modbus RTU, the station as server: the PLC polls it, and it answers in its turns.

What is asked is done by `drivers.modbus_requests`; here it meets a serial port, a silence, and the loop's patience.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from drivers.modbus_map import COMMAND_BLOCK, STATION_BLOCK, TRIGGER_SEQUENCE, encode_goodbye, encode_signals
from drivers.modbus_requests import RequestServer
from drivers.plc import PlcError, PlcInput, StationSignals
from drivers.serial_port import FIRST_REOPEN_S, LAST_REOPEN_S, PORT_ERRORS, Port, rtu_silence_s

_READ_BYTES = 256
"""As much is taken from the port at a time, a telegram's length: noise must not take longer than a turn to be seen through."""
_UNHEARD_TIMEOUTS = 2
"""The PLC writes and reads, and each telegram may take it a timeout."""

# A request that makes no sense is answered with its exception code, not printed.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)


class ModbusServerPlc:
    """A `Plc` that is polled: the PLC reads registers 0..23 and writes 32..45, as often as it likes, at least each 2 * `timeout_s`.

    An exchange publishes the signals as one block, which stands until the next exchange, and answers the first request that has come or
    comes within `turn_s`; it takes no longer than that and the silence before an answer (3.5 characters). So no telegram shows two
    results; a PLC that reads the block in pieces may see two, and then registers 5 and 23 differ. A PLC that asks while the station
    inspects is answered afterwards: its own timeout must be longer than the longest turn, the recipe's deadline.

    `exchange` raises until the PLC has read from 0..23 and written all of 32..37, when it has read nothing for 2 * `timeout_s` (then
    32..37 must be written again, because they may be old; while it waits for an answer that the station is too busy to give, it is not
    silent), and when the port is gone. A port that is gone is opened again with pauses from 0.1 s to 2 s.

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
        rs485: bool = False,
        timeout_s: float = 0.15,
        turn_s: float = 0.005,
        simulated: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens nothing yet: the first exchange does, exclusively.

        Args:
            unit: the station's own unit id, 1..247.
            base: the address of register 0.
            rs485: the port's driver turns a half-duplex transceiver round by RTS; see `open_port`.
        """
        self.simulated = simulated
        self._name = port
        self._unit = unit
        self._base = base
        self._reads = f"{base}..{base + STATION_BLOCK.stop - 1}"
        self._unheard_s = _UNHEARD_TIMEOUTS * timeout_s
        self._turn_s = turn_s
        self._clock = clock
        self._port = Port(port, baudrate, parity, rs485=rs485)
        self._gap_s = rtu_silence_s(baudrate)
        self._heard_s = 0.0
        self._server = RequestServer(unit, base)
        self._told: StationSignals | None = None
        self._polled_s = self._asked_s = self._left_s = clock()
        self._hears = False
        self._failure = ""
        self._reopen_at_s = clock()
        self._reopen_s = FIRST_REOPEN_S

    def exchange(self, signals: StationSignals) -> PlcInput:
        """See `Plc.exchange`; the signals stand for the PLC to read. `triggers` are all that were written since the last exchange.

        Raises:
            PlcError: see `Plc.exchange` and the class.
            ValueError: the signals cannot be told; see `encode_signals`. What stood before still stands.
        """
        self._server.publish(encode_signals(signals))
        self._open()
        away_s = self._clock() - self._left_s
        try:
            self._serve(self._turn_s)
        except PORT_ERRORS as error:
            raise self._lost(f"was lost ({error}); check adapter and cable") from error
        self._left_s = self._clock()
        polled = self._listen(self._left_s, away_s)
        said = self._server.said()
        if said is None:
            written = f"{self._base + COMMAND_BLOCK.start}..{self._base + TRIGGER_SEQUENCE}"
            raise self._unheard(f"has not yet read its registers and written all of {written} at unit {self._unit}")
        self._reopen_s = FIRST_REOPEN_S
        self._hears = True
        self._told = signals
        return replace(said, told=polled and self._server.read)

    def close(self) -> None:
        """See `Plc.close`: waits up to 2 * `timeout_s` until the PLC has read Preoperational, no recipe, no result, verdict FAIL."""
        if self._told is not None:
            self._server.publish(encode_goodbye(self._told))
            until_s = time.monotonic() + self._unheard_s
            with contextlib.suppress(*PORT_ERRORS):
                while not self._server.polled() and (left_s := until_s - time.monotonic()) > 0:
                    self._serve(left_s)
        with contextlib.suppress(*PORT_ERRORS):
            self._port.close()

    def _open(self) -> None:
        if (left_s := self._reopen_at_s - self._clock()) > 0:
            raise PlcError(f"{self._failure} (tried again in {left_s * 1000:.0f} ms)")
        try:
            if self._port.open():
                self._polled_s = self._left_s = self._clock()
        except (*PORT_ERRORS, ValueError) as error:
            raise self._lost(f"cannot be opened ({error}); check that it is plugged in, free, and readable for this user") from error

    def _listen(self, now_s: float, away_s: float) -> bool:
        """Whether the PLC has read since the last call.

        Raises when it has not for too long; what it wrote before that, or long before it reads again, may be old.

        Whoever asks has waited for an answer while the station was `away_s` to inspect, and could not poll: that was no silence.
        """
        if self._server.asked():
            self._asked_s = now_s
            self._polled_s += away_s
        if polled := self._server.polled():
            self._polled_s = now_s
        if now_s - self._polled_s > self._unheard_s:
            if self._hears or now_s - self._asked_s > self._unheard_s:
                self._server.forget()
            self._hears = False
            asks = now_s - self._asked_s <= self._unheard_s
            what = f"asks unit {self._unit}, but has not read {self._reads}" if asks else f"has not polled unit {self._unit}"
            raise self._unheard(f"{what} for {self._unheard_s * 1000:.0f} ms")
        return polled

    def _serve(self, seconds: float) -> None:
        """Answers the first request that has come, or comes within `seconds`."""
        until_s = time.monotonic() + seconds
        while True:
            if data := self._port.read(_READ_BYTES):
                self._heard_s = time.monotonic()
                self._server.receive(data)
            if self._server.owes:
                time.sleep(max(self._heard_s + self._gap_s - time.monotonic(), 0.0))
                self._server.receive(self._port.read(_READ_BYTES))  # whoever goes on speaking waits for nothing
                answer = self._server.answer()
                if self._port.write(answer) < len(answer):
                    self._port.drop_unsent()
                return
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not self._port.wait(left_s):
                return

    def _unheard(self, what: str) -> PlcError:
        writes = f"{self._base + COMMAND_BLOCK.start}..{self._base + COMMAND_BLOCK.stop - 1}"
        fix = f"check wiring, baud rate, parity and unit id, and that its program reads {self._reads} and writes {writes} in every cycle"
        return PlcError(f"{self._name}: the PLC {what}; {fix}")

    def _lost(self, what: str) -> PlcError:
        with contextlib.suppress(*PORT_ERRORS):
            self._port.drop_unsent()
        with contextlib.suppress(*PORT_ERRORS):
            self._port.close()
        self._server.forget()
        pause_s = self._reopen_s
        self._reopen_s = min(2 * pause_s, LAST_REOPEN_S)
        self._failure = f"{self._name}: {what}"
        self._reopen_at_s = self._clock() + pause_s
        return PlcError(self._failure)
