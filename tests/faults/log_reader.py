"""Who reads what the daemon logs, and how that can go wrong."""

import fcntl
import os
import select
import subprocess
import sys
import termios
import threading
from contextlib import suppress
from pathlib import Path


class LogReader:
    """Reads what the daemon logs, as the journal would, until it is told not to."""

    def __init__(self, process: subprocess.Popen[bytes], file: Path) -> None:
        assert process.stderr is not None
        self._pipe, self._file = process.stderr, file
        self._reads = threading.Event()
        self._reads.set()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """The journal hangs: the pipe fills."""
        self._reads.clear()

    def follow(self) -> None:
        """It reads again."""
        self._reads.set()

    def hang_up(self) -> None:
        """Nobody reads any more, for ever."""
        self._ended = True
        self._thread.join(2)
        self._pipe.close()

    def full(self) -> bool:
        """The pipe takes no more: all its pages are begun, and whoever writes keeps lines in one piece."""
        waiting = fcntl.ioctl(self._pipe.fileno(), termios.FIONREAD, b"\0" * 4)
        return int.from_bytes(waiting, sys.byteorder) > 0.8 * fcntl.fcntl(self._pipe.fileno(), fcntl.F_GETPIPE_SZ)

    def closed(self) -> bool:
        """Nobody can read the pipe any more."""
        return self._pipe.closed

    def close(self) -> None:
        """The process has ended."""
        self._thread.join(5)
        with suppress(OSError):
            self._pipe.close()

    def _run(self) -> None:
        with self._file.open("ab", buffering=0) as file, suppress(OSError, ValueError):
            os.set_blocking(self._pipe.fileno(), False)
            while not self._ended:
                self._reads.wait(0.5)
                if not self._reads.is_set():
                    continue
                if not select.select([self._pipe], [], [], 0.1)[0]:
                    continue
                data = os.read(self._pipe.fileno(), 65_536)
                if not data:
                    return
                file.write(data)
