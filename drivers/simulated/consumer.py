"""The smallest GenTL consumer: shows what a producer sends, unfiltered. It needs the standard library and a producer, nothing else.

Numbers are of the GenICam GenTL standard 1.5, chapter 6. Features are found in the camera's description without GenApi: names whose value
is a register, as all are in the simulated cameras.
"""

import ctypes
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zlib import crc32

BUFFERS = 8
_TIMEOUT, _NEW_BUFFER, _EXCLUSIVE, _FLUSH_ALL_DISCARD = -1011, 1, 4, 4
_DEVICE_INFO = {"id": 0, "vendor": 1, "model": 2, "transport": 3, "display": 4, "serial": 7}
_BUFFER_INFO = {"frame_id": 16, "timestamp": 3, "width": 10, "height": 11, "filled": 9, "format": 20, "incomplete": 7, "larger": 29}
_NAMESPACE = "{http://www.genicam.org/GenApi/Version_1_1}"


class GenTLError(Exception):
    """A call of the producer failed; the message is the producer's, with the call's name."""

    def __init__(self, call: str, code: int, text: str) -> None:
        """`code` is one of the standard's error codes, which are negative."""
        super().__init__(f"{call}: {text} ({code})")
        self.code = code


@dataclass(frozen=True, slots=True)
class SeenFrame:
    """One buffer as the producer describes it; what it does not tell is None. `crc` is over the bytes that it says are filled."""

    frame_id: int | None
    timestamp: int | None
    width: int | None
    height: int | None
    filled: int | None
    format: int | None
    incomplete: int | None
    larger: int | None
    crc: int


