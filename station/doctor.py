"""`station doctor`: is this machine fit to run? Looks, changes nothing, and says for each finding what to do."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from station import camera_checks, config, recipe
from station.check import Check, Status
from station.config import SIMULATED, Home, StationConfig
from station.document import DocumentError

_LEAST_FREE_GB = 5


def examine(home: Home, root: Path = Path("/")) -> list[Check]:
    """Every check of this machine, in the order an engineer would look. `root`: where /proc, /sys and /dev are."""
    checks = [*_software(), *_device()]
    try:
        settings = config.load(home)
    except DocumentError as error:
        return [*checks, Check("station.yaml", "fail", str(error), "correct the file; the message says where")]
    checks.append(Check("station.yaml", "ok", f"{home.folder / 'station.yaml'}: {settings.name}"))
    checks += camera_checks.examine(home, settings, root)
    return [*checks, *_serial_ports(settings), *_recipes(home), *_disk(home), *_clock(), *_unit()]


def _software() -> Iterator[Check]:
    yield Check("python", "ok", sys.version.split()[0])
    for package in ("torch", "harvesters", "genicam", "pymodbus"):
        try:
            yield Check(package, "ok", version(package))
        except PackageNotFoundError:
            yield Check(package, "fail", "not installed", "run make setup")


def _device() -> Iterator[Check]:
    import torch

    if torch.cuda.is_available():
        yield Check("gpu", "ok", torch.cuda.get_device_name())
    else:
        yield Check("gpu", "warn", f"none; {torch.get_num_threads()} processor threads judge", "a CUDA card and its driver make it faster")


def _serial_ports(settings: StationConfig) -> Iterator[Check]:
    plc = settings.plc
    if plc.port == SIMULATED:
        yield Check("serial port", "ok", "the simulated PLC")
    else:
        yield from _serial_port("plc.port", plc.port)
    if plc.lines_port:
        yield from _serial_port("plc.lines_port", plc.lines_port)


def _serial_port(key: str, port: str) -> Iterator[Check]:
    if not Path(port).exists():
        yield Check("serial port", "fail", f"{port} is not there", f"plug the adapter in, or write its /dev/serial/by-id name into {key}")
    elif not os.access(port, os.R_OK | os.W_OK):
        yield Check("serial port", "fail", f"{port} may not be opened by this user", "add the user to the group dialout")
    elif not port.startswith("/dev/serial/by-id/"):
        yield Check("serial port", "warn", f"{port} may name another adapter after a restart", f"use its /dev/serial/by-id name in {key}")
    else:
        yield Check("serial port", "ok", port)


def _recipes(home: Home) -> Iterator[Check]:
    good, bad = recipe.load_all(home.recipes)
    for name, found in good.items():
        missing = not (home.weights / found.document.network.weights).is_file()
        status: Status = "fail" if missing else "ok"
        fix = f"bring {found.document.network.weights} into {home.weights}" if missing else ""
        yield Check("recipe", status, f"{name}, number {found.number}" + (": its weights are missing" if missing else ""), fix)
    for error in bad.values():
        yield Check("recipe", "fail", str(error), "correct the file; the message says where")
    if not good and not bad:
        yield Check("recipe", "warn", f"none in {home.recipes}", "make one with station train")


def _disk(home: Home) -> Iterator[Check]:
    free_gb = shutil.disk_usage(home.folder).free / 1e9
    enough = free_gb >= _LEAST_FREE_GB
    yield Check(
        "disk",
        "ok" if enough else "fail",
        f"{free_gb:.0f} GB free at {home.folder}",
        "" if enough else "free some, or lower recording.max_gb",
    )


def _clock() -> Iterator[Check]:
    if not shutil.which("timedatectl"):
        yield Check("clock", "skip", "timedatectl is not here to ask")
        return
    asked = subprocess.run(["timedatectl", "show", "--property=NTPSynchronized", "--value"], capture_output=True, text=True, check=False)
    if asked.returncode:
        yield Check("clock", "skip", "systemd does not answer")
    elif asked.stdout.strip() == "yes":
        yield Check("clock", "ok", "synchronised")
    else:
        yield Check("clock", "warn", "not synchronised: times in the ledger are only as right as this clock", "set up NTP")


def _unit() -> Iterator[Check]:
    installed = Path("/etc/systemd/system/station@.service").exists()
    fix = "" if installed else "copy systemd/station@.service to /etc/systemd/system when this machine is to run by itself"
    yield Check(
        "service", "ok" if installed else "warn", "station@.service is installed" if installed else "station@.service is not installed", fix
    )
