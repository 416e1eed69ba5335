"""Where events go: to stderr, as lines for a person at a terminal, as JSON with a priority when systemd's journal reads them."""

import logging
import os
import select
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict

_PRIORITY = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}


def configure(least: int = logging.INFO) -> None:
    """Sets up structlog for this process, events below `least` left out; stdout stays free for reports."""
    journal = bool(os.environ.get("JOURNAL_STREAM"))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _for_the_journal if journal else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=16),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(_Unhurried(sys.stderr)),  # type: ignore[arg-type]
    )


class _Unhurried:
    """A stream that is never waited for: what its reader has no room for is lost, because the loop that judges writes here too."""

    def __init__(self, stream: TextIO) -> None:
        self._descriptor = stream.fileno()
        self._room = select.poll()
        self._room.register(self._descriptor, select.POLLOUT)

    def write(self, text: str) -> None:
        """Writes up to as much as a pipe that has room takes at once (PIPE_BUF).

        Raises:
            OSError: nobody reads any more.
        """
        if self._room.poll(0):
            os.write(self._descriptor, text.encode()[: select.PIPE_BUF])

    def flush(self) -> None:
        """Nothing is kept back."""


def _for_the_journal(logger: Any, level: str, event: EventDict) -> str:
    """sd-daemon's prefix tells the priority; the journal itself keeps the time."""
    return f"<{_PRIORITY.get(level, 6)}>{structlog.processors.JSONRenderer()(logger, level, event)!s}"
