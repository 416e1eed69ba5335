"""The cable between station and PLC as the suite holds it: a pseudo terminal whose bytes can be lost, bent, delayed or doubled."""

import random
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from drivers.simulated.line import Terminal

Bend = Callable[[bytes], bytes]
"""What happens to a piece of bytes on its way."""


class Wire:
    """The PLC's end of the cable. Whoever owns it calls `read`, `write` and `pump` from one thread; the rest may be set from another.

    Attributes:
        to_station, to_plc: what happens to the bytes of either direction; None leaves them as they are.
        delay_s: how much later the PLC's bytes arrive.
        echo: the station hears itself, as on an RS-485 pair whose receiver stays on.
        harmed: how often anything was done to what passed: the proof that a fault of the cable was one.
    """

    def __init__(self, link: Path) -> None:
        self.to_station: Bend | None = None
        self.to_plc: Bend | None = None
        self.delay_s = 0.0
        self.echo = False
        self.harmed = 0
        self._link = link
        self._terminal: Terminal | None = Terminal(link)
        self._under_way: deque[tuple[float, bytes]] = deque()

    def fileno(self) -> int:
        """The near end; -1 while the cable is out."""
        terminal = self._terminal
        return terminal.fileno() if terminal else -1

    def read(self) -> bytes:
        """What came from the station."""
        terminal = self._terminal
        data = terminal.read() if terminal else b""
        if data and self.echo and terminal:
            terminal.write(data)
            self.harmed += 1
        return self._bent(self.to_plc, data)

    def write(self, data: bytes) -> None:
        """Sends the PLC's bytes on their way."""
        data = self._bent(self.to_station, data)
        self.harmed += bool(data and self.delay_s)
        if data:
            self._under_way.append((time.monotonic() + self.delay_s, data))
        self.pump()

    def inject(self, data: bytes) -> None:
        """Bytes that nobody sent."""
        if terminal := self._terminal:
            terminal.write(data)
            self.harmed += 1

    def pump(self) -> None:
        """Lets arrive what is due."""
        while self._under_way and self._under_way[0][0] <= time.monotonic():
            _, data = self._under_way.popleft()
            if terminal := self._terminal:
                terminal.write(data)

    def unplug(self) -> None:
        """The adapter is gone: the station's port hangs up."""
        terminal, self._terminal = self._terminal, None
        if terminal:
            terminal.close()
            self.harmed += 1

    def plug(self) -> None:
        """Another adapter at the same path."""
        if self._terminal is None:
            self._terminal = Terminal(self._link)

    def heal(self) -> None:
        """The cable is as good as new; what was under way is lost."""
        self.to_station = self.to_plc = None
        self.delay_s, self.echo = 0.0, False
        self._under_way.clear()
        self.plug()

    def _bent(self, bend: Bend | None, data: bytes) -> bytes:
        if not bend or not data:
            return data
        bent = bend(data)
        self.harmed += bent != data
        return bent


def lost(data: bytes) -> bytes:  # noqa: ARG001 - a Bend
    """Nothing arrives."""
    return b""


def wrong_rate(data: bytes) -> bytes:
    """What a receiver at half the rate makes of it: every second byte, its bits smeared."""
    return bytes((byte * 0x55 ^ 0xF0) & 0xFF for byte in data[::2])


class Times:
    """A bend for the next `count` pieces; `rest` for those after."""

    def __init__(self, count: int, bend: Bend, rest: Bend | None = None) -> None:
        self._left, self._bend, self._rest = count, bend, rest

    def __call__(self, data: bytes) -> bytes:
        if self._left > 0:
            self._left -= 1
            return self._bend(data)
        return self._rest(data) if self._rest else data


def flip(chance: random.Random) -> Bend:
    """One bit of each piece is another one."""

    def bend(data: bytes) -> bytes:
        bent = bytearray(data)
        bent[chance.randrange(len(bent))] ^= 1 << chance.randrange(8)
        return bytes(bent)

    return bend


def cut_short(chance: random.Random) -> Bend:
    """The end of each piece is lost."""
    return lambda data: data[: chance.randrange(len(data))]
