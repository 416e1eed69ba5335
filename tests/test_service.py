"""The daemon as a service: what systemd is told, what stands in the PLC's registers, and that it leaves them at reject."""

import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import STATION, make_home, until

from drivers.simulated.line import Terminal
from drivers.simulated.parts import make_part
from drivers.simulated.rtu_server import RtuServer
from drivers.simulated.scene import Scene

STATE, VERDICT, SEQUENCE, AGAIN, ECHO, STATUS, ERROR = 1, 6, 5, 23, 19, 20, 21
HEARTBEAT, CODE, ARGUMENT, COMMAND, ACKNOWLEDGED, TRIGGER = 32, 33, 34, 35, 36, 37
PASS_WORD = 0x5AA5


class HandPlc:
    """A PLC operated by the test: 46 registers behind a serial port, and a heartbeat."""

    def __init__(self, link: Path) -> None:
        self.registers = [0] * 46
        self._terminal = Terminal(link)
        self._server = RtuServer(self.registers, writable=range(24))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ended.is_set():
            select.select([self._terminal], [], [], 0.02)
            self.registers[HEARTBEAT] = (self.registers[HEARTBEAT] + 1) % 65_536
            if answer := self._server.receive(self._terminal.read(), time.monotonic()):
                self._terminal.write(answer)

    def say(self, code: int, argument: int = 0) -> None:
        self.registers[ARGUMENT], self.registers[CODE] = argument, code
        self.registers[COMMAND] += 1
        until(lambda: self.registers[ECHO] == self.registers[COMMAND] and self.registers[STATUS] == 2, 30, f"command {code}")

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._terminal.close()


@contextmanager
def service(home: Path, notify: Path) -> Iterator[subprocess.Popen[str]]:
    words = [*STATION, "--home", str(home), "run"]
    environment = {**os.environ, "NOTIFY_SOCKET": str(notify)}
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def told(tmp_path: Path) -> Iterator[list[str]]:
    """Everything that the service manager hears, as it comes."""
    said: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(0.1)
        ended = threading.Event()

        def listen() -> None:
            while not ended.is_set():
                try:
                    said.extend(listening.recv(4096).decode().split("\n"))
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        yield said
        ended.set()
        thread.join()


@pytest.fixture
def plc(tmp_path: Path) -> Iterator[HandPlc]:
    made = HandPlc(tmp_path / "plc")
    yield made
    made.close()


def a_home(tmp_path: Path, serial_number: str = "SIM-MQ042") -> Path:
    return make_home(tmp_path / "home", plc={"port": str(tmp_path / "plc")}, simulation=None, camera={"serial_number": serial_number})


def test_a_service_that_is_stopped_leaves_its_outputs_at_reject(tmp_path: Path, plc: HandPlc, told: list[str]) -> None:
    home = a_home(tmp_path)
    with service(home, tmp_path / "notify") as process:
        until(lambda: "READY=1" in told and plc.registers[STATE] == 5, 30, "Initialized")
        plc.say(1, argument=2)
        plc.say(3)
        assert "STATUS=ContinuousExecution" in told
        scene = Scene(home / "data/simulated", "SIM-MQ042")
        scene.show([np.array(make_part("iron", "good", 70_000_000).picture)], noise=2)
        plc.registers[TRIGGER] = 1
        until(lambda: plc.registers[SEQUENCE] == plc.registers[AGAIN] == 1, 10, "the answer")
        assert plc.registers[VERDICT] == PASS_WORD
        plc.registers[ACKNOWLEDGED] = 1
        until(lambda: told.count("WATCHDOG=1") > 2, 10, "the watchdog is fed")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    scene.close()
    assert process.returncode == 0, said
    assert (plc.registers[STATE], plc.registers[VERDICT], plc.registers[SEQUENCE], plc.registers[AGAIN]) == (1, 0, 0, 0)
    assert "STOPPING=1" in told


def test_a_missing_camera_is_a_state_and_not_a_failed_start(tmp_path: Path, plc: HandPlc, told: list[str]) -> None:
    with service(a_home(tmp_path, "SIM-NONE"), tmp_path / "notify") as process:
        until(lambda: "READY=1" in told and (plc.registers[STATE], plc.registers[ERROR]) == (3, 1), 30, "Error 1")
        until(lambda: any(word.startswith("STATUS=Error") and "SIM-NONE" in word for word in told), 10, "the cause in words")
        beats = plc.registers[2]
        until(lambda: plc.registers[2] != beats, 5, "the heartbeat")
        assert process.poll() is None


def test_a_service_that_hangs_feeds_no_watchdog(tmp_path: Path, plc: HandPlc, told: list[str]) -> None:
    with service(a_home(tmp_path), tmp_path / "notify") as process:
        until(lambda: "READY=1" in told, 30, "READY")
        process.send_signal(signal.SIGSTOP)
        before = len(told)
        beat = plc.registers[2]
        time.sleep(1.5)
        assert told[before + 1 :] == []
        assert plc.registers[2] in (beat, beat + 1)
        process.send_signal(signal.SIGCONT)


def test_a_service_without_its_plc_waits_for_it(tmp_path: Path, told: list[str]) -> None:
    with service(a_home(tmp_path), tmp_path / "notify") as process:
        until(lambda: any(word.startswith("STATUS=Error") for word in told), 30, "Error")
        assert "READY=1" not in told
        assert any(word.startswith("EXTEND_TIMEOUT_USEC") for word in told)
        plc = HandPlc(tmp_path / "plc")
        try:
            until(lambda: "READY=1" in told and plc.registers[STATE] == 5, 30, "Initialized")
        finally:
            process.kill()
            plc.close()
