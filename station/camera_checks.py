"""`station doctor` for cameras: do the producers work, and is the configured camera there and free?"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from drivers.camera import CameraError
from drivers.discovery import FoundDevice, FoundInterface, is_simulated
from station import cameras, link_checks
from station.cameras import Look, Running
from station.check import Check
from station.config import SIMULATED, Home, StationConfig


def examine(home: Home, settings: StationConfig, root: Path) -> Iterator[Check]:
    """Producers, the camera, then the settings of the machine that its link needs. `root`: where /proc, /sys and /dev are."""
    try:
        looks = cameras.look(home, settings)
    except CameraError as error:
        yield Check("producer", "fail", str(error), "install the camera vendor's software, see docs/cameras.md")
        looks = []
    for one in looks:
        yield from _producer(one)
    devices = [device for one in looks for device in one.found.devices]
    serial_number = settings.camera.serial_number
    if looks:
        yield camera(devices, serial_number, cameras.running_camera(home))
    if all(name == SIMULATED for name in settings.camera.producers):
        yield Check("camera link", "skip", "the simulated cameras need no network and no USB")
        return
    yield from link_checks.examine(links(looks, serial_number), root)


def links(looks: Sequence[Look], serial_number: str) -> list[tuple[FoundDevice, FoundInterface]]:
    """The cameras whose link matters, with their interfaces: the configured one, or all where it is not seen; no simulated ones."""
    real = [
        (device, interface)
        for one in looks
        if not is_simulated(one.producer)
        for interface in one.found.interfaces
        for device in one.found.devices
        if device.interface == interface.id
    ]
    return [pair for pair in real if cameras.is_wanted(pair[0], serial_number)] or real


def _producer(one: Look) -> Iterator[Check]:
    if one.error:
        yield Check("producer", "fail", one.error, "correct camera.producers in station.yaml, or install the camera vendor's software anew")
        return
    count, interfaces = len(one.found.devices), len(one.found.interfaces)
    seen = f"{one.producer}: cameras: {count}, interfaces: {interfaces}"
    if count:
        yield Check("producer", "ok", seen)
    else:
        yield Check("producer", "warn", seen, "look at the camera's power and cable, and at the findings below")
    for remark in one.found.remarks:
        yield Check("producer", "warn", f"{one.producer}: {remark}", "look with the vendor's own viewer")


def camera(devices: Sequence[FoundDevice], serial_number: str, running: Running) -> Check:
    """The configured camera, as far as the producers tell serial numbers before a camera is opened."""
    wanted = [device for device in devices if cameras.is_wanted(device, serial_number)]
    there = ", ".join(map(_name, devices))
    silent = ", ".join(_name(device) for device in devices if not device.serial_number)
    if not devices:
        return Check("camera", "fail", "there is none", "look at its power and cable")
    if not wanted and silent:
        detail = f"{serial_number} may be one of those that tell their serial number only when they are opened: {silent}"
        return Check("camera", "warn", detail, "station cameras --features")
    if not wanted:
        detail = f"{serial_number} is not there; there are: {there}"
        return Check("camera", "fail", detail, "look at its power and cable, or correct camera.serial_number in station.yaml")
    if not serial_number and len({device.serial_number or device.id for device in wanted}) > 1:
        detail = f"there are several and camera.serial_number names none: {there}"
        return Check("camera", "fail", detail, "write one of them into camera.serial_number in station.yaml")
    return _free(wanted[0], running)  # seen through two producers it is taken from the first


def _free(device: FoundDevice, running: Running) -> Check:
    access, name = cameras.access(device, running), _name(device)
    if access == "held":
        fix = "close the vendor's viewer; after a crash wait for the camera's heartbeat timeout, or switch it off and on"
        return Check("camera", "fail", f"{name} is held by another program or another computer", fix)
    if access == "read only":
        return Check("camera", "fail", f"{name} can only be read", "close what has it open; then see the findings below")
    said = {"free": "there and free", "station": "held by the running station"}.get(access, "there; whether it is free is not told")
    return Check("camera", "ok", f"{name} is {said}")


def _name(device: FoundDevice) -> str:
    return f"{device.serial_number or device.id} ({device.vendor} {device.model})"
