"""`Features`: a device's features under the SFNC names that a recipe writes, whatever the vendor calls them."""

import math
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from drivers.camera import CameraError, Feature

with warnings.catch_warnings():  # importing harvesters replaces the filters of the whole process
    from genicam import genapi, gentl

LIVE_FEATURES = frozenset({"ExposureTime", "Gain", "BlackLevel", "Gamma"})
"""What may be written while frames arrive: none of these moves a pixel or changes what starts an exposure."""
OFFSETS = ("OffsetX", "OffsetY")
USER_SET_S = 5.0
DEVICE_ERRORS = (genapi.GenericException, gentl.GenericException, SystemError)
"""What a device, a producer, or the wheel when a producer misbehaves (Harvesters issue 257), raises."""
TYPES: dict[Any, tuple[type, ...]] = {
    genapi.IBoolean: (bool,),
    genapi.IInteger: (int,),
    genapi.IFloat: (int, float),
    genapi.IEnumeration: (str,),
    genapi.IString: (str,),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """Where a vendor keeps an SFNC feature; used where the device has no feature, or no entry, of the SFNC name.

    Attributes:
        name: the vendor's feature.
        values: the vendor's value for each SFNC value that it has one for.
        vendor: a word in the device's vendor name without which the candidate does not count; empty for any vendor.
    """

    name: str
    values: Mapping[Feature, Feature] = field(default_factory=dict)
    vendor: str = ""


CANDIDATES: dict[str, tuple[Candidate, ...]] = {
    # Daheng Imaging, MERCURY GigE: the description in GxGVTL.cti has this enumeration in place of the boolean.
    "AcquisitionFrameRateEnable": (Candidate("AcquisitionFrameRateMode", {True: "On", False: "Off"}),),
    # XIMEA, MQ042: 16-bit words hold the sensor's 10 bits right aligned, full scale 1023 (measured on an MQ042MG-CM through the vendor's
    # own interface; that its GenTL producer has the same under these names is assumed).
    "PixelFormat": (
        Candidate("PixelFormat", {f"{name}10": f"{name}16" for name in ("Mono", "BayerRG", "BayerGR", "BayerGB", "BayerBG")}, "XIMEA"),
    ),
}
"""SFNC name: the vendors' deviations known with a source. What else a vendor has besides SFNC, a recipe writes under the vendor's name."""

INHERENT: dict[str, Feature] = {"TriggerSelector": "FrameStart", "TriggerMode": "Off"}
"""What a device without the feature does anyway."""


class Features:
    """The features of one open device. Enumeration entries and values are the device's, but for what CANDIDATES translates."""

    def __init__(self, nodes: Any, vendor: str) -> None:
        """`nodes`: the remote device's node map; `vendor`: the device's vendor name."""
        self._nodes = nodes
        self._vendor = vendor

    def read(self, name: str) -> Any:
        """The value of the device's feature, or None where it has no such feature or cannot tell it now."""
        with suppress(genapi.GenericException):
            return self._nodes.get_node(name).value if self._nodes.has_node(name) else None
        return None

    def read_anew(self, name: str) -> Any:
        """As `read`, from the device itself and not from a value kept here. Raises one of DEVICE_ERRORS when it does not answer."""
        with suppress(genapi.GenericException):
            if self._nodes.has_node(name):
                node = self._nodes.get_node(name)
                node.node.invalidate_node()
                return node.value
        return None

    def execute(self, command: str) -> None:
        """Executes the command. Raises CameraError where there is none, or one of DEVICE_ERRORS."""
        self._node(command).execute()

    def load_user_set(self, name: str) -> None:
        """Loads a set of the device's memory (SFNC UserSetSelector, UserSetLoad) and waits until it is in force.

        Raises:
            CameraError: the device has no user sets, or none of that name, or takes longer than USER_SET_S.
            One of DEVICE_ERRORS: the device failed.
        """
        if not (self._nodes.has_node("UserSetSelector") and self._nodes.has_node("UserSetLoad")):
            raise CameraError(f"user set {name} cannot be loaded: this device has no user sets; leave camera.user_set empty")
        self._write("UserSetSelector", name)
        load = self._node("UserSetLoad")
        load.execute()
        deadline = time.monotonic() + USER_SET_S
        while not load.is_done():
            if time.monotonic() > deadline:
                raise CameraError(f"user set {name} was not loaded within {USER_SET_S:.0f} s")
            time.sleep(0.005)
        for node in self._nodes.nodes:  # everything may have changed, whatever the description says of it
            node.node.invalidate_node()

    def writable_live(self, names: Sequence[str]) -> bool:
        """Whether all these features can be written while the device acquires."""
        return LIVE_FEATURES.issuperset(names) and all(self._node(n).get_access_mode() == genapi.EAccessMode.RW for n in names)

    def write(self, features: Mapping[str, Feature]) -> None:
        """Writes in the order given, except the offsets, which come last: what they may be depends on the size.

        Raises:
            CameraError: a feature is unknown, of another type, out of range or read-only now.
            One of DEVICE_ERRORS: the device failed.
        """
        if {"Width", "Height"} & features.keys():
            for name in OFFSETS:  # so that every size fits
                if self.read(name):
                    self._write(name, 0)
        for name in sorted(features, key=OFFSETS.__contains__):
            if not self._is_inherent(name, features[name]):
                self._write(name, features[name])

    def read_back(self, features: Mapping[str, Feature]) -> dict[str, Feature]:
        """The values the device has for these features now that all are written, for one can change another; under their SFNC names.

        Raises:
            CameraError: one is not what was asked for; a float may be off by 1e-3 of its value or by its increment.
            One of DEVICE_ERRORS: the device failed.
        """
        there = {name: asked for name, asked in features.items() if not self._is_inherent(name, asked)}
        read = dict(features) | {name: self._read_back(name, asked) for name, asked in there.items()}
        for name, asked in there.items():
            node, _ = self._meant(name, asked)
            if not _agree(node, asked, read[name]):
                raise CameraError(f"{name} was set to {asked!r} and reads {read[name]!r}, {_allowed(node)}")
        return read

    def suggest(self, width: int, height: int, colour: bool) -> dict[str, Feature]:
        """See `GenicamCamera.suggest`. Raises CameraError or one of DEVICE_ERRORS."""
        formats = [entry.symbolic for entry in self._node("PixelFormat").entries if genapi.is_available(entry.node)]
        fitting = [name for name in formats if re.fullmatch(r"Bayer..8|RGB8|BGR8" if colour else "Mono8", name)]
        features: dict[str, Feature] = {"PixelFormat": fitting[0]} if fitting else {}
        offsets: dict[str, Feature] = {}
        for axis, (name, wanted) in zip("XY", {"Width": width, "Height": height}.items(), strict=True):
            sensor, increment = self.read(f"{name}Max"), self._node(name).inc
            size = min(-(-wanted // increment) * increment, sensor or wanted)
            features[name] = size
            if sensor and self._nodes.has_node(f"Offset{axis}"):
                step = self._node(f"Offset{axis}").inc
                offsets[f"Offset{axis}"] = (sensor - size) // 2 // step * step
        return features | offsets

    def _node(self, name: str) -> Any:
        if not self._nodes.has_node(name):
            raise CameraError(f"there is no feature {name}; take it out of the recipe or use the name this device has")
        return self._nodes.get_node(name)

    def _meant(self, name: str, value: Feature) -> tuple[Any, Feature]:
        """The node that is meant by an SFNC name and value, and its value for it: the first candidate that the device has."""
        if self._nodes.has_node(name) and not (_is_entry_missing(self._nodes.get_node(name), value)):
            return self._nodes.get_node(name), value
        for candidate in CANDIDATES.get(name, ()):
            known = candidate.vendor.lower() in self._vendor.lower() and self._nodes.has_node(candidate.name)
            for sfnc, theirs in candidate.values.items() if known else ():
                if sfnc == value and type(sfnc) is type(value) and not _is_entry_missing(self._nodes.get_node(candidate.name), theirs):
                    return self._nodes.get_node(candidate.name), theirs
        return self._node(name), value

    def _is_inherent(self, name: str, asked: Feature) -> bool:
        return INHERENT.get(name) == asked and not self._nodes.has_node(name)

    def _read_back(self, name: str, asked: Feature) -> Feature:
        node, theirs = self._meant(name, asked)
        read: Feature = node.value
        return asked if theirs != asked and read == theirs else read

    def _write(self, name: str, asked: Feature) -> None:
        node, value = self._meant(name, asked)
        if isinstance(node, genapi.IInteger) and isinstance(value, float) and value.is_integer():
            value = int(value)  # what is a float to SFNC is an integer to some vendors
        types = TYPES.get(type(node), ())
        if not isinstance(value, types) or isinstance(value, bool) is not (types == (bool,)):
            raise CameraError(f"{name} cannot be {asked!r}, {_allowed(node)}")
        try:
            node.value = float(value) if isinstance(node, genapi.IFloat) else value
        except DEVICE_ERRORS as error:  # some producers, not the node, check the range
            raise CameraError(f"{name} cannot be {asked!r}, {_allowed(node)}: {words(error)}") from error


def words(error: BaseException) -> str:
    """What the wheel says, without the place in its own source."""
    name = type(error).__name__
    return f"{name}: {str(error).partition(f' : {name} thrown')[0].strip()}"


def _is_entry_missing(node: Any, value: Feature) -> bool:
    return isinstance(node, genapi.IEnumeration) and isinstance(value, str) and value not in node.symbolics


def _agree(node: Any, asked: Feature, read: Feature) -> bool:
    if not isinstance(node, genapi.IFloat):
        return asked == read
    return math.isclose(float(asked), float(read), rel_tol=1e-3, abs_tol=node.inc if node.has_inc() else 0.0)


def _allowed(node: Any) -> str:
    """What the node takes now, for an error message."""
    if isinstance(node, genapi.IEnumeration):
        return "allowed: " + ", ".join(entry.symbolic for entry in node.entries if genapi.is_available(entry.node))
    if isinstance(node, genapi.IFloat):
        return f"allowed: {node.min} to {node.max}" + (f" in steps of {node.inc}" if node.has_inc() else "")
    if isinstance(node, genapi.IInteger):
        return f"allowed: {node.min} to {node.max} in steps of {node.inc}"
    return "allowed: " + {genapi.IBoolean: "true or false", genapi.IString: "a text"}.get(type(node), "nothing, it holds no value")
