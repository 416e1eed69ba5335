"""The Unix socket between the daemon and whoever operates it: one JSON request a line, one JSON reply a line.

The thread here only carries: requests wait in a bounded queue until the main thread takes them between two turns, each with a future for
its reply. A request is {"command": "prepare", "recipe": "bulb"}; a reply has "ok", and "error" in words when it is false.
"""

import json
import queue
import socket
import socketserver
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WAITING = 16
_LONGEST_LINE = 64 * 1024
REPLY_WITHIN_S = 120.0
"""So long may a request take, preparing a large network on a slow machine included."""


class ControlError(Exception):
    """The daemon cannot be reached; the message says through which socket and what to do."""


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody wants of the daemon, and where its answer goes."""

    words: dict[str, Any]
    reply: "Future[dict[str, Any]]" = field(default_factory=Future)


class Control:
    """Listens on the socket from the moment it is made; only its owner and group may connect."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._requests: queue.Queue[Request] = queue.Queue(_WAITING)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._server = _Server(str(path), _Handler)
        path.chmod(0o660)
        self._server.requests = self._requests
        self._thread = threading.Thread(target=self._server.serve_forever, name="control", daemon=True)
        self._thread.start()

    def request(self) -> Request | None:
        """The oldest request that was not taken yet; never waits. One a turn, so that no crowd of clients holds the line up."""
        try:
            return self._requests.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """Stops listening and removes the socket. Never raises."""
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    requests: "queue.Queue[Request]"


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        while line := self.rfile.readline(_LONGEST_LINE):
            self.wfile.write(json.dumps(self._reply(line)).encode() + b"\n")

    def _reply(self, line: bytes) -> dict[str, Any]:
        try:
            words = json.loads(line)
        except ValueError:
            words = None
        if not isinstance(words, dict):
            return {"ok": False, "error": "a request is one JSON object a line"}
        request = Request(words)
        try:
            self.server.requests.put_nowait(request)
            return request.reply.result(REPLY_WITHIN_S)
        except queue.Full:
            return {"ok": False, "error": "the daemon is busy with other requests; try again"}
        except FutureTimeoutError:
            return {"ok": False, "error": f"no answer within {REPLY_WITHIN_S:.0f} s; see `station status`"}


def ask(path: Path, words: dict[str, Any]) -> dict[str, Any]:
    """The running daemon's reply to a request.

    Raises:
        ControlError: no daemon listens at `path`, or it went away without an answer.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(REPLY_WITHIN_S + 5)
            connection.connect(str(path))
            connection.sendall(json.dumps(words).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline()
    except OSError as error:
        raise ControlError(f"{path}: no running station answers there ({error.strerror or error}); start it with `station run`") from None
    if not line:
        raise ControlError(f"{path}: the station went away before it answered; see its log")
    reply: dict[str, Any] = json.loads(line)
    return reply
