"""The process that holds the discrete lines of one station: READY is DTR and PASS is RTS, asserted is good news.

It is a program of its own so that a pulse ends in time and READY falls while the station hangs, is stopped, or is killed. It knows only
the standard library and is started by `drivers.discrete_lines` as

    python -I -S lines_guard.py PORT VALID_NS SILENCE_NS

On stdin comes one signed 64-bit number a turn, in the machine's byte order: `NOT_READY`, `READY`, or, ready too, when the part that has
passed was judged, on the monotonic clock. Each is answered with a `.` once the lines stand; the first `.` says that the port is open. A
port that fails is told once as `!` and why, and ends the program, as the end of stdin does. However it ends, both lines fall: the port is
left with HUPCL, by which the kernel drops them when its last user has gone.
"""

import contextlib
import fcntl
import os
import select
import signal
import struct
import sys
import termios
import time

NOT_READY, READY = -1, 0
BEGINS_WITHIN_NS = 100_000_000
"""A pulse begins so soon after the verdict or not at all: later it might be taken for the next part's."""
MESSAGE = struct.Struct("=q")
_LOOK_NS = 100_000_000
"""How often the port is asked whether it is still there."""
_DTR, _RTS = struct.pack("=i", termios.TIOCM_DTR), struct.pack("=i", termios.TIOCM_RTS)


class Lines:
    """Decides how the lines stand. No I/O; all times are the monotonic clock's. Each verdict has one pulse at most, in their order.

    Attributes:
        ready, passed: how DTR and RTS must stand now.
        changes_ns: when one of them changes if nothing more is heard, -1 when both are down.
    """

    def __init__(self, valid_ns: int, silence_ns: int, now_ns: int) -> None:
        """Verdicts from before `now_ns` have no pulse."""
        self.ready = self.passed = False
        self._valid_ns, self._silence_ns = valid_ns, silence_ns
        self._judged_ns = now_ns
        self._ends_ns = self._silent_ns = now_ns

    @property
    def changes_ns(self) -> int:
        if self.passed:
            return min(self._ends_ns, self._silent_ns)
        return self._silent_ns if self.ready else -1

    def hear(self, word: int, now_ns: int) -> None:
        """Takes what the station says in a turn: `NOT_READY`, `READY`, or when the part that passed was judged."""
        self.turn(now_ns)
        self._silent_ns = now_ns + self._silence_ns
        self.ready = word >= READY
        if word == self._judged_ns and word > READY:
            return
        # A pulse that another part's would follow without a gap is cut, and the other part has none: nobody could tell them apart.
        begins = word > self._judged_ns and 0 <= now_ns - word <= BEGINS_WITHIN_NS and not self.passed
        self.passed = begins
        self._judged_ns = max(self._judged_ns, word)
        if begins:
            self._ends_ns = now_ns + self._valid_ns

    def turn(self, now_ns: int) -> None:
        """Lets fall what is over at `now_ns`."""
        if now_ns >= self._silent_ns:
            self.ready = self.passed = False
        if now_ns >= self._ends_ns:
            self.passed = False


class Port:
    """A serial port of which nothing is used but DTR and RTS, both down when it is open."""

    def __init__(self, path: str) -> None:
        """Opens the port, exclusively.

        Raises:
            OSError, termios.error: it cannot be opened, is in use, or has no modem lines.
        """
        self._file = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._standing = (True, True)  # the kernel raises both when it opens a port
        self.set(ready=False, passed=False)
        fcntl.ioctl(self._file, termios.TIOCEXCL)
        _, _, _, _, _, _, characters = termios.tcgetattr(self._file)
        flags = termios.CS8 | termios.CREAD | termios.CLOCAL | termios.HUPCL
        # At rate 0 the kernel raises nothing when the port is opened the next time; nothing is sent here that would need a rate.
        termios.tcsetattr(self._file, termios.TCSANOW, [0, 0, flags, 0, termios.B0, termios.B0, characters])
        if not termios.tcgetattr(self._file)[2] & termios.HUPCL:
            raise OSError("its driver does not drop the lines at the end (HUPCL)")

    def set(self, *, ready: bool, passed: bool) -> None:
        """Sets both lines, falling ones first.

        Raises:
            OSError: the port is gone.
        """
        wanted, standing = (ready, passed), self._standing
        self._standing = wanted
        changed = [(now, bit) for now, before, bit in zip(wanted, standing, (_DTR, _RTS), strict=True) if now != before]
        for raised, bit in sorted(changed):
            fcntl.ioctl(self._file, termios.TIOCMBIS if raised else termios.TIOCMBIC, bit)

    def look(self) -> None:
        """Asks the port for its lines.

        Raises:
            OSError: it is gone, or somebody else has set them.
        """
        (bits,) = struct.unpack("=i", fcntl.ioctl(self._file, termios.TIOCMGET, bytes(4)))
        if (bool(bits & termios.TIOCM_DTR), bool(bits & termios.TIOCM_RTS)) != self._standing:
            raise OSError("the lines do not stand as they were set; does another program use them?")


def hold(port: Port, lines: Lines) -> None:
    """Sets the lines as the station says on stdin, until that ends.

    Raises:
        OSError: the port is gone, or nobody takes the answers any more.
    """
    looked_ns = time.monotonic_ns()
    while True:
        left_s = None if lines.changes_ns < 0 else max(lines.changes_ns - time.monotonic_ns(), 0) / 1e9
        data = None
        if select.select([0], [], [], left_s)[0] and not (data := os.read(0, 512 * MESSAGE.size)):
            return
        lines.turn(time.monotonic_ns())
        port.set(ready=lines.ready, passed=lines.passed)
        for (word,) in MESSAGE.iter_unpack(data or b""):
            lines.hear(word, time.monotonic_ns())
            port.set(ready=lines.ready, passed=lines.passed)
            os.write(1, b".")
        if time.monotonic_ns() - looked_ns > _LOOK_NS:
            looked_ns = time.monotonic_ns()
            port.look()


def main(path: str, valid_ns: int, silence_ns: int) -> int:
    """Holds the lines of the port at `path` until the station has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the station, whose end ends this one
    did = "cannot be opened"
    try:
        port = Port(path)
        did = "was lost"
        os.write(1, b".")
        hold(port, Lines(valid_ns, silence_ns, time.monotonic_ns()))
        port.set(ready=False, passed=False)
    except (OSError, termios.error) as error:
        with contextlib.suppress(BrokenPipeError):
            os.write(1, f"!{did} ({error})".encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
