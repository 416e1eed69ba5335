"""A running line that faults are done to: the daemon as a process of its own, and in this one the PLC, its conveyor and the camera's scene.

The PLC runs in a thread, a scan each 5 ms: it shows a part, triggers, judges the answer, acknowledges, and shows the next. It goes on
whatever the station does; a part that is not answered is a reject. Faults come from the thread that owns the `Plant`.
"""

import os
import random
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from conftest import STATION, make_home, station
from judge import Judge, Part
from log_reader import LogReader
from wire import Wire

from drivers.simulated.ascii_plc import AsciiPlc
from drivers.simulated.parts import CLASSES, make_part
from drivers.simulated.rtu_client import RtuClient
from drivers.simulated.rtu_server import RtuServer, crc
from drivers.simulated.scene import Scene, happened, tell
from station.recipe import find

SERIAL = "SIM-MQ042"
HARDWARE, FREE = "hardware", "free"
LINKS: dict[str, dict[str, Any]] = {
    "modbus-rtu": {},
    "modbus-rtu-server": {"plc": {"role": "server"}},
    "ascii": {"plc": {"link": "ascii"}},
    HARDWARE: {"trigger": "hardware", "camera": {"frame_window_ms": 100}},
    FREE: {"trigger": "free", "camera": {"frame_window_ms": 100, "trigger_source": "Line0"}},
}
"""The lines that faults are done to, by what their station.yaml says: both dialects and roles, and two whose sensor fires the camera."""
PREPARE, UNPREPARE, START, STOP, RESET, HALT = 1, 2, 3, 4, 5, 6
INITIALIZED, READY, CONTINUOUS, ERROR, HALTED = 5, 6, 8, 3, 2
BULB, IRON = 1, 2
PRODUCTS = {BULB: "bulb", IRON: "iron"}
SEEDS = range(7_000, 7_004)
"""Of the parts; the demo's networks are right about all of them, which the suite's first test shows."""
_SCAN_S = 0.005
COUNTED = (
    *("drop", "incomplete", "duplicate", "badid", "noheight", "larger", "short", "wrongsize"),
    *("frozen", "dark", "bright", "notime", "deaf", "late"),
)
"""The camera's orders that strike a frame each."""
_PAUSE_SCANS = 10
"""So long is it from an answer to the next part, on average."""
_SENSOR_SCANS = 50
"""So long is it at least where a sensor fires the camera: two parts must lie further apart than the frame window, delay and exchange."""
_BEAT, _CODE, _ARGUMENT, _COMMAND, _TAKEN, _TRIGGER, _PART_ID = 32, 33, 34, 35, 36, 37, 38
_FREE_S = 0.12
"""Where nobody counts the next part comes then, answered or not: only by its frame a camera tells that it lost the one before."""
Steps = Generator[None, None, None]


@dataclass(frozen=True, slots=True)
class Event:
    """Something the PLC saw: `kind`: state, error, answer, timeout, dead, alive, done or refused, with its number or part."""

    at_s: float
    kind: str
    value: int = 0
    part: Part | None = None


Sees = Callable[[Event, float], bool]
"""Whether this is what must be seen, for a fault that began then."""


class NotSeenError(Exception):
    """The PLC did not see in time what it must see; the message says what it saw."""


