"""The unit is what systemd understands, and the daemon tells systemd what is true."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from drivers.plc import ErrorCode
from station.daemon import Notifier
from station.line import Line
from station.state import State

UNIT = Path("systemd/station@.service")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
def test_systemd_finds_nothing_to_say_about_the_unit(tmp_path: Path) -> None:
    executable = tmp_path / "station"
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    unit = tmp_path / "station@demo.service"
    unit.write_text(UNIT.read_text().replace("/opt/station/.venv/bin/station", str(executable)))
    ran = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    about_ours = [line for line in (ran.stdout + ran.stderr).splitlines() if "station" in line]
    assert (ran.returncode, about_ours) == (0, [])


def test_the_unit_is_supervised_and_restarted() -> None:
    settings = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line)
    assert settings["Type"] == "notify"
    assert settings["Restart"] == "always"
    assert int(settings["WatchdogSec"]) <= 10
    assert settings["StartLimitIntervalSec"] == "0", "a station that failed often must still come back"


@dataclass
class Turning:
    """What the notifier looks at of a line."""

    state: State = State.PREOPERATIONAL
    connected: bool = False
    causes: dict[ErrorCode, str] = field(default_factory=dict)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def heard(manager: socket.socket) -> list[str]:
    said: list[str] = []
    while True:
        try:
            said += manager.recv(4096).decode().split("\n")
        except BlockingIOError:
            return said


def notifier(manager: socket.socket) -> Notifier:
    return Notifier(cast(str, manager.getsockname()))


def test_ready_is_said_once_the_plc_can_see_the_state_and_only_once(manager: socket.socket) -> None:
    telling, line = notifier(manager), Turning()
    telling.turn(cast(Line, line))
    assert "READY=1" not in heard(manager)
    line.connected = True
    telling.turn(cast(Line, line))
    telling.turn(cast(Line, line))
    assert heard(manager).count("READY=1") == 1


def test_waiting_for_the_plc_asks_for_more_time(manager: socket.socket) -> None:
    notifier(manager).turn(cast(Line, Turning()))
    assert any(word.startswith("EXTEND_TIMEOUT_USEC=") for word in heard(manager))


def test_the_status_says_the_state_and_its_cause_in_words(manager: socket.socket) -> None:
    telling, line = notifier(manager), Turning(State.CONTINUOUS_EXECUTION, connected=True)
    telling.turn(cast(Line, line))
    assert "STATUS=ContinuousExecution" in heard(manager)
    line.state, line.causes = State.ERROR, {ErrorCode.CAMERA: "no camera SIM-MQ042"}
    telling.turn(cast(Line, line))
    assert "STATUS=Error; no camera SIM-MQ042" in heard(manager)


def test_the_watchdog_is_fed_by_the_turning_loop_only(manager: socket.socket) -> None:
    telling = notifier(manager)
    assert "WATCHDOG=1" not in heard(manager)
    telling.turn(cast(Line, Turning(connected=True)))
    assert "WATCHDOG=1" in heard(manager)


def test_without_systemd_nothing_is_said() -> None:
    assert "NOTIFY_SOCKET" not in os.environ
    silent = Notifier("")
    silent.turn(cast(Line, Turning(connected=True)))
    silent.stopping()
