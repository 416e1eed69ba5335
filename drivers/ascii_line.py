"""The wire's version 1 over ASCII lines: the PLC speaks when it likes, the station answers in its next turn, and nobody polls.

What is said is `drivers.ascii_conversation`'s and how it is written `drivers.ascii_codec`'s; here it meets a serial port.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

from drivers.ascii_codec import result_line, status_line
from drivers.ascii_conversation import Conversation
from drivers.plc import NO_RESULT, PlcError, PlcInput, StationSignals
from drivers.serial_port import FIRST_REOPEN_S, LAST_REOPEN_S, PORT_ERRORS, Port

_PREOPERATIONAL = 1
_READ_BYTES = 2048
"""As much is taken from the port in a turn."""


class AsciiLinePlc:
    """A `Plc` that listens on a serial port and answers in lines.

    An exchange never waits for the PLC: it takes what has come, sends what is due and the port accepts, and returns; only a turn in which
    nothing came may wait, for up to `turn_s`, until something does. Until the PLC has said something since the port was opened,
    `exchange` raises, and so it does when the port is gone or accepts nothing for `timeout_s`. A PLC that falls silent later is no error
    of the wire: its heartbeat stands still. A port that is gone is opened again with pauses from 0.1 s to 2 s.

    Attributes:
        simulated: True when the far end is no real PLC.
    """

    def __init__(
        self,
        port: str,
        *,
        baudrate: int = 115_200,
        parity: str = "N",
        timeout_s: float = 0.15,
        acknowledge_s: float = 0.1,
        turn_s: float = 0.0,
        simulated: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens nothing yet: the first exchange does, exclusively. A result is told again each `acknowledge_s` until it is taken."""
        self.simulated = simulated
        self._timeout_s = timeout_s
        self._turn_s = turn_s
        self._clock = clock
        self._port = Port(port, baudrate, parity)
        self._name = port
        self._conversation = Conversation(acknowledge_s)
        self._told: StationSignals | None = None
        self._stuck_since_s: float | None = None
        self._failure = ""
        self._reopen_at_s = clock()
        self._reopen_s = FIRST_REOPEN_S

    def exchange(self, signals: StationSignals) -> PlcInput:
        """See `Plc.exchange`; what is due was given to the port when it returns, or stands first in the queue.

        Raises:
            PlcError: see `Plc.exchange`; or the PLC has not said anything yet; or the port is about to be opened again.
            ValueError: the signals cannot be told; see `status_line`. Nothing was sent.
        """
        status_line(signals)
        result_line(signals.result)
        self._open()
        try:
            came, drained = self._turn(signals)
            if not came and self._turn_s > 0 and self._port.wait(self._turn_s):
                _, drained = self._turn(signals)
        except PORT_ERRORS as error:
            raise self._lost(f"was lost ({error}); check adapter and cable") from error
        said = self._conversation.said(drained)
        if said is None:
            raise PlcError(
                f"{self._name}: the PLC has not said anything that makes sense yet; check wiring, baud rate and parity, "
                "and that its program sends HBT or STS"
            )
        self._reopen_s = FIRST_REOPEN_S
        self._told = signals
        return said

    def close(self) -> None:
        """See `Plc.close`: the last line is a status that says Preoperational, no recipe, no result."""
        if self._told is not None and not self._failure:
            goodbye = replace(self._told, state=_PREOPERATIONAL, recipe_number=0, recipe_checksum=0, result=NO_RESULT)
            with contextlib.suppress(*PORT_ERRORS):
                self._say_last(status_line(goodbye))
        self._told = None
        with contextlib.suppress(*PORT_ERRORS):
            self._port.close()

    def _open(self) -> None:
        if self._failure and (left_s := self._reopen_at_s - self._clock()) > 0:
            raise PlcError(f"{self._failure} (tried again in {left_s * 1000:.0f} ms)")
        try:
            self._port.open()
        except (*PORT_ERRORS, ValueError) as error:
            raise self._lost(f"cannot be opened ({error}); check that it is plugged in, free, and readable for this user") from error
        self._failure = ""

    def _turn(self, signals: StationSignals) -> tuple[bool, bool]:
        """Takes what came and sends what is due. Returns whether anything came, and whether that was all there is."""
        data, unsent = self._port.read(_READ_BYTES), self._port.unsent()
        if data:
            self._conversation.hear(data, signals, unsent)
        self._conversation.tell(signals, self._clock(), unsent)
        self._send()
        return bool(data), len(data) < _READ_BYTES

    def _send(self) -> None:
        out = self._conversation.out
        if not out:
            return
        sent = self._port.write(out)
        del out[:sent]
        if sent:
            self._stuck_since_s = None
        elif self._stuck_since_s is None:
            self._stuck_since_s = self._clock()
        elif self._clock() - self._stuck_since_s > self._timeout_s:
            raise TimeoutError(f"it accepted nothing for {self._timeout_s * 1000:.0f} ms")

    def _say_last(self, goodbye: bytes) -> None:
        """What had not left makes place; the CR ends a line of it that was cut in two."""
        if self._conversation.out:
            self._port.drop_unsent()
            goodbye = b"\r" + goodbye
        self._port.write(goodbye)

    def _lost(self, what: str) -> PlcError:
        with contextlib.suppress(*PORT_ERRORS):
            self._port.drop_unsent()
        with contextlib.suppress(*PORT_ERRORS):
            self._port.close()
        self._conversation.cut()
        self._stuck_since_s = None
        pause_s = self._reopen_s
        self._reopen_s = min(2 * pause_s, LAST_REOPEN_S)
        self._failure = f"{self._name}: {what}"
        self._reopen_at_s = self._clock() + pause_s
        return PlcError(self._failure)
