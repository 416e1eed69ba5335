"""`station doctor` for what carries pictures: the network of GigE cameras, the USB of others. Reads /proc and /sys, changes nothing.

The limits are those that Daheng's, Baumer's and XIMEA's own instructions name; docs/cameras.md says which is whose.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from drivers.discovery import FoundDevice, FoundInterface
from station.check import Check

_LEAST_MTU = 8192
_LEAST_RMEM = 8 << 20
_RMEM = 32 << 20
_LEAST_USBFS_MB = 1000
_SUPER_SPEED = 5000
_XIMEA, _DAHENG = "20f7", "2ba2"
_USB3_VISION = ("ef", "05")
_LINK_LOCAL = IPv4Network("169.254.0.0/16")


@dataclass(frozen=True)
class _Route:
    """A line of /proc/net/route."""

    card: str
    network: IPv4Network
    direct: bool


@dataclass(frozen=True)
class _UsbCamera:
    name: str
    node: Path
    speed: int


def examine(devices: Sequence[tuple[FoundDevice, FoundInterface]], root: Path) -> Iterator[Check]:
    """What matters to these cameras, each with its interface; all of it when none is seen, because a setting may be why.

    Args:
        root: where /proc, /sys and /dev are.
    """
    gige = [(device, interface) for device, interface in devices if device.tl_type == "GEV"]
    usb_cameras = _usb_cameras(root)
    if gige or not devices:
        yield from _network(gige, root)
    else:
        yield Check("network", "skip", "no GigE camera")
    if usb_cameras or not devices or any(_is_usb(device) for device, _ in devices):
        yield from _usb(usb_cameras, root)
    else:
        yield Check("usb", "skip", "no USB camera")


# ---- GigE Vision


def _network(gige: Sequence[tuple[FoundDevice, FoundInterface]], root: Path) -> Iterator[Check]:
    routes, cards = _routes(root), _cards(root)
    of_cameras: set[str] = set()
    for device, interface in gige:
        card = _card_of(device, interface, routes, cards)
        of_cameras |= {card} if card else set()
        yield _address(device, card, routes)
    known = sorted(of_cameras)
    yield _mtu(known or sorted(cards), known, root)
    yield _rmem_max(root)
    yield _rp_filter(known or sorted(cards), root)


def _card_of(device: FoundDevice, interface: FoundInterface, routes: Sequence[_Route], cards: Mapping[str, str]) -> str:
    """The network card that the camera hangs on; empty where that is not told."""
    if interface.mac_address:
        for card, mac_address in cards.items():
            if mac_address == interface.mac_address:
                return card
    route = _route_to(device.ip_address, routes)
    return route.card if route and route.direct else ""


def _address(device: FoundDevice, card: str, routes: Sequence[_Route]) -> Check:
    name = f"{device.serial_number or device.id}"
    address = _dotted(device.ip_address)
    if address is None:
        return Check("address", "skip", f"{name}: its producer does not tell its IP address" + (f"; it hangs on {card}" if card else ""))
    route = _route_to(device.ip_address, routes)
    proposal = IPv4Network(f"{address}/24", strict=False)
    free = next(host for host in proposal.hosts() if host != address)
    fix = f"sudo ip addr add {free}/24 dev {card or 'CARD'}, and keep it in the network's configuration; or give the camera a fixed address"
    if route is None or not route.direct:
        return Check("address", "fail", f"{name} has {address}, which is in no network of a card of this machine", fix)
    also = sorted({one.card for one in routes if one.direct and address in one.network} - {route.card})
    if also:
        cards = ", ".join([route.card, *also])
        return Check(
            "address",
            "fail",
            f"{name} has {address}, and {cards} have that network: answers may take the wrong card",
            "give each card a network of its own",
        )
    if card and card != route.card:
        return Check("address", "fail", f"{name} hangs on {card} and has {address}, which is reached by {route.card}", fix)
    if address in _LINK_LOCAL:
        return Check(
            "address",
            "warn",
            f"{name} has {address}: it was given none, and chooses anew after each power-on",
            "give the camera a fixed address with the vendor's tool",
        )
    return Check("address", "ok", f"{name} has {address} on {route.card}")


def _mtu(cards: Sequence[str], known: Sequence[str], root: Path) -> Check:
    found = {card: _number(root / "sys/class/net" / card / "mtu") for card in cards}
    told = ", ".join(f"{card} {mtu}" for card, mtu in found.items())
    small = [card for card, mtu in found.items() if mtu is None or mtu < _LEAST_MTU]
    if not cards:
        return Check("mtu", "skip", "no network card that is up")
    if not small or (not known and len(small) < len(found)):
        return Check("mtu", "ok", told)
    which = "" if known else " (which one the camera hangs on is not told)"
    detail = f"{told}{which}: small packets cost processor time and lose frames; at least {_LEAST_MTU} is wanted"
    card = small[0] if known else "CARD"
    fix = f"sudo ip link set dev {card} mtu 9000; keep it in the network's configuration, and set the camera's GevSCPSPacketSize to match"
    return Check("mtu", "warn", detail, fix)


def _rmem_max(root: Path) -> Check:
    size = _number(root / "proc/sys/net/core/rmem_max")
    if size is None:
        return Check("rmem_max", "skip", "net.core.rmem_max cannot be read")
    if size >= _LEAST_RMEM:
        return Check("rmem_max", "ok", f"{size >> 20} MB")
    return Check(
        "rmem_max",
        "warn",
        f"{size >> 10} kB: a burst of packets is lost before the camera's producer reads it",
        f"sudo sysctl -w net.core.rmem_max={_RMEM}; systemd/sysctl.d/60-station-cameras.conf keeps it",
    )


def _rp_filter(cards: Sequence[str], root: Path) -> Check:
    folder = root / "proc/sys/net/ipv4/conf"
    # The kernel takes the larger of all's and the card's.
    on = [name for name in ("all", *cards) if _number(folder / name / "rp_filter")]
    if not on:
        return Check("rp_filter", "ok", "off")
    return Check(
        "rp_filter",
        "warn",
        f"on for {', '.join(on)}: the kernel may drop what a camera sends, and the camera is not found",
        "sudo sysctl -w "
        + " ".join(f"net.ipv4.conf.{name}.rp_filter=0" for name in on)
        + "; systemd/sysctl.d/60-station-cameras.conf keeps it",
    )


def _routes(root: Path) -> list[_Route]:
    routes = []
    for line in _text(root / "proc/net/route").splitlines()[1:]:
        card, network, gateway, flags, *_ = columns = line.split()
        if int(flags, 16) & 1:  # up
            routes.append(_Route(card, IPv4Network((_ip(network), str(_ip(columns[7]))), strict=False), direct=int(gateway, 16) == 0))
    return routes


def _ip(text: str) -> IPv4Address:
    """The kernel prints an address as the machine's integer over its bytes."""
    return IPv4Address(int(text, 16).to_bytes(4, sys.byteorder))


