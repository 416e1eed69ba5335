"""Faults of the machine that the station runs on: its processes, its memory, its disk, its files and those who operate it."""

import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

from fault import LINKS, Act, Fault, act, any_of, dead, error, failed, goes_on, refused, times_out
from plant import BULB, IRON, PREPARE, PRODUCTS, Plant

_SILENT = any_of(dead, times_out)

_RAISES = """
import gc
from station.inspector import Inspector
was = Inspector.inspect
def inspect(self, frame):
    Inspector.inspect = was
    raise {error}
Inspector.inspect = inspect
"""
_HANGS = """
import time
from station.inspector import Inspector
was = Inspector.inspect
def inspect(self, frame):
    Inspector.inspect = was
    seen = was(self, frame)
    time.sleep({seconds})
    return seen
Inspector.inspect = inspect
"""
_SEES = """
import dataclasses
from station.inspector import Inspector
was = Inspector.inspect
def inspect(self, frame):
    Inspector.inspect = was
    return dataclasses.replace(was(self, frame), {changes})
Inspector.inspect = inspect
"""
_CLOCK = """
import gc, time
from station.condition import Condition
gc.unfreeze()
for condition in [each for each in gc.get_objects() if type(each) is Condition]:
    condition._wall_clock = lambda: time.time_ns() + {seconds} * 10**9
gc.freeze()
"""


def _inside(text: str, lasting_s: float = 0.0) -> Act:
    """Happens inside the daemon."""

    @act
    def happens(line: Plant) -> Generator[None]:
        line.happen(text)
        yield
        line.pause(lasting_s)

    return happens


def _clock(seconds: int) -> Act:
    """The wall clock is wrong by so much, as the rows say that are kept then."""

    @act
    def happens(line: Plant) -> Generator[None]:
        line.happen(_CLOCK.format(seconds=seconds))
        yield
        line.prove(lambda: abs(_newest_row_s(line) - time.time() - seconds) < 600, f"rows are wrong by {seconds} s")

    return happens


def _newest_row_s(line: Plant) -> float:
    with closing(sqlite3.connect(f"file:{line.home}/data/ledger.sqlite?mode=ro", uri=True)) as ledger:
        newest = ledger.execute("SELECT creation_time_ns FROM results ORDER BY result_id DESC LIMIT 1").fetchone()
    return float(newest[0]) / 1e9


def _killed(number: int) -> Act:
    """The daemon ends at once, and is started again, as systemd does."""

    @act
    def happens(line: Plant) -> Generator[None]:
        os.kill(line.pid, number)
        yield

    return happens


