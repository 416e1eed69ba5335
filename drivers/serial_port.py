"""What both dialects know of the serial ports under them."""

import termios
from pathlib import Path

import serial

PORT_ERRORS = (OSError, termios.error)
"""What a port that is gone raises, whatever is asked of it."""
FIRST_REOPEN_S = 0.1
LAST_REOPEN_S = 2.0
"""The pauses between two attempts to open a port that is gone begin and end here."""
_PSEUDO_TERMINALS = Path("/dev/pts")


def parity_of(path: str, parity: str) -> str:
    """The parity with which the port at `path` can be opened.

    A pseudo terminal has none; the C library takes one once and refuses it when the port is opened again.
    """
    return serial.PARITY_NONE if Path(path).resolve().parent == _PSEUDO_TERMINALS else parity