def _dotted(text: str) -> IPv4Address | None:
    """None for what is no such address, as some producers tell it."""
    try:
        return IPv4Address(text)
    except ValueError:
        return None


def _route_to(text: str, routes: Sequence[_Route]) -> _Route | None:
    address = _dotted(text)
    fitting = [route for route in routes if address and address in route.network]
    return max(fitting, key=lambda route: route.network.prefixlen, default=None)


def _cards(root: Path) -> dict[str, str]:
    """The network cards that are up, with their MAC addresses; only real ones, which have a device."""
    folder = root / "sys/class/net"
    cards = sorted(folder.iterdir()) if folder.is_dir() else []
    return {card.name: _text(card / "address") for card in cards if (card / "device").exists() and _text(card / "operstate") != "down"}


# ---- USB


def _usb(usb_cameras: Sequence[_UsbCamera], root: Path) -> Iterator[Check]:
    yield _usb_memory(root)
    if not usb_cameras:
        yield Check("usb access", "skip", "no USB camera is plugged in")
    for camera in usb_cameras:
        if os.access(camera.node, os.R_OK | os.W_OK):
            yield Check("usb access", "ok", f"{camera.name}: {camera.node}")
        else:
            yield Check(
                "usb access",
                "fail",
                f"{camera.name}: {camera.node} may not be opened by this user",
                "sudo cp systemd/udev/60-station-cameras.rules /etc/udev/rules.d/ && sudo udevadm control --reload && "
                "sudo udevadm trigger; sudo usermod -aG plugdev $USER, and log in anew",
            )
        if 0 < camera.speed < _SUPER_SPEED:
            yield Check(
                "usb speed",
                "warn",
                f"{camera.name} is connected at {camera.speed} Mbit/s, {_SUPER_SPEED} is wanted",
                "plug it straight into a USB 3 port with a USB 3 cable",
            )


def _usb_memory(root: Path) -> Check:
    limit = _number(root / "sys/module/usbcore/parameters/usbfs_memory_mb")
    if limit is None:
        return Check("usb memory", "skip", "this machine has no USB, or does not tell its limit")
    if limit == 0 or limit >= _LEAST_USBFS_MB:
        return Check("usb memory", "ok", f"{limit} MB" if limit else "no limit")
    return Check(
        "usb memory",
        "warn",
        f"{limit} MB for all USB devices together: too few for a camera's buffers",
        f"echo {_LEAST_USBFS_MB} | sudo tee /sys/module/usbcore/parameters/usbfs_memory_mb; "
        "systemd/tmpfiles.d/station-cameras.conf keeps it",
    )


def _usb_cameras(root: Path) -> list[_UsbCamera]:
    """What is plugged in and is a USB3 Vision device, or of a vendor that the station knows."""
    folder = root / "sys/bus/usb/devices"
    found = []
    for device in sorted(folder.iterdir()) if folder.is_dir() else []:
        vendor, bus, number = _text(device / "idVendor"), _number(device / "busnum"), _number(device / "devnum")
        if bus is None or number is None:
            continue
        classes = {(_text(one / "bInterfaceClass"), _text(one / "bInterfaceSubClass")) for one in folder.glob(f"{device.name}:*")}
        if vendor in {_XIMEA, _DAHENG} or _USB3_VISION in classes:
            name = " ".join(text for text in (_text(device / "manufacturer"), _text(device / "product")) if text) or f"USB {device.name}"
            found.append(_UsbCamera(name, root / f"dev/bus/usb/{bus:03d}/{number:03d}", _number(device / "speed") or 0))
    return found


def _is_usb(device: FoundDevice) -> bool:
    """XIMEA's are no U3V, whatever their producer calls them."""
    return device.tl_type == "U3V" or "ximea" in device.vendor.lower()


# ---- files


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.lstrip("-").isdigit() else None
