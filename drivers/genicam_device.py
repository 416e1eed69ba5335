"""`GenicamDevice`: one open GenICam device, its features and its data stream; how it is found, configured and given back.

With `genicam` the only module that knows Harvesters.
"""

import ctypes
import logging
import math
import re
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from drivers.camera import CameraError, Feature

with warnings.catch_warnings():  # importing harvesters replaces the filters of the whole process
    from genicam import genapi, gentl
    from harvesters.core import Callback, Harvester, ImageAcquirer, ParameterKey, ParameterSet

NUM_BUFFERS = 8
LIVE_FEATURES = frozenset({"ExposureTime", "Gain", "BlackLevel", "Gamma"})
"""What may be written while frames arrive: none of these moves a pixel or changes what starts an exposure."""
OFFSETS = ("OffsetX", "OffsetY")
DEVICE_ERRORS = (genapi.GenericException, gentl.GenericException, SystemError)
"""What a device, a producer, or the wheel when a producer misbehaves (Harvesters issue 257), raises."""
TYPES: dict[Any, tuple[type, ...]] = {
    genapi.IBoolean: (bool,),
    genapi.IInteger: (int,),
    genapi.IFloat: (int, float),
    genapi.IEnumeration: (str,),
    genapi.IString: (str,),
}


class GenicamDevice:
    """An open device. Only one process and one object can hold it, and one process loads a producer once at a time.

    Attributes:
        identity: its `vendor`, `model` and `serial_number`.
    """

    def __init__(self, producers: Sequence[Path], serial_number: str, on_incomplete: Callable[[], None]) -> None:
        """Opens the device that `serial_number` names, as `GenicamCamera` explains; `on_incomplete` is called for each such frame.

        Raises:
            CameraError: a producer is missing or is none, the device is not there or is held by another program.
            One of DEVICE_ERRORS: the device or its producer failed.
        """
        self._serial_number = serial_number
        self._remarks = _Remarks()
        self._incomplete = _Call(on_incomplete)
        self._acquirer: Any = None
        for producer in producers:
            _refuse_unless_producer(producer)
        self._harvester: Any = Harvester(config=ParameterSet({ParameterKey.LOGGER: self._remarks.logger}))
        try:
            for producer in producers:
                self._harvester.add_file(str(producer))
            self._harvester.update()
            self.identity = self._open(list(self._harvester.device_info_list))
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Starts the acquisition. Raises one of DEVICE_ERRORS."""
        self._acquirer.start()

    def end(self) -> None:
        """Stops the acquisition; frames in the buffers are lost. Raises one of DEVICE_ERRORS."""
        self._acquirer.stop()

    def try_fetch(self, timeout_s: float) -> Any:
        """The next complete GenTL buffer, or None when none came within `timeout_s`, or an incomplete one did.

        0 s looks once and does not wait. The buffer must be queued again. Raises one of DEVICE_ERRORS.
        """
        # GenTL waits in native code, with the GIL held, for no longer than this. Harvesters takes 0 s for ever.
        self._acquirer.timeout_period_on_update_event_data_call = 1 if timeout_s > 0 else 0
        return self._acquirer.try_fetch(timeout=max(timeout_s, 2e-4), is_raw=True)

    def probe(self) -> None:
        """Asks the device itself for a value: an unplugged one shows in no other way. Raises one of DEVICE_ERRORS."""
        if self._nodes.has_node("Width"):
            node = self._nodes.get_node("Width")
            node.node.invalidate_node()
            _ = node.value

    def execute(self, command: str) -> None:
        """Executes the command node. Raises CameraError where there is none, or one of DEVICE_ERRORS."""
        self._node(command).execute()

    def read(self, name: str) -> Any:
        """The value of a feature, or None where the device has no such feature or cannot tell it now."""
        with suppress(genapi.GenericException):
            return self._nodes.get_node(name).value if self._nodes.has_node(name) else None
        return None

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
            self._write(name, features[name])

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

    def read_back(self, features: Mapping[str, Feature]) -> dict[str, Feature]:
        """The values the device has for these features now that all are written, for one can change another.

        Raises:
            CameraError: one is not what was asked for; a float may be off by 1e-3 of its value or by its increment.
            One of DEVICE_ERRORS: the device failed.
        """
        read = {name: self._node(name).value for name in features}
        for name, asked in features.items():
            if not _agree(self._node(name), asked, read[name]):
                raise CameraError(f"{name} was set to {asked!r} and reads {read[name]!r}, {_allowed(self._node(name))}")
        return read

    def close(self) -> None:
        """Gives everything back, also where an unplugged device stops Harvesters half way (its issues 246 and 371). Never raises.

        Takes seconds with some producers when the device is gone.
        """
        if self._acquirer is not None:
            stopped = False
            with suppress(Exception):
                self._acquirer.stop()
                stopped = True
            if not stopped:
                _kill_streams(self._acquirer)
            with suppress(Exception):
                self._acquirer.destroy()
        with suppress(Exception):
            self._harvester.reset()

    @property
    def _nodes(self) -> Any:
        return self._acquirer.remote_device.node_map

    def _node(self, name: str) -> Any:
        if not self._nodes.has_node(name):
            raise CameraError(f"there is no feature {name}; take it out of the recipe or use the name this device has")
        return self._nodes.get_node(name)

    def _open(self, devices: list[Any]) -> dict[str, str]:
        """Opens the first candidate that turns out to be the wanted device; returns its identity."""
        for device in self._candidates(devices):
            try:
                self._acquirer = self._create(device)
            except (gentl.AccessDeniedException, gentl.ResourceInUseException):
                self._remarks.last.append(f"{_label(device)} is held by another program")
                continue
            if self._is_wanted(device):
                self._acquirer.add_callback(ImageAcquirer.Events.INCOMPLETE_BUFFER, self._incomplete)
                serial_number = str(self.read("DeviceSerialNumber") or _property(device, "serial_number"))
                return {"vendor": _property(device, "vendor"), "model": _property(device, "model"), "serial_number": serial_number}
            self._acquirer.destroy()
            self._acquirer = None
        there = "; ".join(map(_label, devices)) or "none"
        wanted = (
            f"device {self._serial_number} cannot be opened" if self._serial_number else "exactly one device is needed, or a serial number"
        )
        raise CameraError("; ".join([f"{wanted}. Devices there: {there}", *self._remarks.last]))

    def _candidates(self, devices: list[Any]) -> list[Any]:
        if not self._serial_number:
            return devices if len(devices) == 1 else []
        named = [d for d in devices if self._serial_number in (_property(d, "serial_number"), _property(d, "user_defined_name"))]
        return named[:1] or [d for d in devices if not _property(d, "serial_number")]

    def _create(self, device: Any) -> Any:
        handler = signal.getsignal(signal.SIGINT)
        try:
            return self._harvester.create(device, config=ParameterSet({ParameterKey.NUM_BUFFERS_FOR_FETCH_CALL: NUM_BUFFERS}))
        finally:  # Harvesters installs its own, which swallows Ctrl-C
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)

    def _is_wanted(self, device: Any) -> bool:
        """Whether the device just opened is the one asked for. Daheng's producer tells no serial number before (Harvesters issue 471)."""
        told, read = _property(device, "serial_number"), self.read("DeviceSerialNumber")
        if not self._serial_number or self._serial_number in (read or told, _property(device, "user_defined_name")):
            return True
        return not told and self._serial_number in _property(device, "id_")

    def _write(self, name: str, value: Feature) -> None:
        node = self._node(name)
        types = TYPES.get(type(node), ())
        if not isinstance(value, types) or isinstance(value, bool) is not (types == (bool,)):
            raise CameraError(f"{name} cannot be {value!r}, {_allowed(node)}")
        try:
            node.value = float(value) if isinstance(node, genapi.IFloat) else value
        except DEVICE_ERRORS as error:  # some producers, not the node, check the range
            raise CameraError(f"{name} cannot be {value!r}, {_allowed(node)}: {words(error)}") from error


