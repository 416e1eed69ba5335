"""`station cameras`: what each GenTL producer of this machine sees. Needs no running station and disturbs none."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drivers import discovery
from drivers.discovery import Found, FoundDevice
from station.config import SIMULATED, Home, StationConfig
from station.control import ControlError, ask

_ACCESS = {
    "free": "free",
    "read only": "can only be read",
    "held": "held by another program or another computer",
    "station": "held by the running station",
    "not told": "not told",
}


@dataclass(frozen=True)
class Look:
    """What became of asking one producer. `error`: why it, or with features one of its cameras, could not be asked; empty when it could."""

    producer: Path
    found: Found
    error: str = ""


@dataclass(frozen=True)
class Running:
    """The camera of the running station: its serial number, empty without one. After a stop it is held and does not stream."""

    serial_number: str = ""
    streaming: bool = False


def look(
    home: Home, settings: StationConfig, *, features: bool = False, progress: Callable[[str], None] = lambda _text: None
) -> list[Look]:
    """Asks every producer that `camera.producers` means, one after the other.

    Raises:
        CameraError: `auto`, and there is none.
        OSError: the folder where the simulated cameras meet the world cannot be made.
    """
    environ = dict(os.environ)
    if SIMULATED in settings.camera.producers:
        home.simulated.mkdir(parents=True, exist_ok=True)
        environ["STATION_SIMULATED_DIR"] = str(home.simulated)
    looks = []
    for producer in discovery.producers(settings.camera.producers, home.folder, environ):
        progress(f"asking {producer}")
        answer = discovery.look(producer, features=features, environ=environ)
        if isinstance(answer, str) and features:  # it may be no more than one camera that cannot be opened
            without = discovery.look(producer, environ=environ)
            looks.append(Look(producer, without if isinstance(without, Found) else Found(), answer))
        else:
            looks.append(Look(producer, Found(), answer) if isinstance(answer, str) else Look(producer, answer))
    return looks


def document(looks: list[Look], running: Running) -> list[dict[str, Any]]:
    """What `station cameras --json` says: a list, a producer each."""
    return [
        {
            "producer": str(one.producer),
            "error": one.error,
            "remarks": list(one.found.remarks),
            "interfaces": [asdict(interface) for interface in one.found.interfaces],
            "devices": [asdict(device) | {"access": access(device, running)} for device in one.found.devices],
        }
        for one in looks
    ]


def lines(document: Iterable[Mapping[str, Any]]) -> str:
    """`station cameras` for people: a table a producer, and the features below their camera."""
    return "\n".join(line for producer in document for line in _producer_lines(producer))


def running_camera(home: Home) -> Running:
    """What the running station of this home has open."""
    with suppress(ControlError):
        camera = ask(home.socket, {"command": "status"}).get("camera", {})
        return Running(str(camera.get("serial_number", "")), camera.get("state") == "streaming")
    return Running()


def is_wanted(device: FoundDevice, serial_number: str) -> bool:
    """Whether `camera.serial_number` may mean this device; a part of its id does, where it tells no serial number."""
    if not serial_number or serial_number in (device.serial_number, device.user_defined_name):
        return True
    return not device.serial_number and any(serial_number in text for text in (device.id, device.display_name))


def access(device: FoundDevice, running: Running) -> str:
    """As `FoundDevice.access`, or `station` for the device that the running station has."""
    its = running.serial_number and is_wanted(device, running.serial_number) and (device.access == "held" or running.streaming)
    return "station" if its else device.access


def _producer_lines(producer: Mapping[str, Any]) -> Iterator[str]:
    yield producer["producer"]
    yield from (f"  ERROR: {told}" for told in [producer["error"]] if told)
    yield from (f"  warning: {remark}" for remark in producer["remarks"])
    devices = producer["devices"]
    if not devices and not producer["error"]:
        interfaces = ", ".join(one["display_name"] or one["id"] for one in producer["interfaces"])
        yield f"  no camera; it looked at {interfaces or 'no interface: there is none for it on this machine'}"
    rows = []
    for one in devices:
        camera, address = f"{one['vendor']} {one['model']}".strip(), one["ip_address"] or one["mac_address"]
        number = one["serial_number"] or one["id"]
        rows.append((number, one["user_defined_name"], camera, one["tl_type"], address, _ACCESS[one["access"]]))
    head, *told = _table(rows, ("serial number", "name", "camera", "link", "address", "access"))
    yield from [head] if devices else []
    for one, line in zip(devices, told, strict=True):
        yield line
        yield from (f"    no features: {trouble}" for trouble in [one["trouble"]] if trouble)
        features = [(f["name"], f["access"], _feature_value(f), _feature_range(f)) for f in one["features"]]
        yield from _table(features, ("feature", "", "value", "range"), indent=4) if features else []


def _table(rows: Sequence[Sequence[str]], head: Sequence[str], indent: int = 2) -> list[str]:
    """The head's line, then the rows', in columns as wide as they need to be; a column without any entry is left out."""
    columns = [(title, *(row[at] for row in rows)) for at, title in enumerate(head) if any(row[at] for row in rows)]
    widths = [max(map(len, column)) for column in columns]
    return [
        " " * indent + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    ] or [""]


def _feature_value(feature: Mapping[str, Any]) -> str:
    if feature["type"] in {"Command", "Register"}:
        return f"({feature['type'].lower()})"
    return "-" if feature["value"] is None else f"{_plain(feature['value'])} {feature['unit']}".rstrip()


def _feature_range(feature: Mapping[str, Any]) -> str:
    if feature["entries"]:
        return ", ".join(feature["entries"])
    if feature["minimum"] is None or feature["maximum"] is None:
        return ""
    step = feature["increment"]
    steps = f" in steps of {_plain(step)}" if step not in (None, 1) else ""
    return f"{_plain(feature['minimum'])} to {_plain(feature['maximum'])}{steps}"


def _plain(value: Any) -> str:
    """A float without a needless exponent or fraction."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)
