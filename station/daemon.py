"""Composition root of `station run`: puts a line between what stands at the site, turns it, and feeds what is slower than it."""

import os
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import Any

import structlog

from drivers.camera import Feature
from drivers.plc import Command, ErrorCode
from station import inspector, ledger, recipe, site
from station.config import Home, StationConfig
from station.control import Control, Request
from station.health import Health
from station.inspection import Result, Verdict
from station.line import SOFTWARE_TRIGGER, Line, LineSettings
from station.publisher import Publisher
from station.real_time import real_time
from station.report import percentiles

Hear = Callable[[Result], None]
"""Called with every result after the turn in which it was answered."""
_log = structlog.get_logger()
_IDLE_S = 0.01
_PICTURES_WAITING = 8
_RECORDING_BYTES = 4_000_000_000
_FREE_BYTES = 1_000_000_000


class Daemon:
    """One station: its line, and the slower things that are fed after the answer."""

    def __init__(self, home: Home, config: StationConfig, parts: int | None) -> None:
        """Opens everything in `home`; `parts` is how many the simulated line makes, None for no end.

        Raises:
            StationError: another station runs in this home.
            CameraError, PlcError, LedgerError: what was configured cannot be used at all. A camera that is only missing is no error here.
        """
        self._home, self._config = home, config
        self._started = time.monotonic()
        self._job, self._job_id = Tally(), 0
        self._health = Health(home.references)
        with ExitStack() as opened:
            opened.enter_context(site.only_one(home))
            self._simulated = site.simulated_line(home, config, parts)
            if self._simulated:
                opened.callback(self._simulated.close)
            executor = ThreadPoolExecutor(1, thread_name_prefix="prepare")
            opened.callback(executor.shutdown, wait=False, cancel_futures=True)
            self._publisher = Publisher(
                home.recordings,
                self._recording_header,
                keep=config.recording.keep,
                pictures=_PICTURES_WAITING,
                file_bytes=_RECORDING_BYTES,
                max_bytes=int(config.recording.max_gb * 1e9),
                free_bytes=_FREE_BYTES,
            )
            opened.callback(self._publisher.close)
            self._control = Control(home.socket)
            opened.callback(self._control.close)
            self.line = self._line(executor)
            opened.callback(self.line.close)
            self._opened = opened.pop_all()

    def _line(self, executor: ThreadPoolExecutor) -> Line:
        home, config = self._home, self._config
        return Line(
            camera=site.camera(home, config),
            plc=site.plc(config, self._simulated),
            ledger=ledger.Ledger(home.ledger),
            prepare=partial(_prepare, executor, home, config.device),
            settings=LineSettings(
                frame_window_ns=config.camera.frame_window_ms * 1_000_000,
                acknowledge_ns=config.plc.acknowledge_ms * 1_000_000,
                heartbeat_ns=config.plc.heartbeat_ms * 1_000_000,
                prepare=config.prepare,
                counting=config.trigger,
                count_delay_ns=config.plc.count_delay_ms * 1_000_000,
                rejects_in_a_row=config.rejects_in_a_row,
                resume_automatically=config.resume == "automatic",
                site_features=_site_features(config),
            ),
            clock=time.monotonic_ns,
            wall_clock=time.time_ns,
        )

    def run(self, stop: threading.Event, hear: Hear, parts: int | None) -> dict[str, Any]:
        """Turns the loop until `stop` is set or `parts` parts are answered and acknowledged; returns the summary.

        Nothing else moves the heartbeat or systemd's watchdog: when this loop hangs, PLC and service manager both see it.
        """
        begun_ns = time.time_ns()
        tally = Tally()
        with real_time() as refused:
            if refused:
                _log.warning(refused)
            self._turn(stop, hear, tally, parts)
        self.line.close()
        return self._summary(tally, begun_ns if parts else None)

    def _turn(self, stop: threading.Event, hear: Hear, tally: "Tally", parts: int | None) -> None:
        notifier = Notifier(os.environ.get("NOTIFY_SOCKET", ""))
        while not stop.is_set() and not (parts and tally.parts >= parts and self._finished()):
            for result, frame in self.line.step():
                tally.add(result)
                self._tally_job(result)
                self._publisher.offer(result, frame)
                with suppress(OSError):  # whoever listened has gone; the line has not
                    hear(result)
                self._health.offer(result, frame)
            if request := self._control.request():
                self._serve(request)
            notifier.turn(self.line)
            if not self.line.hears:
                stop.wait(_IDLE_S)
        notifier.stopping()

    def close(self) -> None:
        """Leaves the outputs at reject, first of all, and gives everything back."""
        self._opened.close()

    def _tally_job(self, result: Result) -> None:
        if result.job_id != self._job_id:
            self._job_id, self._job = result.job_id, Tally()
        self._job.add(result)

    def _finished(self) -> bool:
        return self.line.settled and (self._simulated is None or self._simulated.counts()["finished"])

    def _serve(self, request: Request) -> None:
        words = request.words

        def finish(code: ErrorCode, why: str) -> None:
            request.reply.set_result({"ok": not code, "error": why, "state": self.line.state.words})

        commands = {"unprepare": Command.UNPREPARE_RECIPE, "start": Command.START_CONTINUOUS, "stop": Command.STOP}
        commands |= {"reset": Command.RESET, "halt": Command.HALT, "prepare": Command.PREPARE_RECIPE}
        asked = str(words.get("command"))
        if asked == "status":
            request.reply.set_result({"ok": True, **self.status()})
        elif asked == "wire":
            request.reply.set_result({"ok": True, "link": self._config.plc.link, **self.line.wire()})
        elif asked in commands:
            self.line.command(commands[asked], str(words.get("recipe", "")), finish)
        else:
            request.reply.set_result({"ok": False, "error": f"unknown command; known are status, wire, {', '.join(sorted(commands))}"})

    def status(self) -> dict[str, Any]:
        """What `station status` shows; plain data."""
        line = self.line.status()
        alarms = [*line.pop("causes"), *([self._publisher.alarm] if self._publisher.alarm else []), *self._health.alarms]
        return {
            "name": self._config.name,
            **line,
            **self._job.summary(),
            "pictures_dropped": self._publisher.dropped,
            "health": self._health.gauges,
            "alarms": alarms,
            "uptime_s": round(time.monotonic() - self._started, 1),
        }

    def _recording_header(self) -> dict[str, Any]:
        good, _ = recipe.load_all(self._home.recipes)
        recipes = {name: {"number": found.number, "hash": found.hash} for name, found in good.items()}
        return {"station": self._config.name, "version": version("station"), "recipes": recipes}

    def _summary(self, tally: "Tally", since_ns: int | None) -> dict[str, Any]:
        """What this run was; with an audit when it was a run of so many parts, because one of a month takes long."""
        summary = tally.summary()
        if since_ns is not None:
            summary["audit"] = asdict(ledger.audit(self._home.ledger, since_ns, now_ns=time.time_ns()))
        if self._simulated:
            with suppress(site.LineError):  # it ended by itself, and took its counts along
                summary["plc"] = self._simulated.counts()
        return summary