def _stopped(shortest_s: float, longest_s: float) -> Act:
    @act
    def happens(line: Plant) -> Generator[None]:
        os.kill(line.pid, signal.SIGSTOP)
        line.prove(lambda: Path(f"/proc/{line.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "stopped")
        line.pause(line.chance.uniform(shortest_s, longest_s))
        os.kill(line.pid, signal.SIGCONT)
        yield

    return happens


@act
def _restart_loop(line: Plant) -> Generator[None]:
    for _ in range(3):
        line.stop_station(signal.SIGKILL)
        line.start_station()
        line.pause(line.chance.uniform(0, 3.5))
    line.stop_station(signal.SIGKILL)
    yield


@act
def _second_station(line: Plant) -> Generator[None]:
    words = [sys.executable, "-m", "station.cli", "--home", str(line.home), "run"]
    second = subprocess.run(words, capture_output=True, timeout=60, check=False)
    line.prove(lambda: second.returncode == 2, f"a second station ended with {second.returncode}")
    line.mark()
    yield


def _limited(kind: int, what: str) -> Act:
    """The kernel gives the daemon no more of it than it has."""

    @act
    def happens(line: Plant) -> Generator[None]:
        before = resource.prlimit(line.pid, kind)
        used = {
            "memory": lambda: int(Path(f"/proc/{line.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE"),
            "files": lambda: len(list(Path(f"/proc/{line.pid}/fd").iterdir())),
            "file size": lambda: 1,
        }[what]()
        resource.prlimit(line.pid, kind, (used, before[1]))
        line.prove(lambda: resource.prlimit(line.pid, kind)[0] == used, f"no more {what}")
        try:
            yield
            line.pause(0.5)
        finally:
            resource.prlimit(line.pid, kind, before)

    return happens


def _changed(path: str, change: str) -> Act:
    """A file is changed, and the PLC asks for its recipe; afterwards it is as before."""

    @act
    def happens(line: Plant) -> Generator[None]:
        file = line.home / path
        before = file.read_bytes()
        if change == "swapped":
            file.write_bytes((line.home / "weights/iron.safetensors").read_bytes())
        elif change == "corrupt":
            at = line.chance.randrange(len(before) // 2, len(before))
            file.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
        elif change == "cut":
            file.write_bytes(before[: line.chance.randrange(len(before))])
        elif change == "gone":
            file.unlink()
        else:
            file.write_bytes(before + change.encode())
        try:
            line.say(PREPARE, BULB)
            yield
            line.mark()
            line.wait(goes_on, 2.0, "the recipe that was prepared before goes on")
        finally:
            file.write_bytes(before)

    return happens


@act
def _ledger_locked(line: Plant) -> Generator[None]:
    with closing(sqlite3.connect(line.home / "data/ledger.sqlite", timeout=5, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
            line.pause(0.5)
        finally:
            other.execute("ROLLBACK")


@act
def _recordings_gone(line: Plant) -> Generator[None]:
    folder = line.home / "data/recordings"
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("")
    yield
    line.pause(0.3)
    line.prove(folder.is_file, "the file still stands there")
    folder.unlink()


@act
def _log_stuck(line: Plant) -> Generator[None]:
    if line.log.closed():  # by the fault below
        line.stop_station()
        line.run(BULB)
    line.log.pause()
    until_s = time.monotonic() + 30
    while not line.log.full() and time.monotonic() < until_s:
        line.say(PREPARE, 77)  # each is an event
        line.pause(0.01)
    line.prove(line.log.full, "the pipe is full")
    line.say(PREPARE, BULB)
    line.mark()
    yield
    line.log.follow()


@act
def _log_gone(line: Plant) -> Generator[None]:
    line.log.hang_up()
    line.prove(line.log.closed, "the pipe is closed")
    line.mark()
    yield


@act
def _socket_flood(line: Plant) -> Generator[None]:
    with ExitStack() as open_sockets:
        for number in range(100):
            client = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(0.2)
            with suppress(OSError):
                client.connect(str(line.home / "data/control.sock"))
                client.sendall([b'{"command": "status"}\n', b"\x00\xff{{{\n", b'{"command": "status"' * 2000, b""][number % 4])
        line.prove(lambda: number == 99, "all of them have spoken")
        line.mark()
        yield


@act
def _socket_gone(line: Plant) -> Generator[None]:
    path = line.home / "data/control.sock"
    path.rename(path.with_suffix(".gone"))
    yield
    line.prove(lambda: not path.exists(), "nobody finds it")
    path.with_suffix(".gone").rename(path)


@act
def _operator_prepares(line: Plant) -> Generator[None]:
    """Somebody at the station prepares the other product, which the PLC did not ask for."""
    line.mark()
    line.operator("recipe", "prepare", PRODUCTS[IRON])
    yield


@act
def _operator_stops(line: Plant) -> Generator[None]:
    line.mark()
    line.operator("recipe", "stop")
    yield


_BULB = "recipes/bulb/recipe.yaml"
_WEIGHTS = "weights/bulb.safetensors"

_FAULTS = [
    Fault("daemon killed", "host", "SIGKILL; systemd starts it again", "silence", _SILENT, 4.0, _killed(signal.SIGKILL), restarts=True),
    Fault("daemon crashed", "host", "SIGSEGV; systemd starts it again", "silence", _SILENT, 4.0, _killed(signal.SIGSEGV), restarts=True),
    Fault(
        "daemon stopped by its manager",
        "host",
        "SIGTERM, and started again",
        "FAIL, or silence",
        any_of(_SILENT, failed("not running")),
        4.0,
        _killed(signal.SIGTERM),
        restarts=True,
    ),
    Fault(
        "restart loop", "host", "SIGKILL three times within seconds of the start", "silence", _SILENT, 15.0, _restart_loop, restarts=True
    ),
    Fault(
        "daemon hangs shortly",
        "host",
        "SIGSTOP for 0.1 to 0.9 s",
        "the line goes on",
        any_of(goes_on, error(2, 3, 4)),
        4.0,
        _stopped(0.1, 0.9),
    ),
    Fault("daemon hangs", "host", "SIGSTOP for 2.5 to 3.5 s", "silence", _SILENT, 5.0, _stopped(2.5, 3.5)),
    Fault(
        "network fails",
        "host",
        "the device reports an error",
        "FAIL, inspection error; Error 7",
        failed("inspection error", "not running"),
        1.0,
        _inside(_RAISES.format(error="RuntimeError('CUDA error: an illegal memory access')")),
    ),
    Fault(
        "memory of the network",
        "host",
        "MemoryError in the inspection",
        "FAIL, inspection error; Error 7",
        failed("inspection error", "not running"),
        1.0,
        _inside(_RAISES.format(error="MemoryError()")),
    ),
    Fault(
        "network slow",
        "host",
        "an inspection takes 1.2 s, the deadline is 1 s",
        "FAIL, late",
        any_of(failed("late"), times_out),
        4.0,
        _inside(_HANGS.format(seconds=1.2)),
    ),
    Fault("network hangs", "host", "an inspection takes 3 s", "silence", _SILENT, 5.0, _inside(_HANGS.format(seconds=3), 1.0)),
    Fault(
        "network says nothing",
        "host",
        "every probability is NaN",
        "FAIL",
        failed("uncertain", "inspection error", "defect"),
        1.0,
        _inside(_SEES.format(changes="class_name='good', probability=float('nan')")),
    ),
    Fault(
        "another frame's result",
        "host",
        "the inspection is of the frame before",
        "FAIL, inspection error",
        failed("inspection error"),
        1.0,
        _inside(_SEES.format(changes="frame_id=frame.frame_id - 1")),
    ),
    Fault(
        "another recipe's result",
        "host",
        "the inspection was made by another recipe",
        "FAIL, wrong recipe",
        failed("wrong recipe"),
        1.0,
        _inside(_SEES.format(changes="recipe_hash='0' * 64")),
    ),
    Fault(
        "out of memory",
        "host",
        "the kernel gives the daemon no more",
        "FAIL, Error 7, silence, or the line goes on",
        any_of(failed("inspection error", "not running"), error(7, 6), _SILENT, goes_on),
        5.0,
        _limited(resource.RLIMIT_AS, "memory"),
    ),
    Fault(
        "out of file descriptors",
        "host",
        "the kernel gives the daemon no more",
        "the line goes on",
        goes_on,
        3.0,
        _limited(resource.RLIMIT_NOFILE, "files"),
    ),
    Fault("disk full", "host", "no file can grow (EFBIG)", "Error 6", error(6), 3.0, _limited(resource.RLIMIT_FSIZE, "file size")),
    Fault("ledger locked", "host", "by another process", "Error 6, or silence", any_of(error(6), _SILENT), 8.0, _ledger_locked),
    Fault(
        "weights corrupt",
        "host",
        "one bit; the PLC asks for the recipe",
        "refused (21); the old one stays",
        refused(21),
        3.0,
        _changed(_WEIGHTS, "corrupt"),
    ),
    Fault(
        "weights swapped",
        "host",
        "another product's; the PLC asks for the recipe",
        "refused (21); the old one stays",
        refused(21),
        3.0,
        _changed(_WEIGHTS, "swapped"),
    ),
    Fault(
        "weights cut",
        "host",
        "half of the file; the PLC asks for the recipe",
        "refused (21); the old one stays",
        refused(21),
        3.0,
        _changed(_WEIGHTS, "cut"),
    ),
    Fault(
        "weights gone",
        "host",
        "the PLC asks for the recipe",
        "refused (21); the old one stays",
        refused(21),
        3.0,
        _changed(_WEIGHTS, "gone"),
    ),
    Fault(
        "recipe syntax error",
        "host",
        "the PLC asks for the recipe",
        "refused (21); the old one stays",
        refused(21),
        3.0,
        _changed(_BULB, "\n\tgood: [\n"),
    ),
    Fault(
        "recipe with an unknown key",
        "host",
        "the PLC asks for the recipe",
        "refused (21); the old one stays",
        refused(21),
        3.0,
        _changed(_BULB, "\nminimum_probabilty: 0.1\n"),
    ),
    Fault("recipe gone", "host", "the PLC asks for it", "refused (21); the old one stays", refused(21), 3.0, _changed(_BULB, "gone")),
    Fault("recordings' folder gone", "host", "a file stands in its place", "the line goes on", goes_on, 3.0, _recordings_gone),
    Fault("log reader stuck", "host", "the pipe is full", "the line goes on", goes_on, 12.0, _log_stuck),
    Fault("log reader gone", "host", "the pipe is closed", "the line goes on", goes_on, 3.0, _log_gone),
    Fault("clock an hour ahead", "host", "the wall clock steps", "the line goes on", goes_on, 2.0, _clock(3600)),
    Fault("clock an hour back", "host", "the wall clock steps", "the line goes on", goes_on, 2.0, _clock(-3600)),
    Fault("clock right again", "host", "the wall clock steps", "the line goes on", goes_on, 2.0, _clock(0)),
    Fault("control socket flood", "host", "100 clients, three of four talk nonsense", "the line goes on", goes_on, 3.0, _socket_flood),
    Fault("control socket gone", "host", "somebody deletes it", "the line goes on", goes_on, 3.0, _socket_gone),
    Fault("second station", "host", "is started in the same home", "the line goes on", goes_on, 10.0, _second_station),
    Fault(
        "operator prepares another recipe",
        "host",
        "at the station, without the PLC",
        "FAIL, wrong recipe",
        failed("wrong recipe"),
        6.0,
        _operator_prepares,
    ),
    Fault(
        "operator stops the line",
        "host",
        "at the station, without the PLC",
        "FAIL, not running",
        failed("not running"),
        2.0,
        _operator_stops,
    ),
]
_WHOEVER_COUNTS = (
    *("daemon killed", "daemon stopped by its manager", "daemon hangs shortly", "daemon hangs"),
    *("network fails", "memory of the network", "network slow", "network hangs", "network says nothing"),
    *("another frame's result", "another recipe's result", "disk full", "ledger locked", "weights gone", "clock an hour back"),
    "operator stops the line",
)
FAULTS = [replace(fault, links=tuple(LINKS)) if fault.name in _WHOEVER_COUNTS else fault for fault in _FAULTS]
"""Some of them also where a sensor fires the camera."""