class _Call(Callback):  # type: ignore[misc]
    """Calls a function; Harvesters wants a class."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def emit(self, context: object | None = None) -> None:  # noqa: ARG002
        self._function()


class _Remarks(logging.Handler):
    """Keeps Harvesters' last warnings, its only way to say that a producer did not load."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: deque[str] = deque(maxlen=3)
        self.logger = logging.Logger("harvesters", logging.WARNING)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.last.append(record.getMessage().strip())


def words(error: BaseException) -> str:
    """What the wheel says, without the place in its own source."""
    name = type(error).__name__
    return f"{name}: {str(error).partition(f' : {name} thrown')[0].strip()}"


def _kill_streams(acquirer: Any) -> None:
    for stream in acquirer.data_streams:
        with suppress(Exception):
            stream.stop_acquisition(gentl.ACQ_STOP_FLAGS_LIST.ACQ_STOP_FLAGS_KILL)
        with suppress(Exception):
            stream.flush_buffer_queue(gentl.ACQ_QUEUE_TYPE_LIST.ACQ_QUEUE_ALL_DISCARD)


def _refuse_unless_producer(path: Path) -> None:
    """Harvesters passes over a file that is not there, and a library that is no producer crashes the process."""
    if not path.is_file():
        raise CameraError(f"GenTL producer {path} does not exist; correct its path or install the camera vendor's software")
    try:
        is_producer = hasattr(ctypes.CDLL(str(path)), "GCInitLib")
    except OSError as error:
        raise CameraError(f"GenTL producer {path} cannot be loaded: {error}") from error
    if not is_producer:
        raise CameraError(f"{path} is not a GenTL producer: it has no GCInitLib")


def _property(device: Any, name: str) -> str:
    return str(device.property_dict.get(name) or "")


def _label(device: Any) -> str:
    return f"{_property(device, 'serial_number') or _property(device, 'id_')} ({_property(device, 'vendor')} {_property(device, 'model')})"


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