class Tally:
    """Counts answers as they come, so that nobody has to ask the ledger while the line runs; latencies of the newest ten thousand."""

    def __init__(self) -> None:
        self.parts = 0
        self._passed = 0
        self._reasons: Counter[str] = Counter()
        self._latencies_ms: deque[float] = deque(maxlen=10_000)
        self._from_capture_ms: deque[float] = deque(maxlen=10_000)

    def add(self, result: Result) -> None:
        """One more answer."""
        self.parts += 1
        self._passed += result.verdict is Verdict.PASS
        self._reasons[result.reason.name.lower()] += 1
        self._latencies_ms.append(result.elapsed_ms)
        if result.inspection:
            self._from_capture_ms.append((result.judged_ns - result.inspection.captured_ns) / 1e6)

    def summary(self) -> dict[str, Any]:
        """As COMMANDS.md's `run --parts --json`, without audit and PLC."""
        return {
            "parts": self.parts,
            "pass": self._passed,
            "fail": self.parts - self._passed,
            "reasons": dict(self._reasons.most_common()),
            "latency_ms": percentiles(self._latencies_ms),
            "camera_to_verdict_ms": percentiles(self._from_capture_ms),
        }


class Notifier:
    """Tells systemd how the line is (sd_notify): READY once the PLC has seen the state, WATCHDOG only from the loop that judges."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._ready = False
        self._status = ""
        self._next_s = 0.0

    def turn(self, line: Line) -> None:
        """Called once a turn; says something when there is something to say."""
        if not self._address:
            return
        if line.connected and not self._ready:
            self._ready = True
            self._send("READY=1")
        status = "; ".join([line.state.words, *line.causes.values()])
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + 0.5
            self._send("WATCHDOG=1" if self._ready else "EXTEND_TIMEOUT_USEC=10000000\nWATCHDOG=1")

    def stopping(self) -> None:
        """The loop has ended; what follows leaves the outputs at reject."""
        if self._address:
            self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        """A service manager that does not listen holds up nothing; its watchdog then does what it is for."""
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(text.encode(), self._address)


def run(home: Home, config: StationConfig, parts: int | None, hear: Hear) -> dict[str, Any]:
    """Runs the station in `home` until SIGTERM or SIGINT, or until `parts` parts are answered; returns the summary.

    Raises:
        StationError, CameraError, PlcError, LedgerError: it cannot run; nothing was started that is not stopped again.
    """
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        daemon = Daemon(home, config, parts)
        try:
            return daemon.run(stop, hear, parts)
        finally:
            daemon.close()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _site_features(config: StationConfig) -> dict[str, Feature]:
    """What this site asks of every recipe's camera: how an exposure is triggered."""
    if config.trigger == "plc":
        return dict(SOFTWARE_TRIGGER)
    source = config.camera.trigger_source
    if source is None:
        source = "Line0" if config.trigger == "hardware" else ""
    return dict(SOFTWARE_TRIGGER, TriggerSource=source) if source else {"TriggerMode": "Off"}


def _prepare(executor: ThreadPoolExecutor, home: Home, device: str, which: str | int) -> "Future[inspector.Inspector]":
    return executor.submit(lambda: inspector.prepare(recipe.find(home.recipes, which), home.weights, home.engines, device))
