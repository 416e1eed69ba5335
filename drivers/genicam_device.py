"""`GenicamDevice`: one open GenICam device and its data stream; how it is found, opened and given back."""

import ctypes
import logging
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from drivers.camera import CameraError
from drivers.genicam_chunks import Chunks
from drivers.genicam_features import DEVICE_ERRORS, Features, words
from drivers.gentl_revoke import bear_null_on_revoke

with warnings.catch_warnings():  # importing harvesters replaces the filters of the whole process
    import harvesters.core
    from genicam import gentl
    from harvesters.core import Callback, Harvester, ImageAcquirer, ParameterKey, ParameterSet

# It measures its time-outs with the wall clock: set back by NTP, a fetch of 1 ms would take as long as that.
harvesters.core.time = SimpleNamespace(time=time.monotonic, sleep=time.sleep)

NUM_BUFFERS = 8
ACCESS = {
    2: " (it can only be read)",
    3: " (it gives no access: another program or another computer has it)",
    4: " (busy: another program or another computer has it)",
    5: " (open in this very process)",
    6: " (open in this very process, only to be read)",
}
"""GenTL's DEVICE_ACCESS_STATUS, as far as it keeps a device from being opened."""


class GenicamDevice:
    """An open device. Only one process and one object can hold it, and one process loads a producer once at a time.

    Attributes:
        identity: its `vendor`, `model` and `serial_number`.
        features: what can be set and read.
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
        self.features: Features
        usable = [*self._usable(producers)]
        if not usable:
            raise CameraError("; ".join(self._remarks.last))
        self._harvester: Any = Harvester(config=ParameterSet({ParameterKey.LOGGER: self._remarks.logger}))
        try:
            for producer in usable:
                self._harvester.add_file(str(producer))
            self._harvester.update()
            self.identity = self._open(list(self._harvester.device_info_list))
        except BaseException:
            self.close()
            raise

    def _usable(self, producers: Sequence[Path]) -> Iterator[Path]:
        """Those that can be loaded; of each other a remark, for the camera may hang at one of these."""
        for producer in producers:
            try:
                refuse_unless_producer(producer)
            except CameraError as error:
                self._remarks.last.append(str(error))
            else:
                yield producer

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

    def chunks(self) -> Chunks | None:
        """What reads the chunk data of the frames from now on; None when the device is not in chunk mode. Raises one of DEVICE_ERRORS."""
        if not self.features.read("ChunkModeActive"):
            return None
        return Chunks(self._acquirer.remote_device.node_map, str(self._acquirer.device.tl_type))

    def probe(self) -> None:
        """Asks the device itself for a value: an unplugged one shows in no other way. Raises one of DEVICE_ERRORS."""
        self.features.read_anew("Width")

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

    def _open(self, devices: list[Any]) -> dict[str, str]:
        """Opens the first candidate that turns out to be the wanted device; returns its identity."""
        for device in self._candidates(devices):
            if not self._attempt(device):
                continue
            nodes = self._acquirer.remote_device.node_map
            features = Features(nodes, _property(device, "vendor") or str(_value(nodes, "DeviceVendorName") or ""))
            serial_number = features.read("DeviceSerialNumber")
            if self._is_wanted(device, serial_number):
                self.features = features
                self._acquirer.add_callback(ImageAcquirer.Events.INCOMPLETE_BUFFER, self._incomplete)
                for stream in self._acquirer.data_streams:
                    bear_null_on_revoke(stream)
                told = str(serial_number or _property(device, "serial_number"))
                return {"vendor": _property(device, "vendor"), "model": _property(device, "model"), "serial_number": told}
            self._remarks.last.append(f"{_label(device)} was opened and says that its serial number is {serial_number}")
            self._acquirer.destroy()
            self._acquirer = None
        there = "; ".join(map(_label, devices)) or "none"
        wanted = (
            f"device {self._serial_number} cannot be opened" if self._serial_number else "exactly one device is needed, or a serial number"
        )
        raise CameraError("; ".join([f"{wanted}. Devices there: {there}", *self._remarks.last]))

    def _candidates(self, devices: list[Any]) -> list[Any]:
        """What may be the wanted device, by the first rule that finds any; seen through two producers it is taken from the first."""
        if not self._serial_number:
            return devices[:1] if len({_property(device, "serial_number") or _label(device) for device in devices}) == 1 else []
        for names in (("serial_number",), ("user_defined_name",)):
            if found := [device for device in devices if self._serial_number in [_property(device, name) for name in names]]:
                return found[:1]
        silent = [device for device in devices if not _property(device, "serial_number")]
        for device in silent:  # Daheng's id holds the MAC address, its interface lists the serial numbers (Harvesters issues 471 and 412)
            if any(self._serial_number in _property(device, name) for name in ("id_", "display_name")):
                return [device]
            if _listed_serial_number(device) == self._serial_number:
                return [device]
        return silent

    def _attempt(self, device: Any) -> bool:
        """Opens the device for itself alone; one that is held, or does not open, is left with a remark that says why."""
        try:
            self._acquirer = self._create(device)
        except (gentl.AccessDeniedException, gentl.ResourceInUseException):
            self._remarks.last.append(f"{_label(device)} is held by another program{access_words(device)}")
            return False
        except DEVICE_ERRORS as error:
            self._remarks.last.append(f"{_label(device)}: {words(error)}")
            return False
        return True

    def _create(self, device: Any) -> Any:
        handler = signal.getsignal(signal.SIGINT)
        try:
            # Left to itself, Harvesters raises while it fetches a buffer whose chunks are broken, and never queues it again.
            options = {ParameterKey.NUM_BUFFERS_FOR_FETCH_CALL: NUM_BUFFERS, ParameterKey.ENABLE_AUTO_CHUNK_DATA_UPDATE: False}
            return self._harvester.create(device, config=ParameterSet(options))
        finally:  # Harvesters installs its own, which swallows Ctrl-C
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)

    def _is_wanted(self, device: Any, serial_number: str | None) -> bool:
        """Whether the device just opened, which tells this serial number, is the one asked for."""
        told, wanted = _property(device, "serial_number"), self._serial_number
        if not wanted or wanted in (serial_number or told, _property(device, "user_defined_name")):
            return True
        return not told and any(wanted in _property(device, name) for name in ("id_", "display_name"))


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


def _kill_streams(acquirer: Any) -> None:
    for stream in acquirer.data_streams:
        with suppress(Exception):
            stream.stop_acquisition(gentl.ACQ_STOP_FLAGS_LIST.ACQ_STOP_FLAGS_KILL)
        with suppress(Exception):
            stream.flush_buffer_queue(gentl.ACQ_QUEUE_TYPE_LIST.ACQ_QUEUE_ALL_DISCARD)


def refuse_unless_producer(path: Path) -> None:
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


def access_words(device: Any) -> str:
    """How the producer says that the device can be opened now, to follow a name; empty where it does not say."""
    with suppress(*DEVICE_ERRORS):
        return ACCESS.get(int(device.access_status), "")
    return ""


def _listed_serial_number(device: Any) -> str:
    """The serial number that the interface's own features list for a device; empty where they do not."""
    nodes = device.parent.node_map
    with suppress(AttributeError, *DEVICE_ERRORS):  # it may have no map, or an empty one, and any of the features or none
        selector = nodes.get_node("DeviceSelector")
        for index in range(selector.min, selector.max + 1):
            selector.value = index
            if _value(nodes, "DeviceID") == _property(device, "id_"):
                return str(_value(nodes, "DeviceSerialNumber") or "")
    return ""


def _value(nodes: Any, name: str) -> Any:
    return nodes.get_node(name).value if nodes.has_node(name) else None