class Producer:
    """A loaded producer with its first interface open. A process loads one once."""

    def __init__(self, path: Path) -> None:
        """Loads and initializes it.

        Raises:
            GenTLError: it refuses.
            OSError: it cannot be loaded.
        """
        self._library = ctypes.CDLL(str(path))
        self._closing = ExitStack()
        self.call("GCInitLib")
        self._closing.callback(self.call, "GCCloseLib")
        system = self._handle("TLOpen", "TLClose")
        self.call("TLUpdateInterfaceList", system, None, ctypes.c_uint64(1000))
        name = self.text("TLGetInterfaceID", system, 0)
        self._interface = self._handle("TLOpenInterface", "IFClose", system, name)

    def close(self) -> None:
        """Gives everything back."""
        self._closing.close()

    def devices(self) -> list[dict[str, str | None]]:
        """What the producer tells of each device now, by the keys of `_DEVICE_INFO`. Raises GenTLError."""
        self.call("IFUpdateDeviceList", self._interface, None, ctypes.c_uint64(1000))
        count = ctypes.c_uint32()
        self.call("IFGetNumDevices", self._interface, ctypes.byref(count))
        return [self._device(self.text("IFGetDeviceID", self._interface, index)) for index in range(count.value)]

    @contextmanager
    def open(self, device_id: str) -> Iterator["Device"]:
        """The open device. Raises GenTLError."""
        handle = ctypes.c_void_p()
        self.call("IFOpenDevice", self._interface, device_id.encode(), _EXCLUSIVE, ctypes.byref(handle))
        try:
            yield Device(self, handle)
        finally:
            self.call("DevClose", handle)

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function of GenTL. Raises GenTLError."""
        code = getattr(self._library, name)(*arguments)
        if code:
            text, size = ctypes.create_string_buffer(512), ctypes.c_size_t(512)
            self._library.GCGetLastError(None, text, ctypes.byref(size))
            raise GenTLError(name, code, text.value.decode(errors="replace"))

    def text(self, name: str, *arguments: Any) -> bytes:
        """The answer of a function that gives a text. Raises GenTLError."""
        text, size = ctypes.create_string_buffer(1024), ctypes.c_size_t(1024)
        self.call(name, *arguments, text, ctypes.byref(size))
        return text.value

    def _handle(self, opens: str, closes: str, *arguments: Any) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self.call(opens, *arguments, ctypes.byref(handle))
        self._closing.callback(self.call, closes, handle)
        return handle

    def _device(self, device_id: bytes) -> dict[str, str | None]:
        def told(command: int) -> str | None:
            try:
                return self.text("IFGetDeviceInfo", self._interface, device_id, command, ctypes.byref(ctypes.c_int32())).decode()
            except GenTLError:
                return None

        return {key: told(command) for key, command in _DEVICE_INFO.items()}


class Device:
    """An open device: its features and its frames."""

    def __init__(self, producer: Producer, handle: ctypes.c_void_p) -> None:
        """Reads the description. Raises GenTLError."""
        self._producer, self._device = producer, handle
        self._port = ctypes.c_void_p()
        producer.call("DevGetPort", handle, ctypes.byref(self._port))
        url = producer.text("GCGetPortURLInfo", self._port, 0, 0, ctypes.byref(ctypes.c_int32())).decode()
        _, address, size = url.partition("?")[0].split(";")
        tree = ElementTree.fromstring(self._read(int(address, 16), int(size, 16)))
        self._nodes = {node.attrib["Name"]: node for node in tree.iter() if "Name" in node.attrib and node.tag != f"{_NAMESPACE}EnumEntry"}

    def write(self, name: str, text: str) -> None:
        """Writes a feature: a number, or the name of an entry.

        Raises:
            GenTLError: the camera refuses.
            ValueError: there is no such feature, or it takes something else.
        """
        node = self._nodes.get(name)
        register = self._nodes.get(node.findtext(f"{_NAMESPACE}pValue") or "") if node is not None else None
        if node is None or register is None:
            raise ValueError(f"{name}: the camera has no such feature to write; its description names {', '.join(self._features())}")
        entries = {entry.attrib["Name"]: entry.findtext(f"{_NAMESPACE}Value") or "" for entry in node.iter(f"{_NAMESPACE}EnumEntry")}
        if entries and text not in entries:
            raise ValueError(f"{name}: {text} is none of {', '.join(entries)}")
        code = "<d" if register.tag == f"{_NAMESPACE}FloatReg" else "<q"
        value = float(text) if code == "<d" else int(entries.get(text, text), 0)
        self._write(int(register.findtext(f"{_NAMESPACE}Address") or "", 16), struct.pack(code, value))

    def read_text(self, name: str) -> str:
        """The value of a feature that is a text. Raises GenTLError, or KeyError where there is none."""
        register = self._nodes[name]
        address, length = (register.findtext(f"{_NAMESPACE}{tag}") or "" for tag in ("Address", "Length"))
        return self._read(int(address, 16), int(length)).rstrip(b"\0").decode()

    def execute(self, name: str) -> None:
        """Executes a command. Raises as `write`."""
        self.write(name, "1")

    @contextmanager
    def stream(self) -> Iterator["Stream"]:
        """Acquires while it is entered. Raises GenTLError."""
        producer, handle = self._producer, ctypes.c_void_p()
        name = producer.text("DevGetDataStreamID", self._device, 0)
        producer.call("DevOpenDataStream", self._device, name, ctypes.byref(handle))
        try:
            stream = Stream(producer, handle, self._payload_size())
            self.execute("AcquisitionStart")
            try:
                yield stream
            finally:
                stream.stop(lambda: self.execute("AcquisitionStop"))
        finally:
            producer.call("DSClose", handle)

    def _features(self) -> Sequence[str]:
        return sorted(name for name, node in self._nodes.items() if node.find(f"{_NAMESPACE}pValue") is not None)

    def _payload_size(self) -> int:
        register = self._nodes[self._nodes["PayloadSize"].findtext(f"{_NAMESPACE}pValue") or ""]
        (size,) = struct.unpack("<q", self._read(int(register.findtext(f"{_NAMESPACE}Address") or "", 16), 8))
        return int(size)

    def _read(self, address: int, size: int) -> bytes:
        memory = ctypes.create_string_buffer(size)
        self._producer.call("GCReadPort", self._port, ctypes.c_uint64(address), memory, ctypes.byref(ctypes.c_size_t(size)))
        return memory.raw

    def _write(self, address: int, data: bytes) -> None:
        self._producer.call("GCWritePort", self._port, ctypes.c_uint64(address), data, ctypes.byref(ctypes.c_size_t(len(data))))


class Stream:
    """The frames of a device that acquires."""

    def __init__(self, producer: Producer, handle: ctypes.c_void_p, payload_size: int) -> None:
        """Announces and queues buffers and starts. Raises GenTLError."""
        self._producer, self._stream = producer, handle
        self._memory = [ctypes.create_string_buffer(payload_size) for _ in range(BUFFERS)]
        self._tokens: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self._event = ctypes.c_void_p()
        producer.call("GCRegisterEvent", handle, _NEW_BUFFER, ctypes.byref(self._event))
        for memory in self._memory:
            token = ctypes.c_void_p()
            producer.call("DSAnnounceBuffer", handle, memory, ctypes.c_size_t(payload_size), None, ctypes.byref(token))
            producer.call("DSQueueBuffer", handle, token)
            self._tokens[token.value or 0] = memory
        producer.call("DSStartAcquisition", handle, 0, ctypes.c_uint64(2**64 - 1))

    def fetch(self, timeout_ms: int) -> SeenFrame | None:
        """The next frame as the producer tells it, or None when none came in time. Raises GenTLError."""
        data = (ctypes.c_void_p * 2)()
        try:
            size = ctypes.c_size_t(ctypes.sizeof(data))
            self._producer.call("EventGetData", self._event, data, ctypes.byref(size), ctypes.c_uint64(timeout_ms))
        except GenTLError as error:
            if error.code != _TIMEOUT:
                raise
            return None
        token = data[0] or 0
        told = {key: self._told(token, command) for key, command in _BUFFER_INFO.items()}
        frame = SeenFrame(**told, crc=crc32(memoryview(self._tokens[token])[: told["filled"] or 0]))
        self._producer.call("DSQueueBuffer", self._stream, ctypes.c_void_p(token))
        return frame

    def stop(self, stop_camera: Callable[[], None]) -> None:
        """Stops the camera and the stream and takes the buffers back. Raises GenTLError."""
        stop_camera()
        self._producer.call("DSStopAcquisition", self._stream, 0)
        self._producer.call("DSFlushQueue", self._stream, _FLUSH_ALL_DISCARD)
        for token in self._tokens:
            self._producer.call("DSRevokeBuffer", self._stream, ctypes.c_void_p(token), None, None)

    def _told(self, token: int, command: int) -> int | None:
        value, size = ctypes.c_uint64(), ctypes.c_size_t(8)
        kind = ctypes.byref(ctypes.c_int32())
        try:
            where = ctypes.byref(value)
            self._producer.call("DSGetBufferInfo", self._stream, ctypes.c_void_p(token), command, kind, where, ctypes.byref(size))
        except GenTLError:
            return None
        return value.value
