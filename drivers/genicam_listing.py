"""`python -m drivers.genicam_listing PRODUCER devices|features`: the process in which `discovery.look` asks a producer.

Its answer, a pickled `discovery.Found` or words, is all there is on stdout, whatever the vendor's code prints.
"""

import ctypes
import math
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from drivers.camera import CameraError
from drivers.discovery import FEATURES_S, Access, Found, FoundDevice, FoundFeature, FoundInterface
from drivers.genicam_device import refuse_unless_producer
from drivers.genicam_features import DEVICE_ERRORS, words

with warnings.catch_warnings():  # importing harvesters replaces the filters of the whole process
    from genicam import genapi, gentl
    from harvesters.core import Interface, RemoteDevice

UPDATE_MS = 1000
"""How long an interface may collect answers from its devices."""
ACCESS: dict[int, Access] = {1: "free", 2: "read only", 3: "held", 4: "held", 5: "held", 6: "held"}
"""GenTL's DEVICE_ACCESS_STATUS."""
TYPES = {
    genapi.IInteger: "Integer",
    genapi.IFloat: "Float",
    genapi.IBoolean: "Boolean",
    genapi.IEnumeration: "Enumeration",
    genapi.IString: "String",
    genapi.ICommand: "Command",
    genapi.IRegister: "Register",
}
MODES = {genapi.EAccessMode.NA: "NA", genapi.EAccessMode.WO: "WO", genapi.EAccessMode.RO: "RO", genapi.EAccessMode.RW: "RW"}
DENIED = (gentl.AccessDeniedException, gentl.ResourceInUseException)


def listing(producer: Path, features: bool) -> Found:
    """What the producer sees. What it holds is given back by the end of the process.

    Raises:
        CameraError: the file is not there, cannot be loaded, is no producer, or does not start.
        One of DEVICE_ERRORS: it is one and fails.
    """
    refuse_unless_producer(producer)
    library = gentl.GenTLProducer.create_producer()
    try:
        library.open(str(producer))
    except gentl.GenericException as error:
        raise CameraError(f"{producer} does not start: {_said_of_start(producer) or words(error)}") from error
    system = library.create_system()
    system.open()
    system.update_interface_info_list(UPDATE_MS)
    interfaces: list[FoundInterface] = []
    devices: list[FoundDevice] = []
    remarks: list[str] = []
    for info in system.interface_info_list:
        try:
            interface, there = _interface(info, features)
        except DEVICE_ERRORS as error:
            remarks.append(f"interface {info.id_} cannot be looked into: {words(error)}")
        else:
            interfaces.append(interface)
            devices += there
    return Found(tuple(interfaces), tuple(devices), tuple(remarks))


def _said_of_start(producer: Path) -> str:
    """Why GCInitLib fails, in the producer's words: the wheel passes on only that it did."""
    library = ctypes.CDLL(str(producer))
    if library.GCInitLib() == 0:
        return ""
    code, text, size = ctypes.c_int32(), ctypes.create_string_buffer(1024), ctypes.c_size_t(1024)
    library.GCGetLastError(ctypes.byref(code), text, ctypes.byref(size))
    return f"{text.value.decode(errors='replace')} (GenTL error {code.value})"


def _interface(info: Any, features: bool) -> tuple[FoundInterface, list[FoundDevice]]:
    interface = info.create_interface()
    interface.open()
    interface.update_device_info_list(UPDATE_MS)
    nodes: Any = None
    with suppress(*DEVICE_ERRORS):  # one without features of its own, or with a broken description, still lists its devices
        nodes = Interface(module=interface, parent=None).node_map
    mac = _mac(_value(nodes, "GevInterfaceMACAddress"))
    found = FoundInterface(info.id_, _text(info, "display_name"), _text(info, "tl_type"), mac)
    listed = dict(_listed(nodes))
    devices = []
    for one in interface.device_info_list:
        device = _device(one, info.id_, listed.get(one.id_, {}))
        devices.append(_with_features(one, device) if features else device)
    return found, devices


