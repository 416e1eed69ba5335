"""Discrete lines beside either dialect: RTS of a serial port says PASS and DTR says READY, so that whatever is cut, off or dead rejects.

The lines are held by `drivers.lines_guard`, a small process of its own that ends each pulse and, when the station hangs or dies, drops
both. The two watch each other: a guard that does not answer is killed, and the kernel drops the lines of a port that nobody holds.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from drivers.lines_guard import MESSAGE, NOT_READY, READY
from drivers.plc import Plc, PlcError, PlcInput, StationSignals
from drivers.serial_port import FIRST_REOPEN_S, LAST_REOPEN_S

_READY, _EXECUTING = frozenset({6, 7, 8}), frozenset({7, 8})
"""OPC 40100-1's Ready, SingleExecution and ContinuousExecution; see `drivers.plc.StationSignals`."""
_ANSWERS_WITHIN_S = 1.0
"""So long may the guard take to answer, or to open the port, before it is killed."""
_ENDS_WITHIN_S = 1.0
_DIES_WITHIN_S = 0.05
_GUARD = Path(__file__).with_name("lines_guard.py")


class DiscreteLines:
    """A `Plc` that carries every exchange to another one and sets two lines by the same signals.

    READY stands in Ready, SingleExecution and ContinuousExecution while exchanges go well. PASS stands once for `valid_ns` for each result
    that passed, before the exchange that tells it, and begins within 100 ms of the verdict or not at all. It falls at once with READY,
    outside execution, and with the next result. A repeated answer has no pulse, nor has one whose pulse would follow another without a
    gap: nobody could tell them apart. Both lines fall when the station has said nothing for `silence_ns`. A port that is gone is opened
    again with pauses from 0.1 s to 2 s.

    Attributes:
        simulated: the dialect's.
    """

    def __init__(
        self, plc: Plc, port: str, *, valid_ns: int, silence_ns: int = 3_000_000_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Opens nothing yet: the first exchange does, exclusively. `port` is not the dialect's own."""
        self.simulated = plc.simulated
        self._plc = plc
        self._port = port
        self._clock = clock
        self._command = [sys.executable, "-I", "-S", str(_GUARD), port, str(valid_ns), str(silence_ns)]
        self._guard: _Guard | None = None
        self._hears = False
        self._failure = ""
        self._reopen_at_s = clock()
        self._reopen_s = FIRST_REOPEN_S

    def exchange(self, signals: StationSignals) -> PlcInput:
        """See `Plc.exchange`, which is the dialect's; the lines were set before it.

        Raises:
            PlcError: see `Plc.exchange`; or all was told, but the lines' port is gone or not open yet.
            ValueError: the signals cannot be told.
        """
        self._tell(_word(signals) if self._hears else NOT_READY)
        self._hears = False
        try:
            heard = self._plc.exchange(signals)
            self._hears = True
        finally:
            if not self._hears:
                self._tell(NOT_READY)
        if self._failure:
            raise PlcError(self._failure)
        return heard

    def close(self) -> None:
        """Drops both lines, then closes the dialect; see `Plc.close`."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.end()
        self._plc.close()

    def _tell(self, word: int) -> None:
        """Says how the lines must stand; `_failure` says why they may not stand so."""
        now_s = self._clock()
        if self._guard is None and now_s < self._reopen_at_s:
            return
        try:
            if self._guard is None:
                self._failure = f"{self._port}: the port of the discrete lines is being opened"
                self._guard = _Guard(self._command, now_s)
            self._guard.tell(word, now_s)
        except OSError as error:
            self._lost(error, now_s)
            return
        if self._guard.is_open:
            self._failure = ""
            self._reopen_s = FIRST_REOPEN_S

    def _lost(self, error: OSError, now_s: float) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
        fix = "check that it is plugged in, free, readable for this user, and not plc.port"
        self._failure = f"{self._port}: the port of the discrete lines {error}; {fix}"
        self._reopen_at_s = now_s + self._reopen_s
        self._reopen_s = min(2 * self._reopen_s, LAST_REOPEN_S)


def _word(signals: StationSignals) -> int:
    """What `lines_guard` is to be told: READY, when the part that passed was judged, or neither."""
    if signals.state not in _READY:
        return NOT_READY
    result = signals.result
    passed = signals.state in _EXECUTING and result.sequence > 0 and result.passed is True
    return result.judged_ns if passed else READY


class _Guard:
    """A running `lines_guard`, never waited for. What stops it is an OSError that says so in words.

    Attributes:
        is_open: True once it has the port.
    """

    def __init__(self, command: list[str], now_s: float) -> None:
        """Starts it; it opens the port in its own time."""
        self.is_open = False
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        os.set_blocking(self._stdout.fileno(), False)
        self._unanswered, self._since_s = 1, now_s

    def tell(self, word: int, now_s: float) -> None:
        """Takes its answers and says the next word.

        Raises:
            OSError: it failed, ended, or does not answer.
        """
        self._listen(now_s)
        if self._unanswered == 0:
            self._since_s = now_s
        elif now_s - self._since_s > _ANSWERS_WITHIN_S:
            raise OSError(f"did not answer for {now_s - self._since_s:.1f} s")
        try:
            self._stdin.write(MESSAGE.pack(word))
        except BrokenPipeError:
            self._listen(now_s)
            raise
        self._unanswered += 1

    def _listen(self, now_s: float) -> None:
        answers = self._stdout.read(4096)
        if answers is None:
            return
        said, _, failure = answers.partition(b"!")
        if failure or not answers:
            raise OSError(failure.decode(errors="replace") or "lost the process that holds it")
        self.is_open = True
        self._unanswered -= len(said)
        self._since_s = now_s

    def end(self) -> None:
        """Lets it drop the lines and waits for its end."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_WITHIN_S)
        self.kill()

    def kill(self) -> None:
        """Ends it at once; the kernel drops the lines."""
        self._process.kill()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_DIES_WITHIN_S)