class Plant:
    """One line. Used from one thread; closes with everything it started."""

    def __init__(self, folder: Path, link: str, seed: int) -> None:
        self.chance = random.Random(f"{link} {seed}")
        self.link = link
        self.port = folder / "home/data/simulated/plc"
        sections: dict[str, Any] = {"camera": {"frame_window_ms": 300}, "recording": {"keep": "failed", "max_gb": 0.2}, "simulation": None}
        sections |= LINKS[link]
        self.home = make_home(folder / "home", **sections | {"plc": {"port": str(self.port), **sections.get("plc", {})}})
        for name in PRODUCTS.values():
            recipe = self.home / "recipes" / name / "recipe.yaml"
            recipe.write_text(recipe.read_text().replace("deadline_ms: 2000", "deadline_ms: 1000"))
        (self.home / "weights").unlink()
        (self.home / "weights").mkdir()
        for name in PRODUCTS.values():
            source = Path(__file__).parents[2] / "weights" / f"{name}.safetensors"
            (self.home / "weights" / source.name).write_bytes(source.read_bytes())
        self.directory = self.home / "data/simulated"
        self.judge = Judge(fault="the first start", numbers_itself=link == FREE)
        self.events: list[Event] = []
        self.product = BULB
        self.asked = 0
        self.feeding = self.acknowledging = self.beating = self.answering = True
        self.wire = Wire(self.port)
        self.registers = [0] * 46
        self.last_sequence = self.jumped = self.proofs = 0
        self.special: Steps | None = None
        self._between_parts = False
        self.before_trigger: Callable[[Part], None] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self._server = self._new_server()
        self._scene = Scene(self.directory, SERIAL)
        self._pictures = {
            (number, class_name): [np.array(make_part(name, class_name, seed).picture) for seed in SEEDS]
            for number, name in PRODUCTS.items()
            for class_name in CLASSES[name]
        }
        self._checksums = {number: crc(find(self.home / "recipes", name).hash.encode("ascii")) for number, name in PRODUCTS.items()}
        self.late_s = 0.0
        self._made = 0
        self._last_good = False
        self._taint = ""
        self._marked = 0
        self._marked_s = 0.0
        self._seen_state = self._seen_error = self._seen_status = -1
        self._seen_alive = False
        self._parts = self._feed()
        self._news = threading.Condition()
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="plc")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.stop_station()
        self.wire.unplug()

    # ---- the station's processes

    def start_station(self) -> None:
        """Starts the daemon, as systemd would after it ended."""
        self.restarts += 1
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "inside"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "STATION_FAULT": str(self.home / "fault.py"),
        }
        self.process = subprocess.Popen(
            [*STATION, "--home", str(self.home), "run"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
        )
        self.log = LogReader(self.process, self.home / "log")

    def stop_station(self, number: int = signal.SIGTERM) -> None:
        """Ends the daemon and waits for it."""
        if self.process is None:
            return
        self.log.follow()
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.process = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def camera_pid(self) -> int:
        """The daemon's child that has loaded the camera's producer.

        Raises:
            NotSeenError: there is none.
        """
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                parent = int(path.read_text().rpartition(")")[2].split()[1])
                if parent == self.pid and ".cti" in (path.parent / "maps").read_text():
                    return int(path.parent.name)
        raise NotSeenError(f"the daemon {self.pid} has no camera process")

    def happen(self, text: str, pid: int | None = None) -> None:
        """Executes this text inside the daemon, see inside/sitecustomize.py.

        Raises:
            NotSeenError: it was not executed.
        """
        file, done = self.home / "fault.py", self.home / "fault.py.done"
        done.unlink(missing_ok=True)
        file.write_text(text)
        os.kill(pid or self.pid, signal.SIGUSR1)
        self.prove(done.exists, "executed inside the daemon")

    def operator(self, *words: str) -> Any:
        """A command at the station's own terminal; returns its document.

        Raises:
            NotSeenError: it was refused.
        """
        answer = station(self.home, *words, code=None)
        if not isinstance(answer, dict) or (answer.get("ok") is False and words != ("audit",)):
            raise NotSeenError(f"station {' '.join(words)}: {answer}")
        return answer

    def camera(self, order: str) -> None:
        """Tells the simulated camera what to do wrong, see docs/simulated-producer.md."""
        tell(self.directory, SERIAL, order)

    def camera_did(self) -> int:
        """How much has happened to the camera until now."""
        return len(happened(self.directory, SERIAL))

    def prove_camera(self, before: int, *orders: str) -> None:
        """The camera took these orders since then, and those that wait for a frame or a call have struck.

        Raises:
            NotSeenError: it did not.
        """
        for order in orders:
            word, *rest = order.split()
            if word in ("error", "hang", "crash"):
                expected = f"{word} {rest[0]}"
            else:
                expected = f"struck {word}" if word in COUNTED and rest[-1:] != ["always"] else f"told {order}"
            self.prove(lambda expected=expected: expected in happened(self.directory, SERIAL)[before:], expected)  # type: ignore[misc]

    def prove(self, injected: Callable[[], bool], what: str) -> None:
        """The fault shows that it was injected.

        Raises:
            NotSeenError: it does not.
        """
        until_s = time.monotonic() + 8.0
        while not injected():
            if time.monotonic() > until_s:
                raise NotSeenError(f"was not injected: {what}")
            self.pause(0.02)
        self.proofs += 1

    @contextmanager
    def camera_file(self, *orders: str) -> Generator[None]:
        """Orders that hold from each opening of the camera on."""
        file = self.directory / f"{SERIAL}.faults"
        file.write_text("\n".join(orders) + "\n")
        try:
            yield
        finally:
            file.unlink(missing_ok=True)

    # ---- what the suite does to the PLC

    def say(self, code: int, argument: int = 0) -> None:
        """The PLC commands; how it ends is an event."""
        with self._news:
            self.registers[_COMMAND] = self.registers[_COMMAND] % 65_535 + 1
            self.registers[_CODE], self.registers[_ARGUMENT] = code, argument
            self._seen_status = -1
            if code == PREPARE:
                self.asked = argument
            else:
                self.judge.excuse()
            if code == START and self.link == FREE:
                self.judge.anew()
                self.last_sequence = 0

    def restart_plc(self, silent_s: float) -> None:
        """Power off and on: it forgets everything, and counts from nothing."""
        with self._news:
            self.answering = False
            self.judge.anew()
        time.sleep(silent_s)
        with self._news:
            self.registers[:] = [0] * 46
            self.last_sequence = 0
            self.judge.see(self.registers, 0.0)
            self._server = self._new_server()
            self._seen_state = self._seen_error = self._seen_status = -1
            self._parts = self._feed()
            self.answering = True

    @contextmanager
    def tainted(self, why: str) -> Generator[None]:
        """Parts that lie before the camera in here must not pass."""
        self._taint = why
        try:
            yield
        finally:
            self._taint = ""

    def pause(self, seconds: float) -> None:
        """The line runs on for so long."""
        self._ended.wait(seconds)
        self._check()

    def quiet(self) -> None:
        """No more parts; the last one is answered."""
        self.feeding = False
        self.pause(3.0)

    def between_parts(self, steps: Steps) -> None:
        """The PLC does this once, after the part it has."""
        with self._news:
            self.special, self._between_parts = steps, True

    def prove_between_parts(self) -> None:
        """It has done it.

        Raises:
            NotSeenError: it has not.
        """
        self.prove(lambda: not self._between_parts, "the PLC did it between two parts")

    # ---- what the suite sees

    def mark(self) -> None:
        """From here on it counts, and the clock runs."""
        with self._news:
            self._marked, self._marked_s = len(self.events), time.monotonic()

    def wait(self, sees: Sees, within_s: float, what: str) -> float:
        """Waits until the PLC sees it and returns how long after the mark that was, in s.

        Raises:
            NotSeenError: it was not seen.
        """
        at = self._marked
        with self._news:
            while True:
                self._check()
                while at < len(self.events):
                    if sees(self.events[at], self._marked_s):
                        return max(0.0, self.events[at].at_s - self._marked_s)
                    at += 1
                left_s = self._marked_s + within_s - time.monotonic()
                if left_s <= 0:
                    raise NotSeenError(f"{what}: not within {within_s} s; the PLC's longest scan took {self.late_s:.2f} s; {self._story()}")
                self._news.wait(min(left_s, 0.2))

    def _story(self) -> str:
        def word(event: Event) -> str:
            part = f" {event.part.part_id} {event.part.passed} {event.part.reason}" if event.part else ""
            return f"{event.at_s - self._marked_s:+.2f} {event.kind} {event.value}{part}"

        seen = self.events[self._marked :]
        others = [event for event in seen if event.kind != "answer"][-8:]
        said = (self.home / "log").read_text(errors="replace").splitlines()[-8:]
        return "; ".join(map(word, [*others, *seen[-4:]])) + "\n  " + "\n  ".join(line[11:15] + line[17:250] for line in said)

    def run(self, product: int, within_s: float = 90.0) -> float:
        """Brings the line back to running, whatever state it is in, until a part of this product passes; returns how long that took, in s.

        Raises:
            NotSeenError: it does not come.
        """
        self.wire.heal()
        self.product = product
        self.feeding = self.acknowledging = self.beating = self.answering = True
        self.mark()
        until_s = time.monotonic() + within_s
        said_s, running_since = 0.0, len(self.events)
        while time.monotonic() < until_s:
            if self.process is None or self.process.poll() is not None:
                self.stop_station()
                self.start_station()
            words = self.registers
            runs = words[1] == CONTINUOUS and words[3] == product == self.asked and not words[_CODE] and self.judge.alive(time.monotonic())
            if not runs:
                running_since = len(self.events)
            if any(goes_on(event, 0.0) for event in self.events[running_since:]):
                return time.monotonic() - until_s + within_s
            patience_s = 5.0 if words[_CODE] else 1.0 if words[1] == ERROR else 0.3
            if not runs and time.monotonic() - said_s > patience_s and self.judge.alive(time.monotonic()):
                said_s = time.monotonic()
                self._say_next(words[1], words[3], product)
            time.sleep(0.02)
        raise NotSeenError(f"the line does not run again within {within_s:.0f} s; {self._story()}")

    def _say_next(self, state: int, prepared: int, product: int) -> None:
        if state in (INITIALIZED, READY, CONTINUOUS) and (prepared != product or self.asked != product):
            self.say(PREPARE, product)
        elif state == READY:
            self.say(START)
        elif state in (ERROR, HALTED):
            self.say(RESET)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    # ---- the PLC

    def _new_server(self) -> AsciiPlc | RtuClient | RtuServer:
        if self.link == "ascii":
            return AsciiPlc(self.registers)
        return RtuClient(self.registers) if self.link == "modbus-rtu-server" else RtuServer(self.registers, writable=range(24))

    def _run(self) -> None:
        scanned_s = time.monotonic()
        try:
            while not self._ended.is_set():
                number = self.wire.fileno()
                with suppress(OSError):  # a fault has just closed it
                    select.select([number] if number >= 0 else [], [], [], _SCAN_S)
                with self._news:
                    now_s = time.monotonic()
                    self.late_s = max(self.late_s, now_s - scanned_s)
                    scanned_s = now_s
                    self._scan(now_s)
                    self._news.notify_all()
        except BaseException as error:
            self._failure = error
            raise

    def _scan(self, now_s: float) -> None:
        data = self.wire.read()
        if not self.answering:
            return
        if data and (answer := self._server.receive(data, now_s)):
            self.wire.write(answer)
        self._see(now_s)
        if self.beating:
            self.registers[_BEAT] = (self.registers[_BEAT] + 1) % 65_536
        if self.acknowledging:
            self.registers[_TAKEN] = self.judge.acknowledge
        next(self._parts)
        if said := self._server.speak(now_s):
            self.wire.write(said)
        self.wire.pump()

    def _see(self, now_s: float) -> None:
        words = self.registers
        if (part := self.judge.see(words, now_s)) is not None:
            self._tell("answer", now_s, part=part)
        for late in self.judge.give_up(now_s):
            self._tell("timeout", now_s, part=late)
        alive = self.judge.alive(now_s)
        if alive != self._seen_alive:
            self._seen_alive = alive
            self._tell("alive" if alive else "dead", now_s)
        if words[1] != self._seen_state:
            self._seen_state = words[1]
            self._tell("state", now_s, words[1])
        if words[21] != self._seen_error:
            self._seen_error = words[21]
            self._tell("error", now_s, words[21])
        self._see_command(now_s)

    def _see_command(self, now_s: float) -> None:
        words = self.registers
        ended = words[20] in (2, 3) and words[19] == words[_COMMAND] and words[_CODE]
        if ended and self._seen_status != words[20]:
            self._seen_status = words[20]
            self._tell("done" if words[20] == 2 else "refused", now_s, words[21] if words[20] == 3 else words[_CODE])
            words[_CODE] = words[_ARGUMENT] = 0

    def _tell(self, kind: str, now_s: float, value: int = 0, part: Part | None = None) -> None:
        self.events.append(Event(now_s, kind, value, part))

    def _feed(self) -> Steps:
        """The conveyor, one step a scan."""
        product, waits = 0, False
        while True:
            if self.special is not None:
                steps, self.special = self.special, None
                yield from steps
                self._between_parts = False
            if not self.feeding or (self.link == FREE and not self._is_running()):
                yield
                continue
            if not waits or product != self.product:  # else another such part: of one that waits there may be no picture yet
                product, good = self.product, not self._last_good or self.chance.random() < 0.1
                self._last_good = good
                name, *others = CLASSES[PRODUCTS[product]]
                pictures = self._pictures[product, name if good else self.chance.choice(others)]
            taint = self._taint
            self._scene.show([self.chance.choice(pictures)], noise=2)
            yield
            yield
            part = self.trigger(self.last_sequence % 65_535 + 1, product, good)
            part.taint = taint and self._taint
            while part.passed is None and not (self.link == FREE and time.monotonic() - part.triggered_s > _FREE_S):
                yield
            waits = part.passed is None
            least = _SENSOR_SCANS if self.link == HARDWARE else 1
            for _ in range(self.chance.randrange(least, least + 2 * _PAUSE_SCANS)):
                yield

    def trigger(self, sequence: int, product: int, good: bool) -> Part:
        """Writes a trigger; for the conveyor and what is done between parts."""
        self._made += 1
        asked = (self.asked, self._checksums.get(self.asked, -1))
        part = Part(sequence, f"{PRODUCTS[product][0].upper()}{self._made:07d}", good, product, asked, time.monotonic())
        part.disturbed = self.judge.fault
        if self.before_trigger:
            hook, self.before_trigger = self.before_trigger, None
            hook(part)
        self.judge.triggered(part)
        if self.link in (HARDWARE, FREE):
            self.camera("line0")
        if self.link == FREE:
            self.last_sequence = sequence
        else:
            self.write_trigger(sequence, part.part_id)
        return part

    def _is_running(self) -> bool:
        """A part that comes now has a number in the station too."""
        words = self.registers
        return words[1] == CONTINUOUS and words[3] == self.product == self.asked and not words[_CODE] and self._seen_alive

    def skip(self, sequence: int) -> Part:
        """A number that no part ever has."""
        part = Part(sequence, "", False, self.product, (self.asked, -1), time.monotonic(), disturbed=self.judge.fault, shown=False)
        self.judge.triggered(part)
        return part

    def write_trigger(self, sequence: int, part_id: str) -> None:
        """The trigger's registers, as they are to stand."""
        characters = part_id.encode("ascii").ljust(16, b"\0")
        self.registers[_TRIGGER] = self.last_sequence = sequence
        self.registers[_PART_ID : _PART_ID + 8] = [int.from_bytes(characters[at : at + 2], "big") for at in range(0, 16, 2)]


def goes_on(event: Event, since_s: float) -> bool:
    """A part that was triggered after the fault leaves with PASS."""
    return event.kind == "answer" and event.part is not None and bool(event.part.passed) and event.part.triggered_s > since_s