def _listed(nodes: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the interface's features say of each device, by the device's id."""
    with suppress(AttributeError, *DEVICE_ERRORS):  # it may have no map, or an empty one, and any of the features or none
        selector = nodes.get_node("DeviceSelector")
        for index in range(selector.min, selector.max + 1):
            selector.value = index
            names = ("DeviceSerialNumber", "DeviceUserID", "GevDeviceIPAddress", "GevDeviceMACAddress")
            yield str(_value(nodes, "DeviceID")), {name: _value(nodes, name) for name in names}


def _device(info: Any, interface: str, listed: dict[str, Any]) -> FoundDevice:
    status = 0
    with suppress(*DEVICE_ERRORS):
        status = int(info.access_status)
    return FoundDevice(
        id=info.id_,
        vendor=_text(info, "vendor"),
        model=_text(info, "model"),
        serial_number=_text(info, "serial_number") or str(listed.get("DeviceSerialNumber") or ""),
        user_defined_name=_text(info, "user_defined_name") or str(listed.get("DeviceUserID") or ""),
        display_name=_text(info, "display_name"),
        tl_type=_text(info, "tl_type"),
        access=ACCESS.get(status, "not told"),
        interface=interface,
        ip_address=_ip(listed.get("GevDeviceIPAddress")),
        mac_address=_mac(listed.get("GevDeviceMACAddress")),
    )


def _with_features(info: Any, device: FoundDevice) -> FoundDevice:
    try:
        opened = _open(info)
    except DENIED:
        return replace(device, trouble="held by another program or another computer, which does not let it be read")
    except DEVICE_ERRORS as error:
        return replace(device, trouble=f"cannot be opened: {words(error)}")
    try:
        nodes = RemoteDevice(module=opened, parent=None).node_map
        return replace(device, features=tuple(_features(nodes.Root, "")))
    except (AttributeError, *DEVICE_ERRORS) as error:  # it may have no description
        return replace(device, trouble=f"its features cannot be read: {words(error)}")
    finally:
        with suppress(*DEVICE_ERRORS):
            opened.close()


def _open(info: Any) -> Any:
    """The open device: exclusively, so that the ranges of what can be written show, else to be read beside whoever has it."""
    flags = gentl.DEVICE_ACCESS_FLAGS_LIST
    device = info.create_device()
    try:
        device.open(flags.DEVICE_ACCESS_EXCLUSIVE)
    except DENIED as denied:
        device = info.create_device()
        try:
            device.open(flags.DEVICE_ACCESS_READONLY)
        except DEVICE_ERRORS:
            raise denied from None
    return device


def _features(category: Any, name: str) -> Iterator[FoundFeature]:
    for one in category.features:
        mode = one.get_access_mode()
        if isinstance(one, genapi.ICategory):
            yield from _features(one, one.node.name)
        elif mode != genapi.EAccessMode.NI and one.node.visibility != genapi.EVisibility.Invisible:
            yield _feature(one, name, MODES.get(mode, "NA"))


def _feature(one: Any, category: str, access: str) -> FoundFeature:
    feature = FoundFeature(one.node.name, category, TYPES.get(type(one), type(one).__name__), access)
    if access == "NA":
        return feature
    if access != "RO":
        with suppress(*DEVICE_ERRORS):
            feature = replace(feature, **_range(one))
    with suppress(*DEVICE_ERRORS):
        if isinstance(one, genapi.IInteger | genapi.IFloat):
            feature = replace(feature, unit=one.unit or "")
        if access != "WO" and not isinstance(one, genapi.ICommand | genapi.IRegister):
            feature = replace(feature, value=_finite(one.value))
    return feature


def _range(one: Any) -> dict[str, Any]:
    if isinstance(one, genapi.IEnumeration):
        return {"entries": tuple(entry.symbolic for entry in one.entries if genapi.is_available(entry.node))}
    if isinstance(one, genapi.IInteger):
        return {"minimum": one.min, "maximum": one.max, "increment": one.inc}
    if isinstance(one, genapi.IFloat):
        return {"minimum": _finite(one.min), "maximum": _finite(one.max), "increment": one.inc if one.has_inc() else None}
    return {}


def _finite(value: Any) -> Any:
    """JSON has no word for the others."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(info: Any, name: str) -> str:
    """A piece of GenTL information; every one is optional."""
    with suppress(*DEVICE_ERRORS):
        return str(getattr(info, name) or "")
    return ""


def _value(nodes: Any, name: str) -> Any:
    with suppress(*DEVICE_ERRORS):
        return nodes.get_node(name).value if nodes is not None and nodes.has_node(name) else None
    return None


def _ip(value: Any) -> str:
    """SFNC's GevDeviceIPAddress is an integer; 0 says that there is none."""
    return str(ip_address(value)) if isinstance(value, int) and 0 < value < 1 << 32 else str(value or "")


def _mac(value: Any) -> str:
    """SFNC's MAC addresses are integers of 48 bits; Daheng's is a text."""
    text = f"{value:012x}" if isinstance(value, int) and value else str(value or "")
    digits = "".join(text.split("-")).replace(":", "").lower()
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2)) if len(digits) == 12 else text


def main(producer: str, what: str) -> None:
    """Answers and ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # in native code a handler of Python's would never run
    signal.alarm(int(FEATURES_S) + 10)  # even if nobody is left to end it
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)
        try:
            told: Found | str = listing(Path(producer), what == "features")
        except CameraError as error:
            told = str(error)
        except DEVICE_ERRORS as error:
            told = f"{producer} does not work: {words(error)}"
        answer.write(pickle.dumps(told))
    os._exit(0)  # a vendor's code that crashes while it is unloaded has answered all the same


if __name__ == "__main__":
    main(*sys.argv[1:])
