"""The MCAP file under a recording: parts and their frames written as they come, walked in order up to where a crash cut the file.

The file has no chunks, profile `station`, and one metadata record `station.recording` at its start. Channel `part` carries one JSON
object for each part; channel `frame` carries coded pixels, each message right before the part that describes it and with its number.

Pixels are delta-coded along rows with wrap-around (Mono by the neighbour, Bayer by the nearest of the same colour, others not) and
compressed with zstd level 1: about half the size of the raw frame at some milliseconds each way.
"""

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import SEEK_END, BufferedWriter, BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Message, Metadata
from mcap.writer import MCAP0_MAGIC, Writer

from drivers.camera import Frame, Pixels

FORMAT_VERSION = 1
PROFILE = "station"
METADATA = "station.recording"
FRAME, PART = "frame", "part"
ZSTD_LEVEL = 1

_RECORD = struct.Struct("<BQ")
"""What every MCAP record begins with: opcode and length of the body."""
_MESSAGE = struct.Struct("<HIQQ")
"""What a message's body begins with: channel id, sequence, log time, publish time."""


class RecordingError(Exception):
    """A recording cannot be read or written; the message says which file, what failed and what to do."""


class Tape:
    """A file being written. What `add` returned from has left this process and survives its death, not a loss of power.

    Every method raises `OSError` when the disk is full or broken.
    """

    def __init__(self, file: BufferedWriter, opening: dict[str, str]) -> None:
        self._file = file
        self._writer = Writer(file, use_chunking=False)
        self._writer.start(PROFILE)
        self._writer.add_metadata(METADATA, opening | {"version": str(FORMAT_VERSION)})
        self._frame_channel = self._writer.register_channel(FRAME, "delta+zstd", schema_id=0)
        self._part_channel = self._writer.register_channel(PART, "json", schema_id=0)
        file.flush()

    def add(self, number: int, at_ns: int, part: bytes, payload: bytes | None) -> None:
        """Appends a part and the coded pixels of its frame, if it has one."""
        if payload is not None:
            self._writer.add_message(self._frame_channel, at_ns, payload, at_ns, number)
        self._writer.add_message(self._part_channel, at_ns, part, at_ns, number)
        self._file.flush()

    def finish(self) -> None:
        """Writes what makes the file complete."""
        self._writer.finish()  # type: ignore[no-untyped-call]
        self._file.flush()


def opening(path: Path) -> dict[str, str]:
    """The metadata a recording was begun with.

    Raises:
        RecordingError: there is no recording, or one of a newer format.
    """
    with _reading(path):
        for file, opcode, length in _bodies(path):
            if opcode == Opcode.METADATA:
                record = Metadata.read(_body(file, length))
                if record.name == METADATA:
                    return _known(path, record.metadata)
    raise RecordingError(f"{path}: is no recording of a station, or was cut before its header ended")


def walk(path: Path, pixels: bool = True) -> Iterator[tuple[str, Message]]:
    """Every message with its topic, in order, up to the end or to where the file was cut. `pixels` False: frames come without data.

    Raises:
        RecordingError: the file cannot be read, or its structure is damaged.
    """
    topics: dict[int, str] = {}
    with _reading(path):
        for file, opcode, length in _bodies(path):
            if opcode == Opcode.CHANNEL:
                channel = Channel.read(_body(file, length))
                topics[channel.id] = channel.topic
            elif opcode == Opcode.MESSAGE:
                channel_id, number, log_time, publish_time = _MESSAGE.unpack(file.read(_MESSAGE.size))
                topic = topics.get(channel_id, "")
                data = file.read(length - _MESSAGE.size) if pixels or topic != FRAME else b""
                yield topic, Message(channel_id=channel_id, sequence=number, log_time=log_time, publish_time=publish_time, data=data)
            elif opcode == Opcode.CHUNK:
                raise RecordingError(f"{path}: was rewritten in chunks by another tool; use the file as the station wrote it")


def complete(path: Path) -> bool:
    """Says whether the file was closed, not cut.

    Raises:
        RecordingError: the file cannot be read.
    """
    with _reading(path), path.open("rb") as file:
        file.seek(-len(MCAP0_MAGIC), SEEK_END)
        return file.read() == MCAP0_MAGIC


def encode(frame: Frame) -> tuple[dict[str, Any], bytes]:
    """The JSON-able description of a frame, and its coded pixels."""
    pixels = cast(Pixels, np.ascontiguousarray(frame.pixels))
    distance = _colour_distance(frame)
    coded = pixels.copy()
    if distance:
        np.subtract(pixels[:, distance:], pixels[:, :-distance], out=coded[:, distance:])
    description = {
        "pixel_format": frame.pixel_format,
        "frame_id": frame.frame_id,
        "missed": frame.missed,
        "captured_ns": frame.captured_ns,
        "dtype": pixels.dtype.str,
        "shape": pixels.shape,
        "delta": distance,
        "sha256": hashlib.sha256(pixels.data).hexdigest(),
    }
    return description, zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(coded.data)


def decode(description: dict[str, Any], payload: bytes) -> Frame:
    """The frame that was encoded, bit by bit, its pixels read-only.

    Raises:
        ValueError, KeyError, TypeError, zstandard.ZstdError: these are not a frame's description and pixels, or no longer.
    """
    dtype, distance = np.dtype(description["dtype"]), description["delta"]
    coded: Pixels = np.frombuffer(zstandard.ZstdDecompressor().decompress(payload), dtype).reshape(description["shape"])
    pixels = np.empty_like(coded) if distance else coded
    for start in range(distance):
        np.cumsum(coded[:, start::distance], axis=1, dtype=dtype, out=pixels[:, start::distance])
    if hashlib.sha256(pixels.data).hexdigest() != description["sha256"]:
        raise ValueError("its pixels are not those that were recorded (SHA-256 differs)")
    pixels.flags.writeable = False
    return Frame(pixels, description["pixel_format"], description["frame_id"], description["missed"], description["captured_ns"])


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the operating system refuses into a `RecordingError` that names the file."""
    try:
        yield
    except FileExistsError as error:
        raise RecordingError(f"{error.filename or path}: is there already; name another, or move it away") from error
    except OSError as error:
        raise RecordingError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (McapError, ValueError, struct.error) as error:
        raise RecordingError(f"{path}: is damaged: {error}") from error


def _bodies(path: Path) -> Iterator[tuple[BinaryIO, int, int]]:
    """Every whole record: the file at the record's body, its opcode, and the body's length in bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(MCAP0_MAGIC)) != MCAP0_MAGIC:
            raise RecordingError(f"{path}: is no recording (not an MCAP file)")
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            opcode, length = _RECORD.unpack(head)
            end = file.tell() + length
            if end > size or opcode == Opcode.DATA_END:
                return
            yield file, opcode, length
            file.seek(end)


def _body(file: BinaryIO, length: int) -> ReadDataStream:
    return ReadDataStream(BytesIO(file.read(length)))


def _known(path: Path, metadata: dict[str, str]) -> dict[str, str]:
    version = metadata["version"]
    if int(version) > FORMAT_VERSION:
        raise RecordingError(
            f"{path}: has format {version}, this station reads {FORMAT_VERSION}; it was written by a newer station: use that one"
        )
    return metadata


def _colour_distance(frame: Frame) -> int:
    """How many pixels to the left the nearest one of the same colour is; 0 for colour pixels."""
    if frame.pixels.ndim != 2:
        return 0
    return 2 if frame.pixel_format.startswith("Bayer") else 1
