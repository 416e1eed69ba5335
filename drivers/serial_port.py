"""The serial ports under every dialect: exclusive, low latency where the driver can, RS-485 where it is asked for."""

import contextlib
import os
import select
import termios
from pathlib import Path

import serial
from serial.rs485 import RS485Settings

PORT_ERRORS = (OSError, termios.error)
"""What a port that is gone raises, whatever is asked of it."""
FIRST_REOPEN_S = 0.1
LAST_REOPEN_S = 2.0
"""The pauses between two attempts to open a port that is gone begin and end here."""
_PSEUDO_TERMINALS = Path("/dev/pts")
_CHARACTER_BITS = 11


def parity_of(path: str, parity: str) -> str:
    """The parity with which the port at `path` can be opened.

    A pseudo terminal has none; the C library takes one once and refuses it when the port is opened again.
    """
    return serial.PARITY_NONE if Path(path).resolve().parent == _PSEUDO_TERMINALS else parity


def rtu_silence_s(baudrate: int) -> float:
    """Between two telegrams of Modbus RTU: 3.5 characters, and 1.75 ms above 19200 baud (Modbus over Serial Line V1.02, 2.5.1.1)."""
    return 3.5 * _CHARACTER_BITS / baudrate if baudrate <= 19_200 else 0.00175


def open_port(path: str, baudrate: int, parity: str, *, rs485: bool = False, write_timeout_s: float | None = None) -> serial.Serial:
    """Opens a port for one user, raw, without flow control, never waiting for bytes; what came in before is dropped.

    Args:
        rs485: the port's driver asserts RTS while it sends, which turns a half-duplex RS-485 transceiver round.

    Raises:
        OSError: it cannot be opened, somebody else has it, or its driver cannot do `rs485`.
        ValueError: it cannot have this rate or parity.
    """
    port = serial.Serial(path, baudrate=baudrate, parity=parity_of(path, parity), timeout=0, write_timeout=write_timeout_s, exclusive=True)
    if rs485:
        try:
            port.rs485_mode = RS485Settings()
        except (OSError, ValueError) as error:
            port.close()
            raise OSError(
                "its driver cannot turn an RS-485 transceiver round by RTS: set plc.rs485 to false and use an adapter that does so itself"
            ) from error
    with contextlib.suppress(OSError, ValueError):  # not every driver has that mode
        port.set_low_latency_mode(True)
    return port


class Port:
    """A serial port that is never waited for longer than asked; see `open_port`.

    All but `open` raise OSError (or termios.error) when the port is gone.
    """

    def __init__(self, path: str, baudrate: int, parity: str, *, rs485: bool = False) -> None:
        self._path = path
        self._baudrate = baudrate
        self._parity = parity
        self._rs485 = rs485
        self._serial: serial.Serial | None = None

    def open(self) -> bool:
        """Opens it if it is not open; True when it was not. Raises as `open_port`."""
        if self._serial is not None:
            return False
        self._serial = open_port(self._path, self._baudrate, self._parity, rs485=self._rs485)
        return True

    def read(self, limit: int) -> bytes:
        """What has come, up to `limit` bytes."""
        port = self._opened()
        # A read alone does not tell a port that is gone from one that is silent.
        return os.read(port.fileno(), min(port.in_waiting, limit))

    def wait(self, seconds: float) -> bool:
        """Waits until something has come, or the port is gone; False when neither was within `seconds`."""
        return bool(select.select([self._opened().fileno()], [], [], seconds)[0])

    def write(self, data: bytes | bytearray) -> int:
        """Sends what the port accepts now, and returns how much that was."""
        # pyserial's own write turns in a busy loop while a port that must not be waited for is full.
        try:
            return os.write(self._opened().fileno(), data)
        except BlockingIOError:
            return 0

    def unsent(self) -> int:
        """How many bytes were written and have not left."""
        return self._opened().out_waiting

    def drop_unsent(self) -> None:
        """Forgets the bytes that have not left; closing would wait for them."""
        termios.tcflush(self._opened().fileno(), termios.TCOFLUSH)

    def close(self) -> None:
        """Gives the port back, if it is open."""
        port, self._serial = self._serial, None
        if port is not None:
            port.close()

    def _opened(self) -> serial.Serial:
        if self._serial is None:
            raise serial.PortNotOpenError
        return self._serial
